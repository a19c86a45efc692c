"""Rounding to a format, exactly, with tensor operations on the bits of the carrier.

The carrier is the type the values travel in: float64 for float64 tensors, else float32, with M = 52 or
23 stored significand bits. For ``|x|`` in the format's normal range the last ``M - m`` bits of the
carrier are rounded away as an integer, to nearest, ties to even. Below it the quantum is the constant
``2**k_min``, and adding and subtracting ``2**(k_min + M)`` makes the hardware round to a multiple of
it. A result above ``largest`` becomes ``overflow_to``; NaN stays NaN; the sign of zero is kept.
"""

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from precc.errors import FormatError, UnsupportedError, expected_one_of
from precc.formats import FloatFormat, Overflow, parse_format

__all__ = ["ROW_WIDTH", "Row", "RoundingMode", "parse_rounding", "quantize", "round_row", "round_to"]


class RoundingMode(Enum):
    """Which neighbour on the grid a value goes to."""

    NEAREST_EVEN = "nearest_even"  #: the nearest, ties to an even significand (p = 1: away from zero)


def parse_rounding(rounding: RoundingMode | str) -> RoundingMode:
    """The rounding mode that a name means.

    Raises:
        FormatError: the name is unknown; the message lists the valid ones.
    """
    try:
        return RoundingMode(rounding)
    except ValueError:
        valid = expected_one_of(mode.value for mode in RoundingMode)
        raise FormatError(f"unknown rounding {rounding!r}: {valid}") from None


ROW_WIDTH = 4


@dataclass(frozen=True, slots=True)
class Row:
    """What a kernel reads of a format: one row of the live tensor of a plan."""

    mantissa_bits: int
    k_min: int
    largest: float
    overflow_to: float

    @classmethod
    def of(cls, fmt: FloatFormat) -> "Row":
        overflow_to = {
            Overflow.SATURATE: fmt.max,
            Overflow.INF: math.inf,
            Overflow.NAN: math.nan,
        }[fmt.overflow]
        return cls(fmt.mantissa_bits, fmt.k_min, fmt.max, overflow_to)

    @property
    def values(self) -> tuple[float, float, float, float]:
        return float(self.mantissa_bits), float(self.k_min), self.largest, self.overflow_to

    def is_identity(self, dtype: torch.dtype) -> bool:
        """Whether rounding changes no value that a tensor of this dtype can hold."""
        own = Row.of(parse_format(str(dtype).removeprefix("torch.")))
        return (
            self.mantissa_bits >= own.mantissa_bits
            and self.k_min <= own.k_min
            and self.largest >= own.largest
            and math.isinf(self.overflow_to)
        )


@dataclass(frozen=True, slots=True)
class _Carrier:
    dtype: torch.dtype
    integer: torch.dtype
    mantissa_bits: int
    bias: int

    @property
    def smallest_k(self) -> int:
        return 1 - self.bias - self.mantissa_bits

    @property
    def magnitude_mask(self) -> int:
        return int(torch.iinfo(self.integer).max)


_FLOAT32 = _Carrier(torch.float32, torch.int32, 23, 127)
_FLOAT64 = _Carrier(torch.float64, torch.int64, 52, 1023)
_CARRIERS = {
    torch.float64: _FLOAT64,
    torch.float32: _FLOAT32,
    torch.bfloat16: _FLOAT32,
    torch.float16: _FLOAT32,
}


def _carrier(x: Tensor) -> _Carrier:
    try:
        return _CARRIERS[x.dtype]
    except KeyError:
        valid = ", ".join(str(dtype).removeprefix("torch.") for dtype in _CARRIERS)
        raise FormatError(f"cannot round a {x.dtype} tensor: expected one of {valid}") from None


@dataclass(frozen=True, slots=True)
class _Scalars:
    """The row as the carrier's arithmetic needs it; Python numbers, or 0-dim tensors of a live plan."""

    dropped_bits: int | Tensor
    half: int | Tensor
    force_odd: int | Tensor  # 1 where ties must not look at the last kept bit: m = 0, or nothing dropped
    magic: float | Tensor  # 2**(k_min + M)
    smallest_normal: float | Tensor
    largest: float | Tensor
    overflow_to: float | Tensor


def _fixed_scalars(row: Row, carrier: _Carrier) -> _Scalars:
    m = min(row.mantissa_bits, carrier.mantissa_bits)
    k_min = max(row.k_min, carrier.smallest_k)
    dropped = carrier.mantissa_bits - m
    return _Scalars(
        dropped_bits=dropped,
        half=(1 << dropped) >> 1,
        force_odd=int(m == 0 or dropped == 0),
        magic=2.0 ** (k_min + carrier.mantissa_bits),
        smallest_normal=2.0 ** (k_min + m),
        largest=row.largest,
        overflow_to=row.overflow_to,
    )


def _live_scalars(row: Tensor, carrier: _Carrier) -> _Scalars:
    """The same numbers from a row of the plan, with operations that a compiled graph can hold."""
    m = row[0].to(carrier.integer).clamp(max=carrier.mantissa_bits)
    k_min = row[1].to(carrier.integer).clamp(min=carrier.smallest_k)
    dropped = carrier.mantissa_bits - m

    def power_of_two(exponent: Tensor) -> Tensor:
        return ((exponent + carrier.bias) << carrier.mantissa_bits).view(carrier.dtype)

    return _Scalars(
        dropped_bits=dropped,
        half=(torch.ones_like(dropped) << dropped) >> 1,
        force_odd=((m == 0) | (dropped == 0)).to(carrier.integer),
        magic=power_of_two(k_min + carrier.mantissa_bits),
        smallest_normal=power_of_two(k_min + m),
        largest=row[2].to(carrier.dtype),
        overflow_to=row[3].to(carrier.dtype),
    )


def _nearest_even(x: Tensor, scalars: _Scalars, carrier: _Carrier) -> Tensor:
    bits = x.view(carrier.integer)
    magnitude_bits = bits & carrier.magnitude_mask
    magnitude = magnitude_bits.view(carrier.dtype)
    last_kept = ((magnitude_bits >> scalars.dropped_bits) | scalars.force_odd) & 1
    carried = magnitude_bits + (scalars.half - 1 + last_kept)
    normal = ((carried >> scalars.dropped_bits) << scalars.dropped_bits).view(carrier.dtype)
    subnormal = (magnitude + scalars.magic) - scalars.magic
    rounded = torch.where(magnitude < scalars.smallest_normal, subnormal, normal)
    limited = torch.where(rounded > scalars.largest, scalars.overflow_to, rounded)
    signed = (limited.view(carrier.integer) | (bits ^ magnitude_bits)).view(carrier.dtype)
    return torch.where(x != x, x, signed)


def quantize(x: Tensor, row: Row) -> Tensor:
    """`x` on the grid of `row`, in the dtype of `x`; the same tensor where nothing can change.

    float16 and bfloat16 tensors are rounded in float32; a result that they cannot hold (a saturation
    value beyond their own precision) is then rounded once more by the conversion back.
    """
    carrier = _carrier(x)
    if row.is_identity(x.dtype):
        return x
    return _nearest_even(x.to(carrier.dtype), _fixed_scalars(row, carrier), carrier).to(x.dtype)


def round_row(x: Tensor, plan: Tensor, row: int) -> Tensor:
    """`x` on the grid of one row of a live plan; traceable, without looking at the plan's values."""
    carrier = _carrier(x)
    scalars = _live_scalars(plan[row], carrier)
    return _nearest_even(x.to(carrier.dtype), scalars, carrier).to(x.dtype)


def round_to(
    x: Tensor,
    format: FloatFormat | str,
    *,
    rounding: RoundingMode | str = RoundingMode.NEAREST_EVEN,
    seed: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Each element of `x` rounded to a number format, exactly; a new tensor of the same dtype.

    Args:
        x: float16, bfloat16, float32 or float64 tensor of any shape.
        format: a format or its name.
        rounding: only ``"nearest_even"`` so far.
        seed: for stochastic roundings, which this version does not have.
        out: a tensor of the shape, dtype and device of `x` that receives the result; may be `x` itself.

    Raises:
        FormatError: unknown format or rounding, a dtype that cannot be rounded, an `out` that does not fit.
        UnsupportedError: a seed was given.

    NaN stays NaN, the sign of zero is kept, overflow follows ``format.overflow``. Rounding has no useful
    derivative, so a tensor that records gradients is refused.

    >>> round_to(torch.tensor([1.06, -0.0, 500.0, 1e-3]), "e4m3").tolist()
    [1.0, -0.0, 448.0, 0.001953125]
    """
    fmt = parse_format(format)
    parse_rounding(rounding)
    if not isinstance(x, Tensor):
        raise FormatError(f"round_to takes a tensor, not {type(x).__name__}")
    if seed is not None:
        raise UnsupportedError("round_to(seed=...) is for stochastic rounding, which is not available yet")
    if x.requires_grad and torch.is_grad_enabled():
        raise FormatError(
            "round_to has no derivative: pass x.detach(), or call it under torch.no_grad(); "
            "to train through rounding use precc.compile"
        )
    if x.layout is not torch.strided:
        raise FormatError(f"cannot round a {x.layout} tensor: round its values()")
    if out is not None and out.requires_grad and torch.is_grad_enabled():
        raise FormatError("out records gradients: call round_to under torch.no_grad(), or pass out.detach()")
    if out is not None and (out.shape, out.dtype, out.device) != (x.shape, x.dtype, x.device):
        raise FormatError(
            f"out is {out.dtype}{list(out.shape)} on {out.device}, but x is {x.dtype}{list(x.shape)} on {x.device}"
        )
    with torch.no_grad():
        rounded = quantize(x.resolve_neg(), Row.of(fmt))
        if out is not None:
            return out.copy_(rounded)
        return rounded.clone() if rounded is x else rounded
