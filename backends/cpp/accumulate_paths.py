"""Which sums of a matrix product the machine's own arithmetic rounds to the values that exact sums give.

An addition in the carrier is itself rounded, and rounding that to a format rounds twice. It makes no difference where
the sum is exact, or where it cannot come to lie on the other side of a tie: the bits that the operands use decide that.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from precc.accumulation.accumulator import Accumulator, Order
from precc.accumulation.tensor_ops import grid_of
from precc.rounding import RoundingMode
from precc.rounding.row import Grid
from precc.rounding.tensor_ops import Carrier, carrier_of_dtype

__all__ = ["FLOAT32", "FLOAT64", "UNREACHED", "Facts", "Kind", "Path", "choose_path", "is_fixed", "kind_of"]

#: What a path does at the ends of the formats; as Limit in accumulate.cpp.
UNREACHED, CLAMPED, WATCHED = 0, 1, 2
FLOAT32 = carrier_of_dtype(torch.float32)
FLOAT64 = carrier_of_dtype(torch.float64)


@dataclass(frozen=True, slots=True)
class Facts:
    """Which bits the values of a tensor use.

    Args:
        least_bit: base-2 logarithm of the largest power of two of which all values are multiples.
        width: significand bits of the longest one.
        amax: the largest magnitude; infinite or NaN if any value is.
    """

    least_bit: int
    width: int
    amax: float


@dataclass(frozen=True, slots=True)
class Path:
    """A fast path: the type whose own arithmetic it uses, and what it does at the ends of the formats.

    With `ties`, a sum that lies halfway between two values is looked at again, for it may be inexact.
    """

    carrier: Carrier
    limit: int
    ties: bool = False


@dataclass(frozen=True, eq=False)
class Kind:
    """An accumulator with what depends on it alone."""

    accumulator: Accumulator
    grid: Grid
    product_grid: Grid | None

    @property
    def grids(self) -> list[Grid]:
        """Of the sum, and of the product where it is rounded."""
        return [self.grid] if self.product_grid is None else [self.grid, self.product_grid]

    @cached_property
    def nearest(self) -> bool:
        """Whether it rounds to nearest even."""
        return self.accumulator.rounding.mode is RoundingMode.NEAREST_EVEN

    @cached_property
    def may_be_fast(self) -> bool:
        """Whether a fast path has this kind of sum: then the operands are looked at."""
        options, mode = self.accumulator, self.accumulator.rounding.mode
        simple = options.order in (Order.SEQUENTIAL, Order.BLOCKED) and options.inner is None
        if options.chunk > 1 or options.compensated or not simple:
            return False
        fits = _is_regular if self.nearest else _is_short
        return (self.nearest or mode is RoundingMode.STOCHASTIC) and all(fits(grid) for grid in self.grids)


@lru_cache(maxsize=1024)
def kind_of(accumulator: Accumulator) -> Kind:
    """The accumulator with its grids."""
    product = accumulator.product
    return Kind(accumulator, grid_of(accumulator.format), None if product is None else grid_of(product))


def is_fixed(grid: Grid) -> bool:
    """Whether the quantum is the same everywhere."""
    return grid.emin > 0 and grid.mantissa_bits == 52


def _is_regular(grid: Grid) -> bool:
    return is_fixed(grid) or (1 <= grid.mantissa_bits <= 50 and grid.k_min == grid.emin - grid.mantissa_bits)


def _is_short(grid: Grid) -> bool:
    """Random numbers of 31 bits are then added within the bits that are dropped."""
    return _is_regular(grid) and grid.mantissa_bits <= 20 and grid.negative_zero == 1


def all_zero(a: Facts, b: Facts) -> bool:
    """Whether every term of a product is a zero; a sum that starts from 0 is then 0 on every kind with a fast path."""
    return (a.amax == 0 and math.isfinite(b.amax)) or (b.amax == 0 and math.isfinite(a.amax))


def choose_path(kind: Kind, a: Facts, b: Facts, depth: int, own: Carrier) -> Path | None:
    """The cheapest path whose results are those of exact sums; None where none is sure.

    All values on the way are multiples of ``2**g``, g the sum of the operands' least bits: a grid that is finer changes
    none of them, and multiples of a coarser quantum are such multiples. (Where a sum was cut to an end of the format
    that is none, the quantum there is below ``2**g``: sums from it that come back into the format are multiples of that
    quantum, of one bit more than the format's at most, and exact.) Let the carrier have M + 1 significand bits, s be
    the sum of two such values, ``2**e <= |s| < 2**(e + 1)``, and z its rounding to the carrier. s and z round to the
    same value of the format if

    - ``|s| <= 2**(g + M + 1)``: then z = s; or
    - to nearest, the format has p bits with ``2 p <= M``, and the terms have at most p. For let z differ from s. One of
      the two, x, then has a bit below ``2**(e - M)``, so ``|x| < 2**(e - M - 1 + p) <= 2**(e - p - 1)``. The other, y,
      has p bits and an exponent of e or more (it would be at least ``2**(e - p)`` below ``2**e`` otherwise, and x could
      not carry s there): it is a multiple of the quantum at e, ``2**(e - p + 1)``. So y is ``2**(e - p)`` or more from
      every point halfway between two neighbours, and s more than ``2**(e - p - 1)``, which exceeds
      ``|z - s| <= 2**(e - M - 1)``: s and z lie on the same side of all these points. Below the normal numbers of the
      format x is the product, as the sum before is a multiple of the quantum there, which is above ``2**(e - M)``; y is
      that sum, and the quantum is larger, so the same holds; or
    - to nearest, z is no such point (all of them are values of the carrier): s lies on the same side of all then. Where
      z is one, ``s - z``, which the carrier holds (TwoSum; Knuth 1969), tells the side. It costs about twice the time.

    Args:
        kind: of the accumulator.
        a: of one operand.
        b: of the other.
        depth: number of terms.
        own: the carrier of the operands.
    """
    if not kind.may_be_fast or not 0 < a.amax * b.amax < math.inf:
        return None
    limits = _Limits(kind, a, b, depth)
    if own is FLOAT32 and kind.nearest and limits.fit(FLOAT32):
        return Path(FLOAT32, limits.at_the_ends())
    if limits.fit(FLOAT64):
        return Path(FLOAT64, limits.at_the_ends())
    halves = kind.grid.k_min > 2 - FLOAT64.bias  # half a quantum is a normal number
    if kind.nearest and halves and limits.fit_but_for_ties(FLOAT64):
        return Path(FLOAT64, limits.at_the_ends(), ties=True)
    return None


class _Limits:
    """Bounds of everything that occurs on the way of a product.

    Args:
        kind: of the accumulator.
        a: of one operand.
        b: of the other.
        depth: number of terms.
    """

    def __init__(self, kind: Kind, a: Facts, b: Facts, depth: int) -> None:
        self.kind = kind
        self.least_bit, self.width = a.least_bit + b.least_bit, a.width + b.width
        self.product = a.amax * b.amax * (1 + 2.0**-50)
        # a product that is rounded at most doubles, or becomes the smallest quantum
        rounded = kind.product_grid
        self.term = self.product if rounded is None else 2 * self.product + 2.0**rounded.k_min
        # to nearest, a rounding at most doubles what is added, as the sum before is on the grid; twice so in blocks
        self.total = 2.0 * depth * self.term * (2 if kind.accumulator.order is Order.BLOCKED else 1)

    def fit_but_for_ties(self, carrier: Carrier) -> bool:
        """Whether products are exact in the carrier, and the constant that rounds is."""
        if self.least_bit < 1 - carrier.bias or self.width > carrier.mantissa_bits + 1:
            return False
        return all(self._reaches(grid, carrier) for grid in self.kind.grids)

    def fit(self, carrier: Carrier) -> bool:
        """Whether the arithmetic of the carrier rounds to the same values."""
        m, high = carrier.mantissa_bits, self.kind.grid.high
        if not self.fit_but_for_ties(carrier):
            return False
        largest = 2 * (min(high, self.total) if self.kind.nearest else high) + self.term
        fraction, exponent = math.frexp(largest)
        exact = math.isfinite(largest) and exponent - (fraction == 0.5) <= self.least_bit + m + 1
        return exact or (self.kind.nearest and self._has_no_false_ties(m))

    def _reaches(self, grid: Grid, carrier: Carrier) -> bool:
        """Whether the constant that rounds is a normal number, and exact for all magnitudes that can occur."""
        m, bias = carrier.mantissa_bits, carrier.bias
        if not self.kind.nearest:
            return self.least_bit >= grid.emin - m and max(grid.high, self.product) < 2.0**300 and grid.emin > -bias
        most = 2 * self.total + self.term
        if is_fixed(grid):
            return grid.k_min + m < bias and grid.k_min >= 1 - bias and most < 2.0 ** (grid.k_min + m - 1)
        return m - grid.mantissa_bits >= 2 and most < 2.0 ** (bias - 2 - m + grid.mantissa_bits)

    def _has_no_false_ties(self, m: int) -> bool:
        grid, rounded = self.kind.grid, self.kind.product_grid
        width = self.width if rounded is None else min(self.width, rounded.mantissa_bits + 1)
        return not is_fixed(grid) and width <= grid.mantissa_bits + 1 and 2 * (grid.mantissa_bits + 1) <= m

    def at_the_ends(self) -> int:
        """Nothing if no value can get there, saturation, or a look whether one did."""
        pairs = list(zip(self.kind.grids, (self.total, self.term), strict=False))
        if self.kind.nearest and all(largest <= min(grid.high, -grid.low) for grid, largest in pairs):
            return UNREACHED
        saturates = all(grid.above == grid.high and grid.below == grid.low for grid, _ in pairs)
        return CLAMPED if saturates else WATCHED
