"""Bit operations: the cost of multipliers where nothing is known of the machine."""

from dataclasses import dataclass

from precc.accumulation.accumulator import Accumulator
from precc.checks import require_number
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.precision import Precision

__all__ = ["BitOps"]


@dataclass(frozen=True, slots=True)
class BitOps:
    """Multiply-adds times the bits of both operands, and beside that times the bits of the sum, with a weight.

    ``multiply_adds * (bits_a * bits_b + sum_weight * bits_of_sum)``: a multiplier grows with the product of the widths
    of its operands (BOPs: Baskin et al. 2021, UNIQ, arXiv 1804.10969), an adder with its own width. Bits of block
    scales count. The tensors' own sums are float32.

    Args:
        sum_weight: of a bit of the sum.

    Raises:
        PlanError: a weight that is negative.

    >>> BitOps().unit
    'bit operations'
    """

    sum_weight: float = 1.0

    def __post_init__(self) -> None:
        require_number(self.sum_weight, "sum_weight", zero=True)

    @property
    def unit(self) -> str:
        return "bit operations"

    def product(self, work: ProductWork, pair: tuple[int, int], first: Precision, second: Precision) -> float:
        return work.multiply_adds / len(work.pairs) * first.bits * second.bits

    def sums(self, work: ProductWork, accumulator: Accumulator | None) -> float:
        bits = 32.0 if accumulator is None else float(accumulator.format.bits)
        return work.multiply_adds * self.sum_weight * bits

    def copy(self, tensor: TensorWork, precision: Precision) -> float:
        return 0.0

    def constant(self, step: StepWork) -> float:
        return 0.0
