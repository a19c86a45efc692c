"""Bits of operands, as `PrecisionPlan.average_bits` counts them."""

from dataclasses import dataclass

from precc.accumulation.accumulator import Accumulator
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.precision import Precision

__all__ = ["OperandBits"]


@dataclass(frozen=True, slots=True)
class OperandBits:
    """Multiply-adds times the storage bits of each operand, over the multiply-adds of all operands of all products.

    Args:
        total: those multiply-adds.

    >>> OperandBits(200).unit
    'bits'
    """

    total: int

    @classmethod
    def of(cls, step: StepWork) -> "OperandBits":
        """Of one step, so that its cost is the average."""
        return cls(sum(own.multiply_adds * len(own.operands) for own in step.products))

    @property
    def unit(self) -> str:
        return "bits"

    def product(self, work: ProductWork, pair: tuple[int, int], first: Precision, second: Precision) -> float:
        if pair[0] == pair[1]:
            return work.multiply_adds * first.bits / self.total
        often = [sum(position in other for other in work.pairs) for position in pair]
        return work.multiply_adds * (first.bits / often[0] + second.bits / often[1]) / self.total

    def sums(self, work: ProductWork, accumulator: Accumulator | None) -> float:
        return 0.0

    def copy(self, tensor: TensorWork, precision: Precision) -> float:
        return 0.0

    def constant(self, step: StepWork) -> float:
        return 0.0
