"""Rounding of whole tensors by the kernels of a cast, and the operator that rounds so in graphs."""

import torch
from torch import Tensor

from precc.backends.triton.alike_rows import alike
from precc.backends.triton.device import Device
from precc.backends.triton.program import LiveRow
from precc.backends.triton.templates.cast_copies import Copy
from precc.backends.triton.templates.cast_kernels import kernels_of
from precc.backends.triton.toolchain import device_of
from precc.errors import BackendError
from precc.round_op import define_rounding, round_as_planned
from precc.rounding import Row, quantize
from precc.warn_caller import warn_caller

__all__ = ["ROUND_TRITON", "round_triton"]


def round_triton(x: Tensor, row: Row, key: int = 0, device: Device | None = None) -> Tensor:
    """`quantize` by a generated kernel, bit for bit; `x` itself where nothing changes.

    Args:
        x: values, in the memory of a GPU, or of the processor under Triton's interpreter.
        row: the precision.
        key: of the stochastic bits.
        device: that the tiles are for; by default that of `x`.

    Raises:
        BackendError: no kernel rounds so; the message says why.
        FormatError: as `quantize`.
    """
    if row.is_identity(x.dtype):
        return x
    if row.lacks_history:
        return quantize(x, row, key)  # it says so
    values = x.detach().resolve_neg()
    copy = Copy(alike(row, x.dtype), tuple(range(x.dim())), strides=torch.empty_like(values, device="meta").stride())
    device = device_of(values) if device is None else device
    kernels = kernels_of(tuple(x.shape), values.stride(), x.dtype, (copy,), device, "rounded")
    (result,) = kernels(values, [LiveRow(row, None, key, row.slot)])
    return result


def _or_tensor_ops(x: Tensor, row: Row, key: int) -> Tensor:
    try:
        return round_triton(x, row, key)
    except BackendError as error:
        warn_caller(f"a rounding is computed by tensor operations, with the same result: {error}")
        return quantize(x, row, key)


def _round(x: Tensor, plan: Tensor, row: int) -> Tensor:
    return round_as_planned(x, plan, row, _or_tensor_ops)


#: Rounding as an operator, for nodes outside of groups; with a warning by tensor operations where no kernel does.
ROUND_TRITON = define_rounding("round_triton", _round)
