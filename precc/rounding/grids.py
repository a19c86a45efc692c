"""Grids: the representable values of a format, as the numbers that every kernel computes with."""

import math
from dataclasses import dataclass, replace

from precc.formats import ElementFormat, FixedPoint, FloatFormat, NestedInteger, Overflow, PowerLaw

__all__ = ["Grid", "grid_of_element"]

#: Beyond every exponent: a format without normal numbers has one quantum everywhere.
_FAR = 9999


@dataclass(frozen=True, slots=True)
class Grid:
    """The representable values, and what becomes of those beyond them.

    The quantum of ``|x| < 2**emin`` is ``2**k_min``, above it ``2**(floor(log2 |x|) - mantissa_bits)``; results
    above `high` become `above`, under `low` become `below`.

    Args:
        negative_zero: 1 where -0 is kept, else it becomes 0.
        ties: with one significand bit, 0: ties go up; 1 or 2: to the even code of a format of odd or even bias.
        tiny: magnitudes between 0 and this count as this (formats without zero).
    """

    mantissa_bits: int
    emin: int
    k_min: int
    low: float
    high: float
    below: float
    above: float
    negative_zero: int
    ties: int
    tiny: float

    @property
    def has_one_quantum(self) -> bool:
        """Whether it is ``2**k_min`` everywhere, as of fixed point."""
        return self.emin >= _FAR


def grid_of_element(fmt: ElementFormat) -> Grid:
    """The grid of the (first) rounding into a format of single values."""
    if isinstance(fmt, FloatFormat):
        return _float_grid(fmt)
    if isinstance(fmt, NestedInteger):
        return _fixed_grid(fmt.stages[0])
    return _power_grid(fmt) if isinstance(fmt, PowerLaw) else _fixed_grid(fmt)


def _float_grid(fmt: FloatFormat) -> Grid:
    if fmt.scale != 1.0:
        return _float_grid(replace(fmt, bias=math.floor(fmt.bias)))
    overflow = {Overflow.SATURATE: fmt.max, Overflow.INF: math.inf, Overflow.NAN: math.nan}[fmt.overflow]
    below = -overflow if fmt.signed else {Overflow.SATURATE: fmt.low}.get(fmt.overflow, math.nan)
    ties = 0 if not fmt.ties_by_code else 1 + int(math.floor(fmt.bias) % 2 == 0)
    return Grid(
        mantissa_bits=fmt.mantissa_bits,
        emin=fmt.emin,
        k_min=fmt.k_min,
        low=fmt.low,
        high=fmt.max,
        below=below,
        above=overflow,
        negative_zero=int(fmt.has_negative_zero),
        ties=ties,
        tiny=0.0 if fmt.zero else fmt.smallest_normal,
    )


def _fixed_grid(fmt: FixedPoint) -> Grid:
    return Grid(52, _FAR, fmt.k_min, fmt.low, fmt.max, fmt.low, fmt.max, negative_zero=0, ties=0, tiny=0.0)


def _power_grid(fmt: PowerLaw) -> Grid:
    return Grid(fmt.word, _FAR, 0, -1.0, 1.0, -1.0, 1.0, negative_zero=1, ties=0, tiny=0.0)
