"""What a step computes, as far as its cost depends on it: its products, and the tensors that they read."""

from dataclasses import dataclass

from precc.slots import Role, Slot

__all__ = ["ProductWork", "StepWork", "TensorWork"]


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
    """Values that slots read: there is a copy of them in each precision that one of these has.

    Args:
        slots: that read them, or one copy of them, in the order of the step.
        elements: how many there are.
    """

    slots: tuple[Slot, ...]
    elements: int


@dataclass(frozen=True, slots=True)
class StepWork:
    """All of a step."""

    products: tuple[ProductWork, ...]
    tensors: tuple[TensorWork, ...]
