"""Rounding to a grid, exactly, with tensor operations on the bits of the carrier: the twin of every kernel.

The carrier is the type the values travel in: float64 for float64 tensors, else float32, with M = 52 or
23 stored significand bits. Above ``2**emin`` the last ``M - m`` bits of the carrier are rounded away as an
integer. Below, the quantum is the constant ``2**k_min``, and adding and subtracting ``2**(k_min + M)`` makes the
hardware round to a multiple of it. What leaves the format becomes `above` or `below`; NaN stays NaN.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from precc.errors import FormatError
from precc.formats import PowerLaw, ScaleRule
from precc.rounding.modes import RoundingMode
from precc.rounding.random_bits import hashed, truncated
from precc.rounding.row import Grid, Row, ScaleRow

__all__ = [
    "Carrier",
    "GridScalars",
    "carrier_of",
    "carrier_of_dtype",
    "nested_grid",
    "random_of",
    "round_elements",
    "round_grid",
]


@dataclass(frozen=True, slots=True)
class Carrier:
    """A floating type in which values are rounded, and the integers on which its bits are read."""

    dtype: torch.dtype
    integer: torch.dtype
    mantissa_bits: int
    bias: int

    @property
    def smallest_k(self) -> int:
        """Base-2 logarithm of its smallest quantum."""
        return 1 - self.bias - self.mantissa_bits

    @property
    def largest(self) -> float:
        """Its largest finite value."""
        return float(torch.finfo(self.dtype).max)

    @property
    def magnitude_mask(self) -> int:
        """All bits but the sign."""
        return int(torch.iinfo(self.integer).max)


_FLOAT32 = Carrier(torch.float32, torch.int32, 23, 127)
_FLOAT64 = Carrier(torch.float64, torch.int64, 52, 1023)
_CARRIERS = {
    torch.float64: _FLOAT64,
    torch.float32: _FLOAT32,
    torch.bfloat16: _FLOAT32,
    torch.float16: _FLOAT32,
}


def carrier_of(x: Tensor, row: Row | None = None) -> Carrier:
    """The carrier in which a tensor's values are rounded as a row says: `carrier_of_dtype`."""
    return carrier_of_dtype(x.dtype, row)


def carrier_of_dtype(dtype: torch.dtype, row: Row | None = None) -> Carrier:
    """The carrier in which values of a dtype are rounded as a row says.

    float32 would round the values below its normal numbers too coarsely for a grid that is finer there, and cannot add
    the constant of a very coarse one, nor hold every scale: such rows have float64.

    Raises:
        FormatError: the dtype holds no floats, or floats that cannot be computed with.
    """
    try:
        own = _CARRIERS[dtype]
    except KeyError:
        valid = ", ".join(str(dtype).removeprefix("torch.") for dtype in _CARRIERS)
        raise FormatError(f"cannot round a {dtype} tensor: expected one of {valid}") from None
    if own is _FLOAT64 or row is None or (_fits_float32(row.grid) and _scales_fit_float32(row.scale)):
        return own
    return _FLOAT64


def _fits_float32(grid: Grid) -> bool:
    if grid.k_min + _FLOAT32.mantissa_bits > _FLOAT32.bias or (
        math.isfinite(grid.high) and grid.high > _FLOAT32.largest
    ):
        return False
    return grid.emin >= 1 - _FLOAT32.bias or grid.mantissa_bits >= _FLOAT32.mantissa_bits


def _scales_fit_float32(scale: ScaleRow) -> bool:
    """Whether scales are normal numbers of float32, or found by their exponent and at least ``2**-127``.

    Of two levels, the one of the tensor is found from the product of the largest element and the largest scale.
    """
    if scale.two_level and scale.element_high * scale.high > _FLOAT32.largest:
        return False
    if scale.value != 1.0 and not scale.history:  # of a static scaling; a delayed one is as that of the tensor
        return 2.0 ** (1 - _FLOAT32.bias) <= scale.value <= _FLOAT32.largest
    if scale.chosen_rule is ScaleRule.NEAREST and scale.emin < 1 - _FLOAT32.bias:
        return scale.mantissa_bits >= _FLOAT32.mantissa_bits
    return scale.low >= 2.0**-_FLOAT32.bias or scale.mantissa_bits > 0 or not scale.granularity


@dataclass(frozen=True, slots=True)
class GridScalars:
    """A grid as the carrier's arithmetic needs it; the numbers that a compiled kernel is given too."""

    dropped_bits: int
    k_min: int
    smallest_normal: float  # magnitudes from here on have `dropped_bits` rounded away, those below a constant quantum
    low: float
    high: float
    below: float
    above: float
    negative_zero: int
    ties: int
    tiny: float

    @classmethod
    def of(cls, grid: Grid, carrier: Carrier) -> "GridScalars":
        """What of the grid the carrier can hold: its precision, exponents and range limit those of the grid."""
        m = min(grid.mantissa_bits, carrier.mantissa_bits)
        k_min = max(grid.k_min, carrier.smallest_k)
        normal = min(grid.emin, k_min + carrier.mantissa_bits)
        return cls(
            dropped_bits=carrier.mantissa_bits - m,
            k_min=k_min,
            smallest_normal=2.0**normal,
            low=_inward(grid.low, carrier),
            high=_inward(grid.high, carrier),
            below=_inward(grid.below, carrier),
            above=_inward(grid.above, carrier),
            negative_zero=grid.negative_zero,
            ties=grid.ties,
            tiny=grid.tiny,
        )


def _inward(bound: float, carrier: Carrier) -> float:
    """The carrier's value next to a bound, towards zero; one beyond its range is infinite."""
    if carrier.dtype is torch.float64 or math.isnan(bound) or abs(bound) > carrier.largest:
        return math.copysign(math.inf, bound) if abs(bound) > carrier.largest else bound
    fraction, exponent = math.frexp(bound)
    kept = min(carrier.mantissa_bits + 1, exponent - carrier.smallest_k)
    return math.ldexp(math.trunc(math.ldexp(fraction, kept)), exponent - kept)


def round_grid(x: Tensor, grid: Grid, mode: RoundingMode, random: Tensor | None = None) -> Tensor:
    """`x`, of a carrier's dtype, on a grid.

    Args:
        x: values.
        grid: where they go.
        mode: nearest_even, nearest_away, toward_zero, stochastic or hysteresis.
        random: for stochastic: int64, of the shape of `x`, from 0 to 2**31 - 1; for hysteresis: boolean, whether a
            value between two neighbours goes to the one away from zero.
    """
    carrier = _CARRIERS[x.dtype]
    scalars = GridScalars.of(grid, carrier)
    bits = x.view(carrier.integer)
    magnitude = (bits & carrier.magnitude_mask).view(carrier.dtype)
    if scalars.tiny:
        magnitude = torch.where((magnitude > 0) & (magnitude < scalars.tiny), scalars.tiny, magnitude)
    normal = _round_normal(magnitude, scalars, carrier, mode, random)
    subnormal = _round_subnormal(magnitude, scalars, carrier, mode, random)
    rounded = torch.where(magnitude < scalars.smallest_normal, subnormal, normal)
    signed = (rounded.view(carrier.integer) | (bits & ~carrier.magnitude_mask)).view(carrier.dtype)
    return _limited(x, signed, scalars, mode)


def _round_normal(
    magnitude: Tensor, scalars: GridScalars, carrier: Carrier, mode: RoundingMode, random: Tensor | None
) -> Tensor:
    bits, dropped = magnitude.view(carrier.integer), scalars.dropped_bits
    if dropped == 0:
        return magnitude
    kept = -1 << dropped
    if mode is RoundingMode.NEAREST_EVEN:
        last_kept = (bits >> dropped) & 1
        if dropped == carrier.mantissa_bits:  # the last kept bit is the exponent's: no significand is even
            last_kept = torch.ones_like(bits) if scalars.ties == 0 else last_kept ^ (scalars.ties - 1)
        bits = bits + ((1 << dropped >> 1) - 1) + last_kept
    elif mode is RoundingMode.NEAREST_AWAY:
        bits = bits + (1 << dropped >> 1)
    elif mode is RoundingMode.STOCHASTIC:
        assert random is not None
        shift = 31 - dropped
        bits = bits + (random >> shift if shift >= 0 else random << -shift).to(carrier.integer)
    elif mode is RoundingMode.HYSTERESIS:
        assert random is not None
        bits = bits + random.to(carrier.integer) * ~kept
    return (bits & kept).view(carrier.dtype)


def _round_subnormal(
    magnitude: Tensor, scalars: GridScalars, carrier: Carrier, mode: RoundingMode, random: Tensor | None
) -> Tensor:
    magic = 2.0 ** (scalars.k_min + carrier.mantissa_bits)
    quantum = 2.0**scalars.k_min
    nearest = (magnitude + magic) - magic
    if mode is RoundingMode.NEAREST_EVEN:
        return nearest
    if mode is RoundingMode.NEAREST_AWAY:
        # infinite where the carrier has no value in between
        half = math.inf if scalars.k_min == carrier.smallest_k else quantum / 2
        return torch.where(magnitude - nearest == half, nearest + quantum, nearest)
    below = torch.where(nearest > magnitude, nearest - quantum, nearest)
    if mode is RoundingMode.TOWARD_ZERO:
        return below
    assert random is not None
    rest = magnitude - below
    up = random & (rest > 0) if mode is RoundingMode.HYSTERESIS else _goes_up(rest, scalars.k_min, random)
    return torch.where(up, below + quantum, below)


def _goes_up(rest: Tensor, k_min: int, random: Tensor) -> Tensor:
    """Whether ``floor(2**31 rest / quantum) + random`` reaches ``2**31``; in two factors that no carrier overflows."""
    first = (31 - k_min) // 2
    in_quanta = (rest * 2.0**first) * 2.0 ** (31 - k_min - first)
    return in_quanta.to(torch.int64) + random >= 1 << 31


def _limited(x: Tensor, rounded: Tensor, scalars: GridScalars, mode: RoundingMode) -> Tensor:
    """What lies beyond the ends goes where the format says; toward zero, finite values stop at the ends."""
    above, below = (torch.full_like(x, bound) for bound in (scalars.above, scalars.below))
    if mode is RoundingMode.TOWARD_ZERO:
        above = torch.where(x == math.inf, above, scalars.high)
        below = torch.where(x == -math.inf, below, scalars.low)
    limited = torch.where(rounded > scalars.high, above, rounded)
    limited = torch.where(rounded < scalars.low, below, limited)
    if not scalars.negative_zero:
        limited = limited + 0.0
    return torch.where(x != x, x, limited)


def random_of(x: Tensor, row: Row, key: int, stage: int = 0) -> Tensor | None:
    """The 31-bit random numbers of a row for the elements of `x`, in row-major order; None where it draws none."""
    if not row.is_stochastic:
        return None
    hashes = hashed(x.numel(), key, row.slot + stage, x.device).reshape(x.shape) >> 1
    return truncated(hashes, row.random_bits)


def round_elements(x: Tensor, row: Row, key: int = 0, away: Tensor | None = None) -> Tensor:
    """`x`, of a carrier's dtype, rounded to a row's elements without scaling; `away` is for hysteresis."""
    random = away if row.mode is RoundingMode.HYSTERESIS else random_of(x, row, key)
    if row.power:
        return _round_power(x, row, random)
    rounded = round_grid(x, row.grid, row.mode, random)
    if not row.shift:
        return rounded
    second = away if row.mode is RoundingMode.HYSTERESIS else random_of(x, row, key, stage=1)
    return round_grid(rounded, nested_grid(row), row.mode, second)


def nested_grid(row: Row) -> Grid:
    """The grid of a nested integer's second rounding."""
    quantum = 2.0**row.shift
    low, high = row.grid.low, (row.grid.high + 1) - quantum
    return replace(row.grid, k_min=row.shift, low=low, high=high, below=low, above=high)


def _round_power(x: Tensor, row: Row, random: Tensor | None) -> Tensor:
    """To the nearest in the power domain; the other modes look at the values themselves."""
    fmt = PowerLaw(name="", word=row.grid.mantissa_bits, power=row.power)
    values = x.new_tensor(fmt.values)
    magnitude = x.abs().clamp(max=1.0).contiguous()
    if row.mode in (RoundingMode.NEAREST_EVEN, RoundingMode.NEAREST_AWAY):
        index = torch.bucketize(magnitude, x.new_tensor(fmt.decision_points), right=True)
    else:
        index = torch.bucketize(magnitude, values, right=True) - 1
    if random is not None:
        index = index.clamp(min=0, max=len(values) - 2)
        below, upper = values[index], values[index + 1]
        if row.mode is RoundingMode.HYSTERESIS:
            up = random & (magnitude > below)
        else:
            up = (((magnitude - below) / (upper - below)) * 2.0**31).to(torch.int64) + random >= 1 << 31
        index = index + up
    rounded = torch.where(magnitude != magnitude, x, values[index.clamp(min=0, max=len(values) - 1)])
    return torch.copysign(rounded, x)
