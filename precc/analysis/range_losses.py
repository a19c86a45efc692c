"""How many values of a tensor a precision loses, from thresholds of their magnitudes: the tensor is not rounded."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from precc.analysis.magnitude_counts import Integers, MagnitudeCounts, bits_of_dtype
from precc.analysis.range_thresholds import RangeThresholds, Thresholds
from precc.analysis.value_range import RangeLoss, RangeLosses
from precc.formats import Granularity, ScaleRule
from precc.precision import Precision
from precc.rounding import Row
from precc.rounding.scales import block_amax, block_scales, block_shape

__all__ = ["BlockLosses", "RangeCandidate", "WholeLosses", "candidate_of"]

_KEPT = 256
_WHOLE = (None, Granularity.STATIC, Granularity.TENSOR)


@dataclass(eq=False)
class RangeCandidate:
    """A precision whose losses are asked for, with the thresholds that are known of it.

    Args:
        precision: a delayed scale is taken as the tensor's own.

    Raises:
        UnsupportedError: the precision has a transform.
    """

    precision: Precision
    row: Row = field(init=False)
    _thresholds: dict[torch.dtype, RangeThresholds] = field(init=False, default_factory=dict)
    _tables: dict[torch.dtype, Thresholds] = field(init=False, default_factory=dict)
    _ends: dict[tuple[torch.dtype, int | None], "_Ends"] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.row = self.precision.row().current
        self.thresholds(torch.float32)

    @property
    def by_tensor(self) -> bool:
        """Whether all values of a tensor have one scale."""
        return self.row.granularity in _WHOLE

    def thresholds(self, dtype: torch.dtype) -> RangeThresholds:
        """Those of tensors of a dtype."""
        if dtype not in self._thresholds:
            self._thresholds[dtype] = RangeThresholds(self.row, dtype)
        return self._thresholds[dtype]

    @property
    def by_exponent(self) -> bool:
        """Whether a scale is decided by the exponent of the largest magnitude."""
        return self.row.scale.chosen_rule is ScaleRule.FLOOR and not self.row.scale.two_level

    def by_exponents(self, dtype: torch.dtype) -> Thresholds:
        """Those of blocks of a dtype, a row for each exponent of the largest magnitude; see `BlockLosses`."""
        if dtype not in self._tables:
            thresholds = self.thresholds(dtype)
            amax = _amax_by_exponent(dtype).to(thresholds.carrier)
            self._tables[dtype] = thresholds.at(block_scales(amax, self.row.scale))
        return self._tables[dtype]

    def loss(self, counts: MagnitudeCounts) -> RangeLoss:
        """Of a tensor with one scale."""
        return WholeLosses((self,)).losses(counts)[self.precision]

    def ends(self, dtype: torch.dtype, amax: float) -> "_Ends":
        """The thresholds for a tensor with one scale and this largest magnitude, NaN where a value is not finite."""
        scaled = self.row.granularity is Granularity.TENSOR
        if scaled and not (self.by_exponent and 0 < amax < math.inf):
            return self._found_ends(dtype, amax)  # not kept: a candidate outlives the tensors, which all have others
        key = (dtype, math.frexp(amax)[1] if scaled else None)
        if key not in self._ends:
            self._ends[key] = self._found_ends(dtype, amax)
        return self._ends[key]

    def _found_ends(self, dtype: torch.dtype, amax: float) -> "_Ends":
        thresholds = self.thresholds(dtype)
        scale = torch.tensor([self.row.scale.value], dtype=thresholds.carrier)
        if self.row.granularity is Granularity.TENSOR:
            scale = block_scales(torch.tensor([amax], dtype=thresholds.carrier), self.row.scale)
        found = thresholds.at(scale)
        return _Ends(np.stack([found.lost[0].numpy(), found.kept[0].numpy()]), np.array(int(found.zero_overflows[0])))


@dataclass(frozen=True, slots=True, eq=False)
class _Ends:
    """Thresholds of tensors with one scale, as bits of magnitudes.

    Args:
        bits: ``[..., 2, 2]``: up to which values become 0 and up to which they do not overflow, each of positive and of
            negative ones.
        zero_overflows: ``[...]``, 0 or 1.
    """

    bits: Integers
    zero_overflows: Integers


@dataclass(eq=False)
class WholeLosses:
    """What precisions lose of tensors with one scale.

    Args:
        candidates: the precisions.
    """

    candidates: Sequence[RangeCandidate]
    positions: dict[Precision, int] = field(init=False)
    _ends: dict[Hashable, _Ends] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.positions = {one.precision: position for position, one in enumerate(self.candidates)}
        scaled = (one for one in self.candidates if one.row.granularity is Granularity.TENSOR)
        self._by_exponent = all(one.by_exponent for one in scaled)

    def losses(self, counts: MagnitudeCounts) -> RangeLosses:
        """Of a tensor, by precision."""
        if not self.candidates:
            return RangeLosses({}, (), (), counts.elements)
        ends = self._ends_for(counts)
        lost, kept = _at_most(counts, ends.bits.reshape(-1, 2)).reshape(-1, 2).T
        overflow = counts.nonzeros - kept + counts.zeros * ends.zero_overflows
        return RangeLosses(self.positions, lost.tolist(), overflow.tolist(), counts.elements)

    def _ends_for(self, counts: MagnitudeCounts) -> _Ends:
        dtype = counts.bits.dtype
        amax = math.nan if counts.nonfinite else counts.amax
        key = (dtype, math.frexp(amax)[1] if self._by_exponent and amax > 0 else repr(amax))
        if key not in self._ends:
            every = [one.ends(dtype, amax) for one in self.candidates]
            flags = np.stack([own.zero_overflows for own in every])
            self._ends[key] = _Ends(np.stack([own.bits for own in every]), flags)
        return self._ends[key]


def _at_most(counts: MagnitudeCounts, bits: Integers) -> Integers:
    """How many values are at most a threshold, of each pair the first for positive, the second for negative ones."""
    found = counts.at_most_each(bits[:, 0])
    for position in np.flatnonzero(bits[:, 0] != bits[:, 1]):
        positive, negative = bits[position].tolist()
        found[position] = counts.at_most(positive, negative=False) + counts.at_most(negative, negative=True)
    return found


@lru_cache(maxsize=_KEPT)
def candidate_of(precision: Precision) -> RangeCandidate:
    """The candidate of a precision: one, so that thresholds are found once.

    Raises:
        UnsupportedError: the precision has a transform.
    """
    return RangeCandidate(precision)


@dataclass(eq=False)
class BlockLosses:
    """The losses of one tensor under precisions with scales along its dimensions.

    Args:
        x: the tensor, in the layout in which it is rounded.
        zeros: how many of its elements are 0.
        nonfinite: how many are infinite or NaN.
        amin: a number that no magnitude but 0 is below.
    """

    x: Tensor
    zeros: int
    nonfinite: int
    amin: float = 0.0
    magnitudes: Tensor = field(init=False)  #: NaN where not finite
    _amax: dict[tuple[int, ...], Tensor] = field(init=False, default_factory=dict)
    _rows: dict[tuple[int, ...], Tensor] = field(init=False, default_factory=dict)
    _cuts: dict[tuple[int, ...], Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        # in the order of the memory, in which all is faster
        self._shape = self.x.shape
        self._order = sorted(range(self.x.dim()), key=self.x.stride, reverse=True)
        self.x = self.x.permute(self._order)
        self.magnitudes = self.x.abs()
        if self.nonfinite:
            self.magnitudes = torch.where(self.magnitudes < math.inf, self.magnitudes, math.nan)

    def loss(self, candidate: RangeCandidate, *, axis: int, channel: int) -> RangeLoss:
        """Of a candidate, whose scales lie along these dimensions unless it names its own.

        Raises:
            FormatError: the tensor has not the dimensions.
        """
        if not self.x.numel():
            return RangeLoss(0, 0, 0)
        row = candidate.precision.row(axis=axis, channel=channel).current
        shown = block_shape(self._shape, row)
        extent = tuple(shown[dim] for dim in self._order)
        if candidate.by_exponent:
            found, index = candidate.by_exponents(self.x.dtype), self._exponents(extent)
        else:
            carrier = candidate.thresholds(self.x.dtype).carrier
            distinct, index = _distinct(block_scales(self._block_amax(extent).to(carrier), row.scale))
            found = candidate.thresholds(self.x.dtype).at(distinct)
        return self._counted(extent, index, found)

    def _counted(self, extent: tuple[int, ...], index: Tensor, found: Thresholds) -> RangeLoss:
        underflow = overflow = 0
        for sign, magnitudes in enumerate(self._signs(extent, found)):
            lost, kept = (self._floats(own[:, sign])[index] for own in (found.lost, found.kept))
            if self.amin <= float(lost.amax()):
                underflow += _count(magnitudes <= _shown(lost, extent)) - (self.zeros if found.is_symmetric else 0)
            overflow += self._beyond(magnitudes, kept, extent)
        flags = found.zero_overflows.to(self.x.device)[index]
        if bool(flags.any()):
            overflow += _count((self._cut(extent) == 0) & _shown(flags, extent))
        return RangeLoss(underflow, overflow, self.x.numel())

    def _beyond(self, magnitudes: Tensor, kept: Tensor, extent: tuple[int, ...]) -> int:
        """How many magnitudes are above the one of their block; only blocks that have any are looked at."""
        has_any = ~(self._block_amax(extent) <= kept)  # also where it is NaN
        if not bool(has_any.any()):
            return 0
        inner = [dim for dim, size in enumerate(extent) if size > 1]
        places = [dim + 1 + position for position, dim in enumerate(inner)]
        chosen = magnitudes.movedim(places, list(range(-len(places), 0)))[has_any]
        return _count(chosen > kept[has_any].reshape(-1, *(1 for _ in places)))

    def _signs(self, extent: tuple[int, ...], found: Thresholds) -> list[Tensor]:
        """The magnitudes that have thresholds of their own, NaN in the places of others."""
        if found.is_symmetric:
            return [self._cut(extent)]
        own = (torch.where(flags, self.magnitudes, math.nan) for flags in (self.x > 0, self.x < 0))
        return [_cut(magnitudes, extent) for magnitudes in own]

    def _exponents(self, extent: tuple[int, ...]) -> Tensor:
        """Of each block, which row of the table by exponents is its."""
        if extent not in self._rows:
            self._rows[extent] = _row_by_exponent(self._block_amax(extent))
        return self._rows[extent]

    def _cut(self, extent: tuple[int, ...]) -> Tensor:
        if extent not in self._cuts:
            self._cuts[extent] = _cut(self.magnitudes, extent)
        return self._cuts[extent]

    def _floats(self, bits: Tensor) -> Tensor:
        return bits_of_dtype(self.x.dtype).floats(bits).to(self.x.device)

    def _block_amax(self, extent: tuple[int, ...]) -> Tensor:
        if extent not in self._amax:
            part = next((own for own in self._amax if _divides(own, extent)), None)
            if part is not None:
                times = [size // own for size, own in zip(extent, part, strict=True)]
                self._amax[extent] = block_amax(self._amax[part], times)
            else:
                self._amax[extent] = block_amax(self.x.abs() if self.nonfinite else self.magnitudes, extent)
        return self._amax[extent]


def _divides(part: Sequence[int], extent: Sequence[int]) -> bool:
    """Whether blocks consist of whole blocks of another extent."""
    return all(size % own == 0 for size, own in zip(extent, part, strict=True))


def _count(flags: Tensor) -> int:
    return int(torch.count_nonzero(flags))


def _row_by_exponent(amax: Tensor) -> Tensor:
    """``1 + e`` counted from the smallest exponent of the dtype; 0 for a block of zeros, and the last for NaN."""
    lowest, highest = _exponent_range(amax.dtype)
    rows = torch.frexp(amax).exponent.long() - (lowest - 1)
    rows = torch.where(amax == 0, 0, rows)
    return torch.where(amax < math.inf, rows, highest - lowest + 2)


def _amax_by_exponent(dtype: torch.dtype) -> Tensor:
    """A largest magnitude for each of those rows."""
    lowest, highest = _exponent_range(dtype)
    powers = [math.ldexp(1.0, exponent - 1) for exponent in range(lowest, highest + 1)]
    return torch.tensor([0.0, *powers, math.nan], dtype=torch.float64)


def _exponent_range(dtype: torch.dtype) -> tuple[int, int]:
    """Of `frexp`, from the smallest subnormal number to the largest."""
    limits = torch.finfo(dtype)
    return math.frexp(limits.smallest_normal * limits.eps)[1], math.frexp(limits.max)[1]


def _distinct(scales: Tensor) -> tuple[Tensor, Tensor]:
    """The scales that occur, and of each the number of it; NaN is one of them."""
    distinct, index = torch.unique(scales.nan_to_num(nan=-1.0, posinf=math.inf), return_inverse=True)
    return torch.where(distinct < 0, math.nan, distinct), index


def _cut(x: Tensor, extent: Sequence[int]) -> Tensor:
    """A tensor in blocks: each dimension along which they extend becomes two, with NaN where the last is shorter."""
    for dim in reversed(range(x.dim())):
        size = min(extent[dim], x.shape[dim])
        missing = -x.shape[dim] % size
        if missing:
            shape = [missing if own == dim else length for own, length in enumerate(x.shape)]
            x = torch.cat([x, x.new_full(shape, math.nan)], dim)
        if extent[dim] > 1:
            x = x.unflatten(dim, (-1, size))
    return x


def _shown(numbers: Tensor, extent: Sequence[int]) -> Tensor:
    """A number of each block, at each value of a tensor that is cut."""
    for dim in reversed(range(numbers.dim())):
        if extent[dim] > 1:
            numbers = numbers.unsqueeze(dim + 1)
    return numbers
