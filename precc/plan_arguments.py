"""What `PrecisionPlan` is given, checked."""

from collections.abc import Mapping
from typing import Any

from precc.accumulation.sums import Sums, parse_sums
from precc.accumulation.two_passes import TwoPasses
from precc.errors import PlanError
from precc.formats import Format
from precc.precision import Precision
from precc.slots import ACCUMULATOR, Role, Slot, names_update
from precc.update_formats import checked_update

__all__ = ["check_names", "counted", "parsed_accumulator"]


def parsed_accumulator(choice: Sums | Format | str | None) -> Sums | None:
    """How products sum, by any of its names; None stays None."""
    return None if choice is None else parse_sums(choice)


def check_names(slots: Mapping[str, Any], accumulators: Mapping[str, Any]) -> None:
    """Refuse names that are in the wrong place, and choices that do not fit their slots.

    Raises:
        PlanError: there is one.
    """
    for entries in (slots, accumulators):
        if not isinstance(entries, Mapping) or not all(isinstance(name, str) for name in entries):
            raise PlanError(f"slots and accumulators are choices by slot name, not {entries!r}")
    for name in slots:
        if name.endswith(f".{ACCUMULATOR}"):
            raise PlanError(f"{name!r} is an accumulator, not an operand: it goes into accumulators=")
        if names_update(name):
            Slot.parse(name)
            checked_update(Precision.of(slots[name]), f"slot {name!r}")
    for name in accumulators:
        own = Slot.parse(name)
        if own.operand != ACCUMULATOR:
            raise PlanError(f"{name!r} is no accumulator: their names end in '.{ACCUMULATOR}'")
        if isinstance(accumulators[name], TwoPasses) and own.role is not Role.FPROP:
            raise PlanError(f"{name!r} cannot be computed in two passes: those are of products of the forward")


def counted(work: Any) -> int:
    """A number of multiply-adds as it is, or PlanError."""
    if type(work) is not int or work < 0:
        raise PlanError(f"the plan is malformed: multiply-adds are {work!r}")
    return work
