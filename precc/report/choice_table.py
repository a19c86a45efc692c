"""The choices of a net's slots, with what each costs and does: what a page solves again for another budget."""

from dataclasses import dataclass

__all__ = ["ChoiceGroup", "ChoiceTable"]


@dataclass(frozen=True, slots=True)
class ChoiceGroup:
    """Slots that have one precision together.

    Args:
        slots: their names.
        costs: of each choice, in the unit of the table; infinite where it is not allowed.
        loss: mean square error of the loss by each choice; absolute.
        gradient: mean square error of the gradient, relative to the square of its norm.
        chosen: number of the choice that the plan in force has; None if it is none of them.
    """

    slots: tuple[str, ...]
    costs: tuple[float, ...]
    loss: tuple[float, ...]
    gradient: tuple[float, ...]
    chosen: int | None = None


@dataclass(frozen=True, slots=True)
class ChoiceTable:
    """All groups; a plan takes one choice of each. Its cost is the sum, and its mean square errors nearly are.

    Errors with a mean, of the loss above all, add before they are squared: where they agree, the whole is more.

    Args:
        labels: of the choices, such as ``"float8_e4m3fn/tensor"``.
        bits: of a value in each.
        unit: of costs.
        groups: of slots.
    """

    labels: tuple[str, ...]
    bits: tuple[float, ...]
    unit: str
    groups: tuple[ChoiceGroup, ...]
