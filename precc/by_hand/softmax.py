"""The softmax in two passes over its values, for float32 and 16 bits."""

from importlib.util import find_spec

import torch
from torch import Tensor

from precc.backends.triton.templates.softmax import softmax_rows
from precc.backends.triton.toolchain import device_of
from precc.errors import FormatError
from precc.exp_pairs import softmax_of_pairs
from precc.warn_caller import warn_caller

__all__ = ["softmax_two_pass"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def softmax_two_pass(x: Tensor, dim: int = -1) -> Tensor:
    """``softmax(x)`` without a pass that finds the maximum: each ``e**x`` is a significand and an exponent.

    Two reads and one write, where three passes take one read more (Dukhan and Ablavatski 2020, arXiv 2001.04438).
    Nothing overflows, whatever the values: a float32 result is within 3 units in the last place of the exact one where
    that is a normal number (`torch.softmax` rounds ``x - max``, which costs up to a hundred). As there, a row of -inf
    alone is NaN, and one with inf or NaN. On a GPU it is a Triton kernel, elsewhere tensor operations; both have the
    same bits but for the order of sums in float64.

    Args:
        x: float32, bfloat16 or float16, of any shape.
        dim: along which dimension the results sum to 1.

    Raises:
        FormatError: another dtype, no such dimension, or a tensor that records gradients.

    >>> softmax_two_pass(torch.tensor([1e30, 1e30, 0.0]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    _check(x, dim)
    with torch.no_grad():
        if not x.numel():
            return torch.empty_like(x)
        values = x.resolve_neg()
        if not x.dim():
            return _of_rows(values[None])[0]
        return _of_rows(values.movedim(dim, -1).contiguous()).movedim(-1, dim)


def _of_rows(rows: Tensor) -> Tensor:
    if rows.device.type != "cuda" or not _has_triton():
        return softmax_of_pairs(rows)
    return softmax_rows(rows.reshape(-1, rows.shape[-1]), device_of(rows)).reshape(rows.shape)


def _has_triton() -> bool:
    there = find_spec("triton") is not None
    if not there:
        warn_caller(
            "softmax_two_pass computes by tensor operations, for triton is missing: pip install 'precc[triton]'"
        )
    return there


def _check(x: Tensor, dim: int) -> None:
    if not isinstance(x, Tensor) or x.layout is not torch.strided:
        raise FormatError(f"softmax_two_pass takes a dense tensor, not {getattr(x, 'layout', type(x).__name__)}")
    if x.dtype not in _DTYPES:
        raise FormatError(f"softmax_two_pass takes float32, bfloat16 and float16 tensors, not {x.dtype}")
    if type(dim) is not int or not -max(1, x.dim()) <= dim < max(1, x.dim()):
        raise FormatError(f"a tensor of shape {list(x.shape)} has no dimension {dim!r}")
    if x.requires_grad and torch.is_grad_enabled():
        raise FormatError("softmax_two_pass has no derivative: pass x.detach(), or call it under torch.no_grad()")
