"""What a step computes, as far as its cost depends on it: its products, and the tensors that they read."""

from dataclasses import dataclass

from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import Role, Slot

__all__ = ["ProductWork", "StepWork", "TensorWork"]

_FLOAT32, _AS_STORED = Precision("float32"), Precision("float64")


@dataclass(frozen=True, slots=True)
class ProductWork:
    """One product, in one of its roles.

    Args:
        operands: their slots, in the order of the product; two, but for fused attention.
        elements: values of each operand.
        multiply_adds: of one step.
        outputs: results, each a sum.
    """

    operands: tuple[Slot, ...]
    elements: tuple[int, ...]
    multiply_adds: int
    outputs: int

    @property
    def terms(self) -> int:
        """Of each sum."""
        return self.multiply_adds // max(self.outputs, 1)

    @property
    def role(self) -> Role:
        """fprop, dgrad or wgrad."""
        return self.operands[0].role

    @property
    def accumulators(self) -> tuple[str, ...]:
        """Name of the slot of its running sum; none of fused attention."""
        return tuple(slot.name for slot in self.operands[0].accumulators)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Which operands are multiplied; each pair has an equal share of the multiply-adds.

        Fused attention multiplies query and key, then the value with the result; its backward is known by the incoming
        gradient alone.
        """
        count = len(self.operands)
        return ((0, 0),) if count == 1 else tuple((k, k + 1) for k in range(count - 1))


@dataclass(frozen=True, slots=True)
class TensorWork:
    """Values that slots read, or that an op stores: there is a copy in each precision that one of the slots has.

    One of the slots may be that of the result itself: others that have its precision read what was stored.

    Args:
        slots: that store or read them, or one copy of them, in the order of the step.
        elements: how many there are.
        saved: of a result, whether anything in the backward reads it.
        own: of the values as they are computed: in it a result is stored that no plan rounds.
    """

    slots: tuple[Slot, ...]
    elements: int
    saved: bool = False
    own: Precision = _FLOAT32

    def precision(self, slot: Slot, plan: PrecisionPlan) -> Precision:
        """Under a plan, of one of the slots."""
        chosen = plan.precision(slot.name)
        return self.own if slot.is_result and chosen == _AS_STORED else chosen

    @property
    def result(self) -> Slot | None:
        """Of the op that stores it; None: it has no slot where it is stored, and this is a copy."""
        return next((slot for slot in self.slots if slot.is_result), None)


@dataclass(frozen=True, slots=True)
class StepWork:
    """All of a step."""

    products: tuple[ProductWork, ...]
    tensors: tuple[TensorWork, ...]
