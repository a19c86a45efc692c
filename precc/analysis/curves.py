"""Functions of one number over intervals: the range of their values, and that of their slopes between two points.

Between two points of an interval, ``f(x) - f(y) = s (x - y)`` with s in the range of the derivative (the mean value
theorem; of piecewise linear functions, of the slopes of the pieces that meet the interval). A function that rises and
falls between known turning points takes its extremes at the ends of the interval or at a turning point inside of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.analysis.intervals import Interval, checked, down, intersect, outward, up, whole

__all__ = ["EXP", "GELU", "GELU_TANH", "LOG", "RSQRT", "SIGMOID", "SILU", "SQRT", "TANH", "Curve", "Pieces", "power"]

_INF = math.inf

#: Relative error of torch's exp, log, tanh, erf, pow in float64 and of a few operations on them: 32 units in the last
#: place. Those of SLEEF and MKL, which torch calls, are documented to be below 1 (u10) and 1.5 (erfc).
_RELATIVE = 2.0**-48
_SMALLEST = 2.0**-1000

_Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Range:
    """A function that is monotone between turning points.

    Args:
        at: the function.
        size: the scale of its error, which is `_RELATIVE` times it.
        turns: where it turns, and its value there, both correct to 1e-9 and 1e-15.
        bounds: that all values keep.
    """

    at: _Function
    size: _Function
    turns: tuple[tuple[float, float], ...] = ()
    bounds: tuple[float, float] = (-_INF, _INF)

    def over(self, x: Interval) -> Interval:
        """The range of its values over an interval."""
        ends = torch.stack([self.at(x.low), self.at(x.high)])
        margin = torch.stack([self.size(x.low), self.size(x.high)]) * _RELATIVE + _SMALLEST
        low, high = (ends - margin).amin(0), (ends + margin).amax(0)
        for place, value in self.turns:
            inside = (x.low <= place + 1e-9) & (x.high >= place - 1e-9)
            low = torch.where(inside, low.clamp_max(value - abs(value) * 1e-14), low)
            high = torch.where(inside, high.clamp_min(value + abs(value) * 1e-14), high)
        return intersect(outward(low, high), *self.bounds)


@dataclass(frozen=True, slots=True)
class Curve:
    """A differentiable function, on numbers above `above` alone: over other intervals its range is the whole line."""

    values: _Range
    derivative: _Range
    above: float = -_INF

    def value(self, x: Interval) -> Interval:
        """The range of its values."""
        return self._inside(x, self.values.over(x))

    def slope(self, x: Interval) -> Interval:
        """The range of its slopes."""
        return self._inside(x, self.derivative.over(x))

    def _inside(self, x: Interval, found: Interval) -> Interval:
        if self.above == -_INF:
            return found
        line, inside = whole(x.shape), x.low > self.above
        return Interval(torch.where(inside, found.low, line.low), torch.where(inside, found.high, line.high))


@dataclass(frozen=True, slots=True)
class Pieces:
    """A piecewise linear function, with one slope more than breaks."""

    at: _Function
    breaks: tuple[float, ...]
    slopes: tuple[float, ...]

    def value(self, x: Interval) -> Interval:
        """The range of its values; exact for slopes 0, 1 and -1."""
        low, high = (bound(torch.stack([self.at(x.low), self.at(x.high)]), 0) for bound in (torch.amin, torch.amax))
        for place in self.breaks:
            value = self.at(torch.tensor(place, dtype=torch.float64))
            inside = (x.low <= place) & (x.high >= place)
            low = torch.where(inside, torch.minimum(low, value), low)
            high = torch.where(inside, torch.maximum(high, value), high)
        exact = all(slope in (0, 1, -1) for slope in self.slopes)
        return checked(low, high) if exact else checked(down(low), up(high))

    def slope(self, x: Interval) -> Interval:
        """The range of the slopes of pieces that meet it; of a single point the slopes on both sides."""
        low, high = torch.full_like(x.low, _INF), torch.full_like(x.high, -_INF)
        starts, ends = (-_INF, *self.breaks), (*self.breaks, _INF)
        for start, end, slope in zip(starts, ends, self.slopes, strict=True):
            meets = torch.where(x.low < x.high, (x.low < end) & (x.high > start), (x.low <= end) & (x.high >= start))
            low, high = (
                torch.where(meets, low.clamp_max(slope), low),
                torch.where(meets, high.clamp_min(slope), high),
            )
        return Interval(low, high)


def power(exponent: float) -> Curve:
    """``x**p``: everywhere for whole p of at least 1, else for x > 0."""
    p, whole_number = exponent, exponent == int(exponent) and exponent >= 1
    even, odd, turn = whole_number and p % 2 == 0, whole_number and p % 2 == 1, ((0.0, 0.0),)
    return Curve(
        _Range(lambda x: x.pow(p), lambda x: x.pow(p).abs(), turn if even else ()),
        _Range(lambda x: p * x.pow(p - 1), lambda x: (p * x.pow(p - 1)).abs(), turn if odd and p > 1 else ()),
        -_INF if whole_number else 0.0,
    )


def _logistic(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def _sech2(x: Tensor) -> Tensor:
    """``4 e**-2|x| / (1 + e**-2|x|)**2``, in which nothing cancels."""
    small = torch.exp(-2 * x.abs())
    return 4 * small / (1 + small).square()


def _bounded(x: Tensor) -> Tensor:
    """Beyond where the functions below are at their limits, in float64."""
    return x.clamp(-1e4, 1e4)


def _normal(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _identity_times(gate: _Function) -> _Function:
    return lambda x: torch.where(x == -_INF, 0.0, x * gate(x))


_K, _A = math.sqrt(2 / math.pi), 0.044715


def _inner(x: Tensor) -> Tensor:
    return _K * x * (1 + _A * x * x)


def _tanh_gate(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(_inner(x)))


def _tanh_slope(x: Tensor) -> Tensor:
    x = _bounded(x)
    return _tanh_gate(x) + 0.5 * x * _sech2(_inner(x)) * _K * (1 + 3 * _A * x * x)


def _silu_slope(x: Tensor) -> Tensor:
    x = _bounded(x)
    return _logistic(x) * (1 + x * _logistic(-x))


def _gelu_slope(x: Tensor) -> Tensor:
    x = _bounded(x)
    return _normal(x) + x * _density(x)


def _one(x: Tensor) -> Tensor:
    return torch.ones_like(x)


def _of_gate(gate: _Function, slope: _Function, low: tuple[float, float], turns: tuple[float, float, float]) -> Curve:
    """Of ``x gate(x)``, which falls to one least value, and whose slope turns at -t and t."""
    place, least, most = turns
    both = ((-place, least), (place, most))
    values = _Range(_identity_times(gate), lambda x: x.abs(), (low,), (low[1] - 1e-14, _INF))
    return Curve(values, _Range(slope, lambda x: 4 * _one(x), both, (least - 1e-14, most + 1e-14)))


EXP = Curve(
    _Range(torch.exp, torch.exp, bounds=(0, _INF)),
    _Range(torch.exp, torch.exp, bounds=(0, _INF)),
)
LOG = Curve(
    _Range(torch.log, lambda x: x.log().abs()),
    _Range(torch.reciprocal, lambda x: x.reciprocal().abs()),
    0.0,
)
SQRT = Curve(
    _Range(torch.sqrt, torch.sqrt, bounds=(0, _INF)),
    _Range(lambda x: 0.5 / x.sqrt(), lambda x: 0.5 / x.sqrt(), bounds=(0, _INF)),
    -5e-324,
)
RSQRT = Curve(
    _Range(lambda x: 1 / x.sqrt(), lambda x: 1 / x.sqrt(), bounds=(0, _INF)),
    _Range(lambda x: -0.5 / (x * x.sqrt()), lambda x: 0.5 / (x * x.sqrt()), bounds=(-_INF, 0)),
    0.0,
)
TANH = Curve(
    _Range(torch.tanh, lambda x: x.tanh().abs(), bounds=(-1, 1)), _Range(_sech2, _sech2, ((0.0, 1.0),), (0, 1))
)
SIGMOID = Curve(
    _Range(_logistic, _logistic, bounds=(0, 1)),
    _Range(lambda x: 0.25 * _sech2(x / 2), lambda x: _sech2(x / 2), ((0.0, 0.25),), (0, 0.25)),
)
SILU = _of_gate(
    _logistic,
    _silu_slope,
    (-1.2784645427610738, -0.27846454276107380),
    (2.3993572805154677, -0.09983932012886692, 1.09983932012886692),
)
GELU = _of_gate(
    _normal,
    _gelu_slope,
    (-0.7517915246935645, -0.16997120747990366),
    (1.4142135623730950, -0.12890414518515479, 1.12890414518515479),
)
GELU_TANH = _of_gate(
    _tanh_gate,
    _tanh_slope,
    (-0.7524614220710163, -0.17004075057125405),
    (1.4185040087908284, -0.12899306865877177, 1.12899306865877177),
)
