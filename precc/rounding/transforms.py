"""Transforms of a tensor before it is rounded: the random Hadamard transform, and shift-and-squeeze.

As an option of a slot they are computed by tensor operations on every backend, so that the bits agree. Those of
shift-and-squeeze are of one machine: its logarithms and powers are torch's, whose last bits depend on the processor.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.errors import FormatError
from precc.formats import Transform
from precc.rounding.random_bits import checked_seed, hashed
from precc.rounding.row import Row

__all__ = ["ShiftSqueeze", "random_hadamard", "transformed"]

_SIZE = 16


def transformed(x: Tensor, row: Row, key: int, rounding: Callable[[Tensor, Row, int], Tensor]) -> Tensor:
    """``rounding(x, row, key)`` of the transformed tensor; where the row has no transform, of the tensor itself.

    A tensor with a NaN or an infinity that is to be squeezed becomes NaN as a whole.
    """
    if row.transform is None:
        return rounding(x, row, key)
    if row.transform is Transform.HADAMARD:
        return rounding(_mixed(x, row.signs, row.mixed), row, key).to(x.dtype)  # rounded to that dtype once, in the end
    if not bool(x.isfinite().all()):
        return torch.full_like(x, math.nan)
    values = x.contiguous()  # the library's powers may depend on strides
    bend = ShiftSqueeze.of(values)
    return bend.restore(rounding(bend.squeeze(values), row, key))


def random_hadamard(x: Tensor, *, seed: int, axis: int = -1) -> Tensor:
    """``H D x / 4`` in each group of 16 neighbours along `axis`, `D` a diagonal of random signs (NVFP4; NVIDIA 2025).

    The transform is orthogonal and, with one seed, the same for both operands of a product: with `axis` the dimension
    over which the product sums, ``a @ b.T == random_hadamard(a) @ random_hadamard(b).T`` in exact arithmetic, while an
    outlier is spread over its group before it is rounded. A last group of fewer than 16 stays as it is. Sums run in
    four butterfly stages in float64 for float64, else in float32: each of the four adds a relative error of u at most.

    Args:
        x: floating-point tensor; the result has its shape and dtype.
        seed: of the signs, 16 for all groups.
        axis: the dimension of the groups.

    Raises:
        FormatError: not a floating-point tensor, or without such a dimension.

    >>> x = torch.zeros(16); x[3] = 8.0
    >>> random_hadamard(x, seed=1).abs().tolist() == [2.0] * 16
    True
    """
    if not isinstance(x, Tensor) or x.layout is not torch.strided or not x.is_floating_point():
        raise FormatError(f"a Hadamard transform takes a dense tensor of floats, not {_kind(x)}")
    if type(axis) is not int or not -x.dim() <= axis < x.dim():
        raise FormatError(f"a Hadamard transform along axis {axis!r} of a tensor of shape {list(x.shape)}")
    return _mixed(x, checked_seed(seed), axis).to(x.dtype)


def _kind(x: object) -> str:
    return f"a {x.layout} tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__


def _mixed(x: Tensor, seed: int, axis: int) -> Tensor:
    """The transform, in float64 of float64, else in float32."""
    moved = x.movedim(axis, -1)
    whole = moved.shape[-1] // _SIZE * _SIZE
    moved = moved.to(torch.promote_types(x.dtype, torch.float32))
    groups = moved[..., :whole]
    groups = groups.reshape(*groups.shape[:-1], whole // _SIZE, _SIZE) * _signs(seed, groups)
    for stage in range(int(math.log2(_SIZE))):
        groups = groups if stage % 2 else groups / 2  # before it grows, or it overflows where the result does not
        pairs = groups.unflatten(-1, (-1, 2, 2**stage))
        first, second = pairs.unbind(-2)
        groups = torch.stack([first + second, first - second], -2).flatten(-3)
    return torch.cat([groups.flatten(-2), moved[..., whole:]], -1).movedim(-1, axis).contiguous()


def _signs(seed: int, like: Tensor) -> Tensor:
    bits = hashed(_SIZE, seed, 0, like.device) >> 31
    return (1 - 2 * bits).to(like.dtype)


@dataclass(frozen=True, slots=True)
class ShiftSqueeze:
    """``x' = sign(x) 2**beta |x|**alpha`` and back (S2FP8; Cambier et al. 2020, eq. 1 to 3).

    Chosen so that ``log2 |x'|`` of the non-zero values has mean 0 and maximum 15, which e5m2 holds. Powers are taken
    in float64, with a relative error below ``2**-40``; storing x' in the dtype of x adds its u, which `restore`
    multiplies by ``1 / alpha``.

    >>> x = torch.tensor([1e-12, -3e-10, 2e-9])
    >>> ShiftSqueeze.of(x).squeeze(x).abs().max().item()
    32768.0
    """

    alpha: float
    beta: float

    @classmethod
    def of(cls, x: Tensor) -> "ShiftSqueeze":
        """The transform of a tensor; where all magnitudes are equal it only shifts.

        Raises:
            FormatError: not a dense tensor of floats, or one with a NaN or an infinity.
        """
        if not isinstance(x, Tensor) or x.layout is not torch.strided or not x.is_floating_point():
            raise FormatError(f"shift-and-squeeze takes a dense tensor of floats, not {_kind(x)}")
        magnitude = x.detach().double().abs()
        if not bool(magnitude.isfinite().all()):
            raise FormatError("shift-and-squeeze needs finite values; the tensor has a NaN or an infinity")
        logs = magnitude[magnitude > 0].log2()
        if not logs.numel():
            return cls(1.0, 0.0)
        mean, largest = float(logs.mean()), float(logs.max())
        alpha = 15.0 / (largest - mean) if largest - mean > 1e-9 else 1.0
        return cls(alpha, -alpha * mean)

    def squeeze(self, x: Tensor) -> Tensor:
        """The transformed values, in the dtype of `x`."""
        return self._bent(x, self.alpha, self.beta)

    def restore(self, squeezed: Tensor) -> Tensor:
        """The values of which these are the transform."""
        return self._bent(squeezed, 1 / self.alpha, -self.beta / self.alpha)

    @staticmethod
    def _bent(x: Tensor, power: float, shift: float) -> Tensor:
        values = x.double()
        bent = torch.exp2(values.abs().log2() * power + shift)
        return torch.where(values == 0, values, torch.copysign(bent, values)).to(x.dtype)
