"""Counting the magnitudes of a tensor by their bit patterns, in one histogram that answers most questions.

Magnitudes are compared as integers, the bits without the sign, in which they have the same order. The histogram has
two bins for each value of the leading bits: one for that value itself, one for all between it and the next.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from precc.errors import FormatError

__all__ = ["Bits", "MagnitudeCounts", "bits_of_dtype", "stored"]

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
        return float(self.floats(torch.tensor(bits)))

    def bin_of(self, bits: int) -> int:
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
_BINS = 1 << 15


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
    x = x[
        tuple(0 if stride == 0 and size > 1 else slice(None) for stride, size in zip(x.stride(), x.shape, strict=True))
    ]
    return x.permute(sorted(range(x.dim()), key=x.stride, reverse=True)).reshape(-1)


@dataclass(eq=False)
class MagnitudeCounts:
    """The magnitudes of a tensor, counted.

    Args:
        x: the tensor, one dimension.
    """

    x: Tensor
    bits: Bits = field(init=False)
    nonfinite: int = field(init=False, default=0)
    smallest_nonzero: int = field(init=False, default=0)  #: as bits; 0 where there is none
    largest: int = field(init=False, default=0)  #: of the finite ones

    def __post_init__(self) -> None:
        self.bits = bits_of_dtype(self.x.dtype)
        counts = torch.zeros(_BINS, dtype=torch.int64, device=self.x.device)
        for chunk, place in self._chunks():
            smallest, largest = map(int, torch.aminmax(chunk))
            if largest >= self.bits.infinity:
                outside = chunk >= self.bits.infinity
                self.nonfinite += int(torch.count_nonzero(outside))
                smallest, largest = map(int, torch.aminmax(chunk.masked_fill_(outside, 0)))
            self._extend(chunk, smallest, largest, place)
            counts += torch.bincount(self.bits.bins_of(chunk, place), minlength=_BINS)
        self._histogram: Any = counts.cpu().numpy()  # single elements of it are read fast

    def _extend(self, chunk: Tensor, smallest: int, largest: int, place: Tensor) -> None:
        """The extremes of all, by those of some; the smallest may be 0."""
        if not largest:
            return
        if not smallest:  # 0 becomes the largest number
            torch.sub(chunk, 1, out=place)
            place &= self.bits.mask
            smallest = int(place.amin()) + 1
        self.largest = max(self.largest, largest)
        self.smallest_nonzero = min(self.smallest_nonzero or smallest, smallest)

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The magnitudes as integers, some at a time, with a place for as many; both are used again for the next."""
        whole = self.x.view(self.bits.integer)
        room = whole.new_empty(2, min(_CHUNK, len(whole)))
        for own in whole.split(_CHUNK) if len(whole) else ():
            magnitudes, place = room[:, : len(own)].unbind()
            yield torch.bitwise_and(own, self.bits.mask, out=magnitudes), place

    @property
    def elements(self) -> int:
        """How many."""
        return self.x.numel()

    @property
    def zeros(self) -> int:
        """How many are 0 or -0."""
        return self._bin(0) - self.nonfinite

    @property
    def nonzeros(self) -> int:
        """Finite ones but 0."""
        return self.elements - self.zeros - self.nonfinite

    def at_most(self, bits: int, negative: bool | None = None) -> int:
        """How many finite values have ``0 < |x| <= t``, with t given as bits; of one sign, if it is said which."""
        if bits <= 0 or not self.largest or bits < self.smallest_nonzero:
            return 0
        if negative is not None:
            end = self.bits.value(bits)
            own = (self.x < 0) & (self.x >= -end) if negative else (self.x > 0) & (self.x <= end)
            return int(torch.count_nonzero(own))
        if bits >= self.largest:
            return self.nonzeros
        last = self.bits.bin_of(bits)
        whole = last % 2 == 0 or not self.bits.dropped or self.bits.bin_of(bits + 1) > last
        if whole or not self._bin(last):
            return int(self._cumulative[last - self.bits.bin_of(self.smallest_nonzero)])
        return (
            sum(int(torch.count_nonzero(chunk <= bits)) for chunk, _ in self._chunks()) - self._bin(0) + self.nonfinite
        )

    def exponents(self) -> tuple[tuple[int, int], ...]:
        """Pairs of a binary exponent and how many nonzero values have it."""
        a_binade = 1 << (self.bits.sorted_by + (1 if self.bits.dropped else 0))
        by_binade = self._histogram.reshape(-1, a_binade).sum(1).tolist()
        normal = {self.bits.smallest_exponent + index: count for index, count in enumerate(by_binade[1:]) if count}
        subnormal = self._subnormal_exponents() if by_binade[0] > self._bin(0) else {}
        return tuple(sorted({**subnormal, **normal}.items()))

    def _subnormal_exponents(self) -> Mapping[int, int]:
        chosen = torch.cat([own[(own > 0) & (own < 1 << self.bits.mantissa)] for own, _ in self._chunks()])
        exponents, counts = torch.unique(torch.frexp(chosen.double()).exponent, return_counts=True)
        lowest = self.bits.smallest_exponent - self.bits.mantissa - 1
        return {lowest + own: count for own, count in zip(exponents.tolist(), counts.tolist(), strict=True)}

    def _bin(self, index: int) -> int:
        return int(self._histogram[index])

    @cached_property
    def _cumulative(self) -> Any:
        """From the bin of the smallest magnitude that is not 0."""
        first, last = self.bits.bin_of(self.smallest_nonzero), self.bits.bin_of(self.largest)
        return self._histogram[first : last + 1].cumsum()
