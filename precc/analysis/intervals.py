"""Interval arithmetic in float64, rounded outward: a result holds every exact result of points of its arguments.

Moore, Kearfott, Cloud 2009, Introduction to Interval Analysis. One operation of IEEE 754 is stepped outward by one
number. A sum of n products, added in any order, is within ``gamma_n = n u / (1 - n u)`` times the sum of magnitudes
(Higham 2002, sections 3.1 and 4.2), and with it products of matrices are bounded by midpoints and radii (Rump 1999,
Fast and parallel interval arithmetic). Infinite ends mean unbounded; what comes to NaN is the whole line.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.errors import AnalysisError

__all__ = [
    "Interval",
    "add",
    "bilinear",
    "checked",
    "divide",
    "down",
    "gamma",
    "intersect",
    "multiply",
    "outward",
    "point",
    "reduced_to",
    "scale",
    "square",
    "subtract",
    "up",
    "whole",
]

_INF = float("inf")

#: Above what a sum of fewer than 2**50 products loses by underflow, and so large that further products are normal.
_UNDERFLOW = 2.0**-960


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """Elementwise ``low <= x <= high``, both float64, of one shape."""

    low: Tensor
    high: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of both ends."""
        return self.low.shape

    @property
    def magnitude(self) -> Tensor:
        """The largest ``|x|``."""
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def is_point(self) -> bool:
        """Whether it holds one tensor alone."""
        return torch.equal(self.low, self.high)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Interval":
        """Both ends by a function that only moves values or is increasing and exact."""
        return Interval(function(self.low), function(self.high))

    def contains(self, x: Tensor) -> bool:
        """Whether every element of `x` is inside.

        >>> Interval(torch.tensor([0.0]), torch.tensor([1.0])).contains(torch.tensor([2.0]))
        False
        """
        return bool(((self.low <= x) & (x <= self.high)).all())


def checked(low: Tensor, high: Tensor) -> Interval:
    """The interval with these ends; where an end is NaN, unbounded on that side."""
    low, high = low.double(), high.double()
    return Interval(torch.where(low.isnan(), -_INF, low), torch.where(high.isnan(), _INF, high))


def point(x: Tensor | float) -> Interval:
    """The interval of one value."""
    value = torch.as_tensor(x, dtype=torch.float64)
    return Interval(value, value)


def whole(shape: torch.Size | tuple[int, ...]) -> Interval:
    """The whole line in every element."""
    return Interval(torch.full(shape, -_INF, dtype=torch.float64), torch.full(shape, _INF, dtype=torch.float64))


def down(x: Tensor) -> Tensor:
    """The next float64 below."""
    return torch.nextafter(x, torch.full_like(x, -_INF))


def up(x: Tensor) -> Tensor:
    """The next float64 above."""
    return torch.nextafter(x, torch.full_like(x, _INF))


def gamma(n: int) -> float:
    """At least ``2 gamma_{n+4}``, with which a bound computed in float64 itself is one too (Higham 2002, 3.1)."""
    if n > 2**40:
        raise AnalysisError(f"a sum of {n} terms is too long to be bounded in float64")
    return 2.0 * (n + 8) * 2.0**-53 * 1.001


def outward(low: Tensor, high: Tensor, margin: Tensor | float = 0.0) -> Interval:
    """``[low - margin, high + margin]``, each end stepped outward once more."""
    return checked(down(low - margin), up(high + margin))


def intersect(x: Interval, low: Tensor | float, high: Tensor | float) -> Interval:
    """What of `x` is in ``[low, high]``, where that is known to hold its values; never empty."""
    bounds = [torch.as_tensor(end, dtype=torch.float64) for end in (low, high)]
    inner = Interval(torch.maximum(x.low, bounds[0]), torch.minimum(x.high, bounds[1]))
    return Interval(torch.minimum(inner.low, inner.high), torch.maximum(inner.low, inner.high))


def add(x: Interval, y: Interval) -> Interval:
    """``x + y``; where one of them is 0, the other one as it is."""
    low, high = x.low + y.low, x.high + y.high
    exact_low, exact_high = (x.low == 0) | (y.low == 0), (x.high == 0) | (y.high == 0)
    return checked(torch.where(exact_low, low, down(low)), torch.where(exact_high, high, up(high)))


def subtract(x: Interval, y: Interval) -> Interval:
    """``x - y``."""
    return add(x, Interval(-y.high, -y.low))


def multiply(x: Interval, y: Interval) -> Interval:
    """``x y``, of the four products of ends; that with 0 is 0."""
    products = [(a, b, a * b) for a in (x.low, x.high) for b in (y.low, y.high)]
    zeros = [(a == 0) | (b == 0) for a, b, _ in products]
    lows = [torch.where(zero, 0.0, down(ab)) for zero, (_, _, ab) in zip(zeros, products, strict=True)]
    highs = [torch.where(zero, 0.0, up(ab)) for zero, (_, _, ab) in zip(zeros, products, strict=True)]
    return checked(torch.stack(lows).amin(0), torch.stack(highs).amax(0))


def scale(x: Interval, factor: float) -> Interval:
    """``factor x``; exact for 1 and -1."""
    if factor == 1:
        return x
    return Interval(-x.high, -x.low) if factor == -1 else multiply(x, point(factor))


def square(x: Interval) -> Interval:
    """``x**2``, which is at least 0."""
    crossing = (x.low <= 0) & (x.high >= 0)
    smallest = torch.where(crossing, 0.0, torch.minimum(x.low.abs(), x.high.abs()))
    largest = x.magnitude
    return checked(down(smallest * smallest).clamp_min(0), torch.where(largest == 0, 0.0, up(largest * largest)))


def divide(x: Interval, y: Interval) -> Interval:
    """``x / y``; the whole line where `y` holds 0."""
    quotients = torch.stack([a / b for a in (x.low, x.high) for b in (y.low, y.high)])
    exact, zero = quotients.abs() == 0, (y.low <= 0) & (y.high >= 0)
    exact &= ((x.low == 0) & (x.high == 0)).expand(quotients.shape)
    low = torch.where(exact, 0.0, down(quotients)).amin(0)
    high = torch.where(exact, 0.0, up(quotients)).amax(0)
    return checked(torch.where(zero, -_INF, low), torch.where(zero, _INF, high))


def bilinear(function: Callable[[Tensor, Tensor], Tensor], x: Interval, y: Interval, terms: int) -> Interval:
    """A product of matrices or a convolution: each result the sum of at most so many products of an x and a y.

    ``mid = mx my``, ``rad = |mx| ry + rx (|my| + ry)`` (Rump 1999), and gamma_n of the magnitudes of all terms.
    """
    (mx, rx), (my, ry) = _midpoint(x), _midpoint(y)
    error = gamma(terms)
    middle = function(mx, my)
    radius = function(mx.abs(), ry + error * my.abs()) + function(rx, my.abs() + ry)
    return outward(middle, middle, radius * (1 + 2 * error) + _UNDERFLOW)


def _midpoint(x: Interval) -> tuple[Tensor, Tensor]:
    if x.low is x.high:
        return x.low, torch.zeros_like(x.low)
    middle = torch.where(x.low == x.high, x.low, x.low / 2 + x.high / 2)
    radius = torch.maximum(up(middle - x.low), up(x.high - middle))
    return middle, torch.where(x.low == x.high, 0.0, radius)


def reduced_to(x: Interval, shape: torch.Size | tuple[int, ...]) -> Interval:
    """Summed over the dimensions along which a tensor of `shape` was broadcast to the shape of `x`."""
    if x.shape == torch.Size(shape):
        return x
    terms = max(1, x.low.numel() // max(1, torch.Size(shape).numel()))
    sums = x.map(lambda end: end.sum_to_size(shape))
    if terms == 1:
        return sums
    return outward(sums.low, sums.high, gamma(terms) * x.magnitude.sum_to_size(shape))
