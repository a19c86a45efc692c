"""Slots of which not all is known: from them a path leads through an operator without a derivative."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = ["UnknownDerivative", "UnknownSlots", "unknown_slots"]


@dataclass(frozen=True, slots=True)
class UnknownSlots:
    """Slots that errors are not wholly known of, in the order of the graph; true if there are any.

    Args:
        loss: whose errors reach the loss past an operator without a derivative.
        gradient: whose errors reach the gradient past one.
    """

    loss: tuple[str, ...] = ()
    gradient: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.loss or self.gradient)

    def among(self, slots: Collection[str]) -> "UnknownSlots":
        """Those that are among these."""
        return UnknownSlots(*(tuple(name for name in own if name in slots) for own in (self.loss, self.gradient)))

    @property
    def every(self) -> tuple[str, ...]:
        """Those of either kind."""
        return tuple(dict.fromkeys((*self.loss, *self.gradient)))

    def of(self, slot: str) -> tuple[str, ...]:
        """What is not wholly known of a slot: "loss", "gradient", both or none."""
        return tuple(name for name, own in (("loss", self.loss), ("gradient", self.gradient)) if slot in own)


@dataclass(frozen=True, slots=True)
class UnknownDerivative:
    """An operator past which adjoints do not reach, as far as its derivative is missing.

    Args:
        node: its name in the graph.
        where: the operator, its module, and the line of the user's source.
        slots: from which paths lead through it.
    """

    node: str
    where: str
    slots: UnknownSlots


def unknown_slots(operators: Sequence[UnknownDerivative]) -> UnknownSlots:
    """Of all operators together."""
    loss = dict.fromkeys(name for own in operators for name in own.slots.loss)
    gradient = dict.fromkeys(name for own in operators for name in own.slots.gradient)
    return UnknownSlots(tuple(loss), tuple(gradient))
