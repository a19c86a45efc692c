"""What two plans differ in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from precc.accumulation.sums import Sums
from precc.loss_scaling import LossScaling
from precc.precision import AS_STORED, Precision
from precc.rule import Rule
from precc.slots import ACCUMULATOR, RESULT, UPDATES, Slot, names_result, names_update

if TYPE_CHECKING:
    from precc.plan import PrecisionPlan

__all__ = ["OWN_SUMS", "LossScalingChange", "PlanDiff", "RulesChange", "SlotChange", "difference"]

#: How the sums of the tensors' own arithmetic are printed.
OWN_SUMS = "own sums"

_UNROUNDED = "as stored"


@dataclass(frozen=True, slots=True)
class SlotChange:
    """One difference between two plans; `slot` is ``*`` for every slot that no other change names.

    An accumulator of None is the tensors' own arithmetic; ``*.accumulator`` are those that no other change names. A
    result or an update of None is stored as the tensors are; ``*.result``, ``*.master`` and so on likewise.
    """

    slot: str
    before: Precision | Sums | None
    after: Precision | Sums | None

    def __str__(self) -> str:
        own = OWN_SUMS if self.slot.endswith(f".{ACCUMULATOR}") else _UNROUNDED
        before, after = (own if choice is None else str(choice) for choice in (self.before, self.after))
        return f"{self.slot}: {before} -> {after}"


@dataclass(frozen=True, slots=True)
class RulesChange:
    """Other rules, by which the slots that neither plan names differ too."""

    before: tuple[Rule, ...]
    after: tuple[Rule, ...]

    def __str__(self) -> str:
        before, after = (", ".join(map(repr, rules)) or "none" for rules in (self.before, self.after))
        return f"rules: {before} -> {after}"


@dataclass(frozen=True, slots=True)
class LossScalingChange:
    """Another loss scaling; None is none."""

    before: LossScaling | None
    after: LossScaling | None

    def __str__(self) -> str:
        before, after = ("none" if own is None else str(own) for own in (self.before, self.after))
        return f"loss scaling: {before} -> {after}"


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """What two plans differ in: slots, rules, loss scaling; false when in nothing."""

    changes: tuple[SlotChange | RulesChange | LossScalingChange, ...]

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[SlotChange | RulesChange | LossScalingChange]:
        return iter(self.changes)

    def __str__(self) -> str:
        return "\n".join(str(change) for change in self.changes) or "no difference"


def difference(before: "PrecisionPlan", after: "PrecisionPlan") -> PlanDiff:
    """What changes from one plan to another: rules, loss scaling, operands, results, sums, updates."""
    rules = RulesChange(before.telling_rules, after.telling_rules)
    named = sorted({*before.slots, *after.slots})
    scaling = LossScalingChange(before.loss_scaling, after.loss_scaling)
    stored = {own for own in named if names_result(own) or names_update(own)}
    operands = [SlotChange(own, before.precision(own), after.precision(own)) for own in named if own not in stored]
    results = [SlotChange(own, _stored(before, own), _stored(after, own)) for own in named if names_result(own)]
    sums = sorted({*before.accumulators, *after.accumulators})
    accumulators = [SlotChange(own, before.accumulator(own), after.accumulator(own)) for own in sums]
    found = [
        *_apart(operands, SlotChange("*", before.default, after.default)),
        *_apart(results, SlotChange(f"*.{RESULT}", before.default_result, after.default_result)),
        *_apart(accumulators, SlotChange(f"*.{ACCUMULATOR}", before.default_accumulator, after.default_accumulator)),
        *_updates(before, after, [own for own in named if names_update(own)]),
    ]
    beside = (change for change in (rules, scaling) if change.before != change.after)
    return PlanDiff((*beside, *found))


def _updates(before: "PrecisionPlan", after: "PrecisionPlan", named: Sequence[str]) -> list[SlotChange]:
    found: list[SlotChange] = []
    for what in UPDATES:
        own = [name for name in named if Slot.parse(name).operand == what]
        changes = [SlotChange(name, _stored(before, name), _stored(after, name)) for name in own]
        defaults = [_unless_stored(plan.default_update.precision(what)) for plan in (before, after)]
        found += _apart(changes, SlotChange(f"*.{what}", *defaults))
    return found


def _stored(plan: "PrecisionPlan", slot: str) -> Precision | None:
    return _unless_stored(plan.precision(slot))


def _unless_stored(own: Precision) -> Precision | None:
    return None if own == AS_STORED else own


def _apart(changes: Sequence[SlotChange], rest: SlotChange) -> list[SlotChange]:
    """The changes that are not those of the rest, then that of the rest; without those that change nothing."""
    special = [own for own in changes if (own.before, own.after) != (rest.before, rest.after)]
    return [change for change in (*special, rest) if change.before != change.after]
