"""Energy: what arithmetic and main memory take, from published measurements."""

import math
from dataclasses import dataclass, fields

from precc.accumulation.accumulator import Accumulator, Order
from precc.checks import require_number
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.formats import FloatFormat, Format
from precc.precision import Precision

__all__ = ["Energy"]


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of multipliers, adders and DRAM, from a table of four widths.

    Multiply: ``c (p_a p_b)**k`` through float16 (p = 11) and float32 (p = 24), p the bits of a significand; of two
    formats without one ``c (w_a w_b)**k`` through int8 and int32, w their bits, which is p beside a float. Add:
    ``c w**k`` of the bits of the sum, of floats through 16 and 32, of fixed point through 8 and 32. These laws
    interpolate: only the points are measured, and the narrowest formats lie beyond them. Elements of a block format
    count without their scales. Codes of power laws and nested integers are multiplied as integers of their bits (a
    power of a product is the product of the powers: Yvinec et al. 2023, NUPES).

    Sums: one addition a multiply-add, and one more a block; a compensated one has four. Copy: all bits of a tensor,
    scales too, go to or from DRAM once.

    The table is of 45 nm at 0.9 V: Horowitz 2014, Computing's energy problem (and what we can do about it), ISSCC. DRAM
    takes 1.3 to 2.6 nJ for 64 bits there; 640 pJ for 32, as widely quoted (Han et al. 2016, EIE), is the lower end.

    Args:
        float32_multiply: joules of one operation, as all of these.
        float32_add: of a sum of 32 bits.
        float16_multiply: of significands of 11 bits.
        float16_add: of a sum of 16 bits.
        int32_multiply: of words of 32 bits.
        int32_add: of a sum of 32 bits.
        int8_multiply: of words of 8 bits.
        int8_add: of a sum of 8 bits.
        dram: joules a bit.

    Raises:
        PlanError: an operation that takes no energy, or a negative number.

    >>> Energy().unit, Energy(dram=0.0).dram
    ('J', 0.0)
    """

    float32_multiply: float = 3.7e-12
    float32_add: float = 0.9e-12
    float16_multiply: float = 1.1e-12
    float16_add: float = 0.4e-12
    int32_multiply: float = 3.1e-12
    int32_add: float = 0.1e-12
    int8_multiply: float = 0.2e-12
    int8_add: float = 0.03e-12
    dram: float = 20e-12

    def __post_init__(self) -> None:
        for own in fields(self):
            require_number(getattr(self, own.name), f"{own.name} in joules", zero=own.name == "dram")

    @property
    def unit(self) -> str:
        return "J"

    def product(self, work: ProductWork, pair: tuple[int, int], first: Precision, second: Precision) -> float:
        return work.multiply_adds / len(work.pairs) * self._multiply(first.element, second.element)

    def sums(self, work: ProductWork, accumulator: Accumulator | None) -> float:
        return work.multiply_adds * (self._add(32, True) if accumulator is None else self._accumulate(accumulator))

    def copy(self, tensor: TensorWork, precision: Precision) -> float:
        return self.dram * precision.bits * tensor.elements

    def constant(self, step: StepWork) -> float:
        return 0.0

    def _multiply(self, first: Format, second: Format) -> float:
        size = _significand(first) * _significand(second)
        if isinstance(first, FloatFormat) or isinstance(second, FloatFormat):
            return _power_law(size, (11 * 11, self.float16_multiply), (24 * 24, self.float32_multiply))
        return _power_law(size, (8 * 8, self.int8_multiply), (32 * 32, self.int32_multiply))

    def _add(self, bits: float, is_float: bool) -> float:
        if is_float:
            return _power_law(bits, (16, self.float16_add), (32, self.float32_add))
        return _power_law(bits, (8, self.int8_add), (32, self.int32_add))

    def _accumulate(self, own: Accumulator) -> float:
        """Of one term: the sums of blocks are added too."""
        each = self._add(own.format.bits, isinstance(own.format, FloatFormat))
        if own.order is Order.BLOCKED:
            return (each if own.inner is None else self._accumulate(own.inner)) + each / own.block
        return 4 * each if own.compensated else each


def _significand(fmt: Format) -> float:
    return fmt.mantissa_bits + 1 if isinstance(fmt, FloatFormat) else fmt.bits


def _power_law(x: float, low: tuple[float, float], high: tuple[float, float]) -> float:
    """The y at x of the law ``y = c x**k`` through two points (x, y)."""
    power = math.log(high[1] / low[1]) / math.log(high[0] / low[0])
    return float(low[1] * (x / low[0]) ** power)
