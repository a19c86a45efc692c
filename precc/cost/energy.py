"""Energy: what multipliers, adders and memory take in a process whose figures are published."""

import math
from dataclasses import dataclass

from precc.accumulation.accumulator import Accumulator
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.formats import BlockFormat, FixedPoint, FloatFormat, Format
from precc.precision import Precision

__all__ = ["Energy"]

#: Significand bits of float32, float16; bits of int32, int8.
_FLOATS, _INTEGERS = (24, 11), (32, 8)


@dataclass(frozen=True, slots=True)
class Energy:
    """Joules of a step, from Horowitz (2014, "Computing's energy problem", ISSCC; 45 nm, 0.9 V).

    A multiplication is a power law in the product of the operands' significand bits, through float32's and float16's
    (of two integers: in the product of their bits, through int32's and int8's); an addition one in the bits of the sum.
    Both are interpolations of two published points each, and extrapolations to 8 bits and less. Each copy of a tensor
    is written to memory and read from there once.

    Args:
        multiply: joules of a multiplication in float32 and float16.
        multiply_integer: in int32 and int8.
        add: joules of an addition in float32 and float16.
        add_integer: in int32 and int8.
        memory: joules a bit; DRAM takes 1.3 to 2.6 nJ for 64 bits.

    >>> Energy().unit
    'J'
    """

    multiply: tuple[float, float] = (3.7e-12, 1.1e-12)
    multiply_integer: tuple[float, float] = (3.1e-12, 0.2e-12)
    add: tuple[float, float] = (0.9e-12, 0.4e-12)
    add_integer: tuple[float, float] = (0.1e-12, 0.03e-12)
    memory: float = 20e-12

    @property
    def unit(self) -> str:
        return "J"

    def product(self, work: ProductWork, pair: tuple[int, int], first: Precision, second: Precision) -> float:
        kinds = [_significand(own.format) for own in (first, second)]
        size = kinds[0][0] * kinds[1][0]
        if all(integer for _, integer in kinds):
            own = _power_law(size, tuple(bits**2 for bits in _INTEGERS), self.multiply_integer)
        else:
            own = _power_law(size, tuple(bits**2 for bits in _FLOATS), self.multiply)
        return work.multiply_adds / len(work.pairs) * own

    def sums(self, work: ProductWork, accumulator: Accumulator | None) -> float:
        if accumulator is None:
            return work.multiply_adds * self.add[0]
        integer = isinstance(accumulator.format, FixedPoint)
        points, energies = ((32, 8), self.add_integer) if integer else ((32, 16), self.add)
        return work.multiply_adds * _power_law(accumulator.format.bits, points, energies)

    def copy(self, tensor: TensorWork, precision: Precision) -> float:
        return 2 * tensor.elements * precision.bits * self.memory

    def constant(self, step: StepWork) -> float:
        return 0.0


def _significand(fmt: Format) -> tuple[float, bool]:
    """Bits that a multiplier sees, and whether it is one of integers; of what is neither all bits count."""
    own = fmt.element if isinstance(fmt, BlockFormat) else fmt
    if isinstance(own, FloatFormat):
        return own.mantissa_bits + 1, False
    return float(own.bits), True


def _power_law(size: float, sizes: tuple[float, ...], energies: tuple[float, float]) -> float:
    """Through two points."""
    power = math.log(energies[0] / energies[1]) / math.log(sizes[0] / sizes[1])
    return float(energies[0] * (size / sizes[0]) ** power)
