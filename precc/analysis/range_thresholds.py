"""Up to which magnitude a rounding gives 0, and up to which it stays within the format: found once for each scale.

Rounding is monotone, and so is a quotient by a scale and a product with it in floating point. So on each sign there is
a largest magnitude that becomes 0, and a largest one that does not overflow. They are found on the bit patterns of the
tensor's dtype, by rounding a few magnitudes: near the quotient's thresholds times the scale, else by bisecting.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from precc.analysis.magnitude_counts import Bits, bits_of_dtype
from precc.errors import UnsupportedError
from precc.formats import PowerLaw
from precc.precision import Precision
from precc.rounding import RoundingMode, Row
from precc.rounding.random_bits import truncated
from precc.rounding.scales import divisor_of
from precc.rounding.tensor_ops import carrier_of_dtype, nested_grid, round_elements, round_grid

__all__ = ["RangeThresholds", "Thresholds"]

#: Magnitudes that are rounded at once while a threshold is bracketed.
_POINTS = 64
_LARGEST_RANDOM = (1 << 31) - 1
#: Beside a guess; a quotient and a product differ by less from the exact ones.
_NEAR = 2


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Of some scales, those of positive and of negative values; magnitudes as bits, int64, 0 where there is none.

    Args:
        lost: ``[scales, 2]``, the largest magnitude that becomes 0.
        kept: ``[scales, 2]``, the largest magnitude that does not overflow.
        zero_overflows: ``[scales]``, whether 0 itself becomes NaN, as with a scale that is.
    """

    lost: Tensor
    kept: Tensor
    zero_overflows: Tensor

    @cached_property
    def is_symmetric(self) -> bool:
        """Whether both signs have the same."""
        return all(torch.equal(own[:, 0], own[:, 1]) for own in (self.lost, self.kept))


@dataclass(eq=False)
class RangeThresholds:
    """The thresholds of a precision for tensors of one dtype.

    Args:
        row: of the precision.
        dtype: of the tensors.

    Raises:
        UnsupportedError: the row transforms values, which mixes them, or bends their range.
    """

    row: Row
    dtype: torch.dtype
    carrier: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        if self.row.transform is not None:
            raise UnsupportedError(
                f"what {self.row.transform.value} and rounding lose is not decided by single values: measure it"
            )
        self.carrier = carrier_of_dtype(self.dtype, self.row).dtype

    @classmethod
    def of(cls, precision: Precision, dtype: torch.dtype) -> "RangeThresholds":
        """Of a precision whose scale, if it is delayed, is taken as that of the tensor."""
        return cls(precision.row().current, dtype)

    def at(self, scales: Tensor) -> Thresholds:
        """The thresholds for scales of the carrier's dtype, one dimension."""
        scales = scales.cpu()
        all_lost = scales[:, None] == 0
        found = self._found(torch.where(all_lost[:, 0], 1.0, scales))
        highest = bits_of_dtype(self.dtype).infinity - 1
        lost, kept = torch.where(all_lost, highest, found[0]), torch.where(all_lost, highest, found[1])
        if self._zero_overflows:
            kept = torch.where(all_lost, 0, kept)
        return Thresholds(lost, kept, self._zero_overflows | scales.isnan())

    def _found(self, scales: Tensor) -> tuple[Tensor, Tensor]:
        bits = bits_of_dtype(self.dtype)
        lost, kept = self._guessed(scales, bits)
        if self.row.grid.tiny or not self._products_keep_all(scales, bits):
            lost = self._largest(lambda points: self._becomes_zero(points, scales, bits), lost)
            return lost, self._largest(lambda points: ~self._overflows(points, scales, bits), kept)
        below = [self._own_bits.floats(own)[:, :, None] for own in self._unscaled]
        lost = self._largest(lambda points: self._scaled(points, scales, bits).abs() <= below[0], lost)
        return lost, self._largest(lambda points: self._scaled(points, scales, bits).abs() <= below[1], kept)

    def _largest(self, holds: Callable[[Tensor], Tensor], guess: Tensor) -> Tensor:
        return _largest(holds, len(guess), bits_of_dtype(self.dtype), guess)

    def _guessed(self, scales: Tensor, bits: Bits) -> list[Tensor]:
        found = []
        for own in self._unscaled:
            exact = self._own_bits.floats(own).double() * scales.double()[:, None].nan_to_num(1.0)
            found.append(bits.of(exact.clamp(max=torch.finfo(bits.dtype).max).to(bits.dtype)))
        return found

    def _products_keep_all(self, scales: Tensor, bits: Bits) -> bool:
        """Whether what the format holds of a quotient, times its scale, is neither 0 nor infinite in the dtype."""
        least, most = self._extremes
        limits = torch.finfo(bits.dtype)
        products = scales[~scales.isnan()].double()
        return bool((products * least >= limits.tiny).all() and (products * most <= limits.max).all())

    @property
    def _own_bits(self) -> Bits:
        return bits_of_dtype(self.carrier)

    @cached_property
    def _unscaled(self) -> tuple[Tensor, Tensor]:
        """The thresholds of the quotient."""
        bits, one = self._own_bits, torch.ones(1, dtype=self.carrier)
        lost = _largest(lambda points: self._becomes_zero(points, one, bits), 1, bits, None)
        return lost, _largest(lambda points: ~self._overflows(points, one, bits), 1, bits, None)

    @cached_property
    def _extremes(self) -> tuple[float, float]:
        """The smallest and the largest magnitude, but 0, of a rounded quotient that does not overflow."""
        lost, kept = self._unscaled
        both = torch.cat([(lost + 1).clamp(max=self._own_bits.infinity - 1), kept], -1)[..., None]
        one = torch.ones(1, dtype=self.carrier)
        signed = torch.cat([self._scaled(own, one, self._own_bits) for own in (both[:, :2], both[:, 2:])], -1)
        rounded = _drawn(signed, self.row, up=False).abs().double()
        finite = rounded[(rounded > 0) & rounded.isfinite()]
        return float(finite.amin()), float(
            _drawn(signed, self.row, up=True).abs().double().nan_to_num(posinf=0.0).amax()
        )

    @cached_property
    def _zero_overflows(self) -> bool:
        one = torch.ones(1, dtype=self.carrier)
        return bool(self._overflows(torch.zeros(1, 1, 1, dtype=torch.int64), one, self._own_bits).any())

    def _becomes_zero(self, points: Tensor, scales: Tensor, bits: Bits) -> Tensor:
        rounded = _drawn(self._scaled(points, scales, bits), self.row, up=False)
        return (rounded * scales[:, None, None]).to(bits.dtype) == 0

    def _overflows(self, points: Tensor, scales: Tensor, bits: Bits) -> Tensor:
        scaled = self._scaled(points, scales, bits)
        result = (_drawn(scaled, self.row, up=True) * scales[:, None, None]).to(bits.dtype)
        return ~result.isfinite() | _leaves(scaled, self.row)

    def _scaled(self, points: Tensor, scales: Tensor, bits: Bits) -> Tensor:
        signs = torch.tensor([[1.0], [-1.0]], dtype=bits.dtype)
        return (bits.floats(points) * signs).to(self.carrier) / divisor_of(scales)[:, None, None]


def _drawn(scaled: Tensor, row: Row, *, up: bool) -> Tensor:
    """Rounded elements; of a stochastic rounding with the random number that goes up most, or least."""
    if row.power:
        return round_elements(scaled, replace(row, mode=RoundingMode.TOWARD_ZERO) if row.is_stochastic else row)
    random = None
    if row.is_stochastic:
        random = truncated(torch.full_like(scaled, _LARGEST_RANDOM if up else 0, dtype=torch.int64), row.random_bits)
    rounded = round_grid(scaled, row.grid, row.mode, random)
    return round_grid(rounded, nested_grid(row), row.mode, random) if row.shift else rounded


def _leaves(scaled: Tensor, row: Row) -> Tensor:
    """Whether values go beyond the format's ends if they are rounded as if it had none."""
    if row.power:
        return scaled.abs() > _last_within(row, scaled.dtype)
    ends = nested_grid(row) if row.shift else row.grid
    endless = replace(row.grid, low=-math.inf, high=math.inf, below=-math.inf, above=math.inf)
    rounded = _drawn(scaled, replace(row, grid=endless), up=True)
    return ((rounded > ends.high) | (rounded < ends.low)) & (scaled != 0)  # a format without 0 has a value for it


def _last_within(row: Row, dtype: torch.dtype) -> float:
    """The largest magnitude that the next value of a power-law grid, above 1, would not attract."""
    top = len(PowerLaw(name="", word=row.grid.mantissa_bits, power=row.power).values) - 1
    if row.is_stochastic:
        return 1.0
    beyond = 1.0 if row.mode is RoundingMode.TOWARD_ZERO else 0.5
    first = torch.tensor(math.pow((top + beyond) / top, 1 / row.power), dtype=dtype)
    return float(torch.nextafter(first, torch.zeros_like(first)))


def _largest(holds: Callable[[Tensor], Tensor], scales: int, bits: Bits, guess: Tensor | None) -> Tensor:
    """The largest magnitude, as bits, for which something holds that holds for all smaller ones; 0 if for none.

    Args:
        holds: of magnitudes ``[scales, 2, points]``.
        scales: how many.
        bits: of the dtype.
        guess: ``[scales, 2]``, near which magnitudes are tried first.
    """
    low = torch.zeros(scales, 2, 1, dtype=torch.int64)
    high = torch.full_like(low, bits.infinity)
    near = torch.arange(-_NEAR, _NEAR + 1)
    points = _between(low, high) if guess is None else (guess[..., None] + near).clamp(1, bits.infinity - 1)
    while bool((high - low > 1).any()):
        true = holds(points).sum(-1, keepdim=True)
        bracket = torch.cat([low, points, high], -1)
        low, high = torch.maximum(low, bracket.gather(-1, true)), torch.minimum(high, bracket.gather(-1, true + 1))
        points = _between(low, high)
    return low[..., 0]


def _between(low: Tensor, high: Tensor) -> Tensor:
    """Magnitudes from above `low` to below `high`, ascending, some several times."""
    step = ((high - low) // (_POINTS + 1)).clamp(min=1)
    offsets = step * torch.arange(1, _POINTS + 1)
    return torch.minimum(low + offsets, (high - 1).clamp(min=1))
