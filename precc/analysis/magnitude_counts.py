"""Counting the magnitudes of a tensor by their bit patterns, in one histogram that answers most questions.

Magnitudes are compared as integers, the bits without the sign, in which they have the same order. The histogram has
two bins for each value of the leading bits: one for that value itself, one for all between it and the next.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precc.errors import FormatError

__all__ = [
    "BINS",
    "TENSOR_OPS",
    "Bits",
    "Counting",
    "Integers",
    "MagnitudeCounts",
    "Magnitudes",
    "bits_of_dtype",
    "stored",
]

Integers = NDArray[np.int64]
_Numbers = TypeVar("_Numbers", int, Integers)

#: Elements that a processor's cache holds while they are sorted into bins.
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Bits:
    """How a dtype's magnitudes are integers.

    Args:
        dtype: of the floats.
        integer: of the same size.
        mantissa: stored bits of the significand.
        sorted_by: leading bits of the significand that have bins.
    """

    dtype: torch.dtype
    integer: torch.dtype
    mantissa: int
    sorted_by: int

    @property
    def mask(self) -> int:
        """All bits but the sign."""
        return int(torch.iinfo(self.integer).max)

    @property
    def infinity(self) -> int:
        """The bits of infinity; NaNs are larger, finite magnitudes smaller."""
        return ((1 << (torch.iinfo(self.integer).bits - 1 - self.mantissa)) - 1) << self.mantissa

    @property
    def smallest_exponent(self) -> int:
        """Binary exponent of the smallest normal number."""
        return 2 - (1 << (torch.iinfo(self.integer).bits - 2 - self.mantissa))

    @property
    def dropped(self) -> int:
        """Last bits, which have no bins."""
        return self.mantissa - self.sorted_by

    def floats(self, bits: Tensor) -> Tensor:
        """The magnitudes with these bits."""
        return bits.to(self.integer).view(self.dtype)

    def of(self, magnitudes: Tensor) -> Tensor:
        """The bits of magnitudes, int64."""
        return magnitudes.contiguous().view(self.integer).long()

    def value(self, bits: int) -> float:
        """One magnitude."""
        if self.dtype is torch.bfloat16:  # the first half of a float32
            return float(struct.unpack("f", struct.pack("i", bits << 16))[0])
        integer, number = _CODES[self.dtype]
        return float(struct.unpack(number, struct.pack(integer, bits))[0])

    def bin_of(self, bits: _Numbers) -> _Numbers:
        """Number of the bin of a magnitude; even: of one value."""
        if not self.dropped:
            return bits
        return (bits >> self.dropped) + ((bits + (1 << self.dropped) - 1) >> self.dropped)

    def bins_of(self, bits: Tensor, out: Tensor) -> Tensor:
        """The same of many, all finite; written into `out`."""
        if not self.dropped:
            return bits
        torch.add(bits, (1 << self.dropped) - 1, out=out)
        out >>= self.dropped
        out += bits >> self.dropped
        return out


_BITS = {
    torch.float64: Bits(torch.float64, torch.int64, 52, 3),
    torch.float32: Bits(torch.float32, torch.int32, 23, 6),
    torch.bfloat16: Bits(torch.bfloat16, torch.int16, 7, 7),
    torch.float16: Bits(torch.float16, torch.int16, 10, 10),
}
_CODES = {torch.float64: ("q", "d"), torch.float32: ("i", "f"), torch.float16: ("h", "e")}

#: More than any dtype has.
BINS = 1 << 15


def bits_of_dtype(dtype: torch.dtype) -> Bits:
    """How the magnitudes of a dtype are integers.

    Raises:
        FormatError: the dtype holds no floats, or floats that are not computed with.
    """
    if dtype not in _BITS:
        raise FormatError(f"magnitudes of {dtype} are not counted: expected one of {', '.join(map(str, _BITS))}")
    return _BITS[dtype]


def stored(x: Tensor) -> Tensor:
    """The elements of a tensor in the order of its memory, one dimension; those shown several times once."""
    if x.is_contiguous():
        return x.view(-1)
    x = x[
        tuple(0 if stride == 0 and size > 1 else slice(None) for stride, size in zip(x.stride(), x.shape, strict=True))
    ]
    return x.permute(sorted(range(x.dim()), key=x.stride, reverse=True)).reshape(-1)


@dataclass(frozen=True, slots=True, eq=False)
class Magnitudes:
    """What one look at a tensor finds.

    Args:
        bins: how many finite magnitudes each of the `BINS` bins has, those that are 0 in the first.
        nonfinite: how many are none.
        smallest: that is not 0, as bits; 0 where there is none.
        largest: that is finite, likewise.
    """

    bins: Integers
    nonfinite: int
    smallest: int
    largest: int


@dataclass(frozen=True, slots=True)
class Counting:
    """By what magnitudes are counted: the tensor operations below, or compiled kernels with the same results.

    Args:
        magnitudes: of a tensor of one dimension.
        at_most: of such a tensor, finite bits and whether negative values are asked for (None: of both signs), how many
            values have ``0 < |x| <= t``.
    """

    magnitudes: Callable[[Tensor], Magnitudes]
    at_most: Callable[[Tensor, int, bool | None], int]


def _magnitudes(x: Tensor) -> Magnitudes:
    bits = bits_of_dtype(x.dtype)
    counts = torch.zeros(BINS, dtype=torch.int64, device=x.device)
    nonfinite, extremes = 0, (0, 0)
    for chunk, place in _chunks(x, bits):
        smallest, largest = map(int, torch.aminmax(chunk))
        if largest >= bits.infinity:
            outside = chunk >= bits.infinity
            nonfinite += int(torch.count_nonzero(outside))
            smallest, largest = map(int, torch.aminmax(chunk.masked_fill_(outside, 0)))
        if largest and not smallest:  # 0 becomes the largest number
            torch.sub(chunk, 1, out=place)
            place &= bits.mask
            smallest = int(place.amin()) + 1
        if largest:
            extremes = min(extremes[0] or smallest, smallest), max(extremes[1], largest)
        counts += torch.bincount(bits.bins_of(chunk, place), minlength=BINS)
    counts[0] -= nonfinite
    return Magnitudes(counts.cpu().numpy(), nonfinite, *extremes)


def _at_most(x: Tensor, end: int, negative: bool | None) -> int:
    bits = bits_of_dtype(x.dtype)
    if negative is None:
        return sum(int(torch.count_nonzero((own > 0) & (own <= end))) for own, _ in _chunks(x, bits))
    value = bits.value(end)
    own = (x < 0) & (x >= -value) if negative else (x > 0) & (x <= value)
    return int(torch.count_nonzero(own))


def _chunks(x: Tensor, bits: Bits) -> Iterator[tuple[Tensor, Tensor]]:
    """The magnitudes as integers, some at a time, with a place for as many; both are used again for the next."""
    whole = x.view(bits.integer)
    room = whole.new_empty(2, min(_CHUNK, len(whole)))
    for own in whole.split(_CHUNK) if len(whole) else ():
        magnitudes, place = room[:, : len(own)].unbind()
        yield torch.bitwise_and(own, bits.mask, out=magnitudes), place


TENSOR_OPS = Counting(_magnitudes, _at_most)


@dataclass(eq=False)
class MagnitudeCounts:
    """The magnitudes of a tensor, counted.

    Args:
        x: the tensor, one dimension.
        counting: by what.
    """

    x: Tensor
    counting: Counting = TENSOR_OPS
    bits: Bits = field(init=False)
    elements: int = field(init=False)  #: how many
    zeros: int = field(init=False)  #: how many are 0 or -0
    nonfinite: int = field(init=False)
    nonzeros: int = field(init=False)  #: finite ones but 0
    smallest_nonzero: int = field(init=False)  #: as bits; 0 where there is none
    largest: int = field(init=False)  #: of the finite ones

    def __post_init__(self) -> None:
        self.bits = bits_of_dtype(self.x.dtype)
        found = self.counting.magnitudes(self.x)
        self.elements, self.zeros, self.nonfinite = self.x.numel(), int(found.bins[0]), found.nonfinite
        self.nonzeros = self.elements - self.zeros - self.nonfinite
        self.smallest_nonzero, self.largest = found.smallest, found.largest
        # whole binades, from that of the smallest nonzero to that of the largest
        a_binade = 1 << (self.bits.sorted_by + (1 if self.bits.dropped else 0))
        self._lowest = self.bits.bin_of(self.smallest_nonzero) // a_binade
        end = (self.bits.bin_of(self.largest) // a_binade + 1) * a_binade
        bins = found.bins[self._lowest * a_binade : end].copy()
        if not self._lowest:
            bins[0] = 0
        self._first, self._by_binade = self._lowest * a_binade, bins.reshape(-1, a_binade)

    def at_most(self, bits: int, negative: bool | None = None) -> int:
        """How many finite values have ``0 < |x| <= t``, with t given as bits; of one sign, if it is said which."""
        if negative is None:
            return int(self.at_most_each(np.array([bits]))[0])
        if bits <= 0 or not self.largest or bits < self.smallest_nonzero:
            return 0
        return self.counting.at_most(self.x, bits, negative)

    def at_most_each(self, bits: Integers) -> Integers:
        """How many finite values have ``0 < |x| <= t``, for each of some t given as bits."""
        if not self.largest:
            return np.zeros_like(bits)
        ends = np.clip(bits, self.smallest_nonzero, self.largest)
        last = self.bits.bin_of(ends)
        index = last - self._first
        found: Integers = np.where(bits < self.smallest_nonzero, 0, self._cumulative[index])
        if self.bits.dropped:
            inside = (self.bits.bin_of(ends + 1) == last) & (bits >= self.smallest_nonzero) & (ends < self.largest)
            inside &= self._by_binade.reshape(-1)[index] != 0
            for position in np.flatnonzero(inside):
                found[position] = self.counting.at_most(self.x, int(ends[position]), None)
        return found

    def exponents(self) -> tuple[tuple[int, int], ...]:
        """Pairs of a binary exponent and how many nonzero values have it."""
        counts = self._by_binade.sum(1).tolist()
        found: dict[int, int] = {}
        if not self._lowest:  # the binade of 0 and of the subnormal numbers
            found = self._subnormal_exponents() if counts[0] else found
            counts[0] = 0
        lowest = self.bits.smallest_exponent + self._lowest - 1
        found |= {lowest + index: count for index, count in enumerate(counts) if count}
        return tuple(found.items())

    def _subnormal_exponents(self) -> dict[int, int]:
        chunks = (own for own, _ in _chunks(self.x, self.bits))
        chosen = torch.cat([own[(own > 0) & (own < 1 << self.bits.mantissa)] for own in chunks])
        exponents, counts = torch.unique(torch.frexp(chosen.double()).exponent, return_counts=True)
        lowest = self.bits.smallest_exponent - self.bits.mantissa - 1
        return {lowest + own: count for own, count in zip(exponents.tolist(), counts.tolist(), strict=True)}

    @cached_property
    def amax(self) -> float:
        """The largest finite magnitude."""
        return self.bits.value(self.largest)

    @cached_property
    def _cumulative(self) -> Integers:
        """Of the bins."""
        return self._by_binade.reshape(-1).cumsum()
