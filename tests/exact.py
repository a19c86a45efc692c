"""Rounding by exact rational arithmetic, one number at a time: independent of precc's, written from the definitions."""

import math
from fractions import Fraction
from functools import cache

from precc.formats import FixedPoint, FloatFormat, Overflow
from precc.rounding import RoundingMode

__all__ = ["exact_hash", "exact_round"]

_HALF = Fraction(1, 2)


def exact_round(
    x: float, fmt: FloatFormat | FixedPoint, mode: RoundingMode = RoundingMode.NEAREST_EVEN, random: int = 0
) -> float:
    """`x` on the grid of `fmt`; `random` is the 31-bit number of a stochastic rounding."""
    if math.isnan(x):
        return x
    if math.isinf(x):
        return _overflowed(fmt, x > 0)
    magnitude = abs(Fraction(x)) / _scale(fmt)
    if isinstance(fmt, FloatFormat) and not fmt.zero and magnitude:
        magnitude = max(magnitude, Fraction(2) ** fmt.emin)
    rounded = _on_grid(magnitude, fmt, mode, random) * _scale(fmt)
    signed = -rounded if x < 0 else rounded
    low, high = _ends(fmt)
    if low <= signed <= high:
        value = float(signed)
        return math.copysign(value, x) if value or _keeps_negative_zero(fmt) else 0.0
    if mode is RoundingMode.TOWARD_ZERO:
        return fmt.max if signed > 0 else fmt.low
    return _overflowed(fmt, signed > high)


def exact_hash(key: int, slot: int, index: int) -> int:
    """The 32-bit hash of an element, in plain integers."""
    word, long = 2**32, 2**64

    def splitmix(number: int) -> int:
        z = (number + 0x9E3779B97F4A7C15) % long
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % long
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % long
        return z ^ (z >> 31)

    state = splitmix(splitmix(key % long) ^ (slot % long))
    if index // word:
        state = splitmix(state ^ splitmix(index // word))
    x = (index * 0x9E3779B9 + state // word) % word
    x = (x ^ (x >> 16)) * 0x7FEB352D % word ^ (state % word)
    x = (x ^ (x >> 15)) * 0x846CA68B % word
    return x ^ (x >> 16)


@cache
def _ends(fmt: FloatFormat | FixedPoint) -> tuple[Fraction, Fraction]:
    return Fraction(fmt.low), Fraction(fmt.max)


@cache
def _scale(fmt: FloatFormat | FixedPoint) -> Fraction:
    return Fraction(fmt.scale) if isinstance(fmt, FloatFormat) else Fraction(1)


def _keeps_negative_zero(fmt: FloatFormat | FixedPoint) -> bool:
    return isinstance(fmt, FloatFormat) and fmt.has_negative_zero


def _quantum(magnitude: Fraction, fmt: FloatFormat | FixedPoint) -> Fraction:
    if isinstance(fmt, FixedPoint):
        return Fraction(2) ** -fmt.fraction
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > magnitude
    if exponent >= fmt.emin:
        return Fraction(2) ** (exponent - fmt.mantissa_bits)
    return Fraction(2) ** (fmt.emin - fmt.mantissa_bits if fmt.subnormals else fmt.emin)


def _on_grid(magnitude: Fraction, fmt: FloatFormat | FixedPoint, mode: RoundingMode, random: int) -> Fraction:
    if not magnitude:
        return magnitude
    quantum = _quantum(magnitude, fmt)
    steps = magnitude / quantum
    below = steps.numerator // steps.denominator
    rest = steps - below
    if mode is RoundingMode.NEAREST_EVEN:
        up = rest > _HALF or (rest == _HALF and _is_odd(below, quantum, fmt))
    elif mode is RoundingMode.NEAREST_AWAY:
        up = rest >= _HALF
    elif mode is RoundingMode.TOWARD_ZERO:
        up = False
    else:
        up = math.floor(rest * 2**31) + random >= 2**31
    return (below + up) * quantum


def _is_odd(below: int, quantum: Fraction, fmt: FloatFormat | FixedPoint) -> bool:
    if isinstance(fmt, FixedPoint) or fmt.mantissa_bits or not below:
        return below % 2 == 1
    # one significand bit: IEEE 754-2019 takes the larger neighbour, P3109 the one whose exponent field is even
    field = quantum.numerator.bit_length() - quantum.denominator.bit_length() + math.floor(fmt.bias)
    return field % 2 == 1 if fmt.ties_by_code else True


def _overflowed(fmt: FloatFormat | FixedPoint, positive: bool) -> float:
    rule = fmt.overflow if isinstance(fmt, FloatFormat) else Overflow.SATURATE
    if rule is Overflow.SATURATE:
        return fmt.max if positive else fmt.low
    if rule is Overflow.INF and (positive or not isinstance(fmt, FloatFormat) or fmt.signed):
        return math.inf if positive else -math.inf
    return math.nan
