"""Storage bits of weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from precc.accumulation.accumulator import Accumulator
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.precision import Precision
from precc.slots import Role, Slot

__all__ = ["WeightBits"]


@dataclass(frozen=True, slots=True)
class WeightBits:
    """Storage bits of an element of some weights, on average: each weight counts by its elements, as the forward reads
    it.

    Args:
        total: elements of these weights.
        shares: of `total`, by name of a slot of the forward; slots that read one weight share it.

    >>> WeightBits(200, {"fc/product/fprop.weight": 1.0}).unit
    'bits'
    """

    total: int
    shares: Mapping[str, float] = field(repr=False)

    @classmethod
    def of(cls, tensors: Iterable[TensorWork]) -> "WeightBits":
        """Of weights, as the slots that are named ``fprop.weight`` read them.

        Args:
            tensors: of a step, as `precc.assignment.step_work.step_work` finds them in an analysis.
        """
        found = [(own, [slot.name for slot in own.slots if _reads_weight(slot)]) for own in tensors]
        total = sum(own.elements for own, names in found if names)
        shares = {name: own.elements / (len(names) * total) for own, names in found for name in names}
        return cls(total, shares)

    @property
    def unit(self) -> str:
        return "bits"

    def product(self, work: ProductWork, pair: tuple[int, int], first: Precision, second: Precision) -> float:
        names = {work.operands[pair[0]].name: first, work.operands[pair[1]].name: second}
        return sum(self.shares.get(name, 0.0) * own.bits for name, own in names.items())

    def sums(self, work: ProductWork, accumulator: Accumulator | None) -> float:
        return 0.0

    def copy(self, tensor: TensorWork, precision: Precision) -> float:
        return 0.0

    def constant(self, step: StepWork) -> float:
        return 0.0


def _reads_weight(slot: Slot) -> bool:
    return slot.role is Role.FPROP and slot.operand == "weight"
