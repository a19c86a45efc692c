"""Rounding to nearest, ties to even, by exact rational arithmetic: independent of precc's, one number at a time."""

import math
from fractions import Fraction

from precc.formats import FloatFormat, Overflow


def exact_round(x: float, fmt: FloatFormat) -> float:
    """`x` on the grid of `fmt`."""
    if math.isnan(x) or x == 0.0:
        return x
    overflow = {Overflow.SATURATE: fmt.max, Overflow.INF: math.inf, Overflow.NAN: math.nan}[fmt.overflow]
    if math.isinf(x):
        return math.copysign(overflow, x)
    magnitude = abs(Fraction(x))
    exponent = math.frexp(abs(x))[1] - 1
    quantum = Fraction(2) ** max(exponent - fmt.mantissa_bits, fmt.emin - fmt.mantissa_bits)
    steps = magnitude / quantum
    below = steps.numerator // steps.denominator
    rest = steps - below
    # one significand bit: both neighbours are odd, and the larger one is taken (IEEE 754-2019, 4.3.1)
    one_bit = fmt.mantissa_bits == 0 and below >= 1
    up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and (below % 2 == 1 or one_bit))
    rounded = (below + up) * quantum
    result = overflow if rounded > Fraction(fmt.max) else float(rounded)
    return math.copysign(result, x)
