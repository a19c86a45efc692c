"""The plan: which precision each slot has. An immutable value with a JSON form.

A plan is total: slots that are not named have the default precision, so a graph that appears later
resolves without a new plan. Two plans are equal when they give every slot the same precision.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import parse_accumulator
from precc.errors import PlanError
from precc.files import write_whole
from precc.formats import Format
from precc.plan_json import (
    accumulator_from_json,
    accumulator_to_json,
    precision_from_json,
    precision_to_json,
    refuse_unknown,
)
from precc.precision import Precision
from precc.slots import ACCUMULATOR, Slot

__all__ = ["PLAN_VERSION", "PlanDiff", "PrecisionPlan", "Provenance", "SlotChange"]

#: Version of the JSON form; a reader refuses any other.
PLAN_VERSION = 1


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a plan comes from: the policy that made it, its budget, and a digest of the analysis."""

    policy: str = ""
    budget: str = ""
    analysis: str = ""


@dataclass(frozen=True, slots=True)
class SlotChange:
    """One difference between two plans; `slot` is ``*`` for every slot that no other change names.

    An accumulator of None is the tensors' own arithmetic; ``*.accumulator`` are those that no other change names.
    """

    slot: str
    before: Precision | Accumulator | None
    after: Precision | Accumulator | None

    def __str__(self) -> str:
        before, after = (_OWN_SUMS if choice is None else str(choice) for choice in (self.before, self.after))
        return f"{self.slot}: {before} -> {after}"


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """The slots on which two plans differ; false when there are none."""

    changes: tuple[SlotChange, ...]

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[SlotChange]:
        return iter(self.changes)

    def __str__(self) -> str:
        return "\n".join(str(change) for change in self.changes) or "no difference"


_NOTHING: Mapping[str, Any] = MappingProxyType({})
_OWN_SUMS = "own sums"  # those of the tensors' arithmetic, as they are printed
_UNKNOWN = Provenance()


@dataclass(frozen=True, eq=False)
class PrecisionPlan:
    """A precision for every slot.

    Args:
        default: the precision of each slot that is not named; a format's name will do.
        slots: precisions by slot name, likewise.
        multiply_adds: work of the product that each slot feeds, for `average_bits`; not part of equality.
        provenance: what made the plan; not part of equality.
        default_accumulator: how each product sums that is not named: an `Accumulator`, a format, or None: as the
            tensors' own arithmetic does.
        accumulators: likewise by slot name, such as ``fc/product/fprop.accumulator``.

    Raises:
        PlanError: the name of an accumulator among the slots, or the other way round.

    >>> mixed = PrecisionPlan("e4m3", {"fc/product/wgrad.input": "bf16"})
    >>> print(PrecisionPlan("e4m3").diff(mixed))
    fc/product/wgrad.input: float8_e4m3fn -> bfloat16
    >>> PrecisionPlan.from_json(mixed.to_json()) == mixed
    True
    """

    default: Precision
    slots: Mapping[str, Precision]
    multiply_adds: Mapping[str, int]
    provenance: Provenance
    default_accumulator: Accumulator | None
    accumulators: Mapping[str, Accumulator | None]

    def __init__(
        self,
        default: Precision | Format | str,
        slots: Mapping[str, Precision | Format | str] = _NOTHING,
        multiply_adds: Mapping[str, int] = _NOTHING,
        provenance: Provenance = _UNKNOWN,
        *,
        default_accumulator: Accumulator | Format | str | None = None,
        accumulators: Mapping[str, Accumulator | Format | str | None] = _NOTHING,
    ) -> None:
        _check_names(slots, accumulators)
        own = {name: Precision.of(choice) for name, choice in slots.items()}
        object.__setattr__(self, "default", Precision.of(default))
        object.__setattr__(self, "slots", MappingProxyType(own))
        work = {name: _count(number) for name, number in multiply_adds.items()}
        object.__setattr__(self, "multiply_adds", MappingProxyType(work))
        object.__setattr__(self, "provenance", provenance)
        sums = {name: _accumulator(choice) for name, choice in accumulators.items()}
        object.__setattr__(self, "default_accumulator", _accumulator(default_accumulator))
        object.__setattr__(self, "accumulators", MappingProxyType(sums))

    @cached_property
    def _exceptions(self) -> dict[str, Precision | Accumulator | None]:
        """What is named and differs from the defaults."""
        slots = {name: own for name, own in self.slots.items() if own != self.default}
        return {**slots, **{name: own for name, own in self.accumulators.items() if own != self.default_accumulator}}

    @cached_property
    def _content(self) -> tuple[Any, ...]:
        return self.default, self.default_accumulator, frozenset(self._exceptions.items())

    @cached_property
    def _hash(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PrecisionPlan):
            return NotImplemented
        return self is other or self._content == other._content

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.default, dict(self.slots), dict(self.multiply_adds), self.provenance)
        return _made, (*fields, self.default_accumulator, dict(self.accumulators))

    def precision(self, slot: str) -> Precision:
        """The precision of an operand's slot, named or not."""
        return self.slots.get(slot, self.default)

    def accumulator(self, slot: str) -> Accumulator | None:
        """How a product sums whose accumulator has this name; None: as the tensors' own arithmetic does."""
        return self.accumulators.get(slot, self.default_accumulator)

    @cached_property
    def rounds_sums(self) -> bool:
        """Whether any product has an accumulator."""
        return self.default_accumulator is not None or any(own is not None for own in self.accumulators.values())

    def resolve(self, multiply_adds: Mapping[str, int]) -> "PrecisionPlan":
        """The same plan with each of these slots named, and with their work; accumulators where there are any."""
        slots = {**{name: self.precision(name) for name in multiply_adds}, **self.slots}
        work = {**self.multiply_adds, **multiply_adds}
        sums = dict(self.accumulators)
        if self.rounds_sums:
            names = (Slot.parse(name).accumulator.name for name in multiply_adds)
            sums = {**{name: self.accumulator(name) for name in names}, **sums}
        return _made(self.default, slots, work, self.provenance, self.default_accumulator, sums)

    @property
    def average_bits(self) -> float:
        """Storage bits of an operand, averaged over the slots, weighted by multiply-adds.

        Raises:
            PlanError: slots are named whose work is not known yet.
        """
        if all(own == self.default for own in self.slots.values()):
            return float(self.default.bits)
        unknown = [name for name in self.slots if name not in self.multiply_adds]
        if unknown:
            raise PlanError(
                f"average_bits: the work of slot {unknown[0]!r} (and {len(unknown) - 1} more) is not known; "
                "set the plan on a net, run a training step, and ask net.plan.average_bits"
            )
        total = sum(self.multiply_adds[name] for name in self.slots)
        if not total:
            raise PlanError("average_bits: the products of this plan have no multiply-adds")
        weighted = sum(self.multiply_adds[name] * own.bits for name, own in self.slots.items())
        return weighted / total

    def diff(self, other: "PrecisionPlan") -> PlanDiff:
        """What changes from this plan to the other."""
        names, sums = sorted({*self.slots, *other.slots}), sorted({*self.accumulators, *other.accumulators})
        rest = SlotChange("*", self.default, other.default)
        changes = [SlotChange(name, self.precision(name), other.precision(name)) for name in names]
        rest_of_sums = SlotChange(f"*.{ACCUMULATOR}", self.default_accumulator, other.default_accumulator)
        changes_of_sums = [SlotChange(name, self.accumulator(name), other.accumulator(name)) for name in sums]
        return PlanDiff((*_apart(changes, rest), *_apart(changes_of_sums, rest_of_sums)))

    def __str__(self) -> str:
        made_by = f" by {self.provenance.policy}" if self.provenance.policy else ""
        sums = "" if self.default_accumulator is None else f", sums in {self.default_accumulator}"
        exceptions = self._exceptions
        lines = [f"plan{made_by}: {self.default} in every slot{sums}" + (" but:" if exceptions else "")]
        width = max((len(name) for name in exceptions), default=0)
        lines += [f"  {name:<{width}}  {_OWN_SUMS if own is None else own}" for name, own in sorted(exceptions.items())]
        return "\n".join(lines)

    __repr__ = __str__

    def to_json(self) -> str:
        """The plan as text, stable under a round trip."""
        document = {
            "precc_plan": PLAN_VERSION,
            "default": precision_to_json(self.default),
            "slots": {name: precision_to_json(own) for name, own in sorted(self.slots.items())},
            "default_accumulator": accumulator_to_json(self.default_accumulator),
            "accumulators": {name: accumulator_to_json(own) for name, own in sorted(self.accumulators.items())},
            "multiply_adds": dict(sorted(self.multiply_adds.items())),
            "provenance": {
                "policy": self.provenance.policy,
                "budget": self.provenance.budget,
                "analysis": self.provenance.analysis,
            },
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "PrecisionPlan":
        """The plan that a text holds.

        Raises:
            PlanError: not JSON, not a plan, of another version, or with an unknown format.
        """
        try:
            document = json.loads(text, object_pairs_hook=_without_duplicates)
        except PlanError:
            raise
        except (ValueError, RecursionError) as error:
            raise PlanError(f"the plan is not JSON: {error}") from None
        if not isinstance(document, dict) or "precc_plan" not in document:
            raise PlanError("the JSON is not a plan: it has no 'precc_plan' version")
        version = document["precc_plan"]
        if type(version) is not int or version != PLAN_VERSION:
            raise PlanError(f"the plan is of version {version!r}; this precc reads version {PLAN_VERSION}")
        try:
            refuse_unknown(document, _ENTRIES)
            return cls(
                precision_from_json(document["default"]),
                {str(name): precision_from_json(own) for name, own in document["slots"].items()},
                {name: _count(work) for name, work in document.get("multiply_adds", {}).items()},
                Provenance(**document.get("provenance", {})),
                default_accumulator=accumulator_from_json(document.get("default_accumulator")),
                accumulators={
                    name: accumulator_from_json(own) for name, own in document.get("accumulators", {}).items()
                },
            )
        except PlanError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            raise PlanError(f"the plan is malformed: {type(error).__name__}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the JSON form to a file, whole or not at all."""
        write_whole(Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> "PrecisionPlan":
        """Read a plan from a file.

        Raises:
            PlanError: the file cannot be read, or does not hold a plan; the message names it.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"cannot read the plan {str(path)!r}: {error}") from error
        except PlanError as error:
            raise PlanError(f"{str(path)!r}: {error}") from error


_ENTRIES = ("precc_plan", "default", "slots", "default_accumulator", "accumulators", "multiply_adds", "provenance")


def _made(
    default: Precision,
    slots: Mapping[str, Precision],
    multiply_adds: Mapping[str, int],
    provenance: Provenance,
    default_accumulator: Accumulator | None,
    accumulators: Mapping[str, Accumulator | None],
) -> PrecisionPlan:
    return PrecisionPlan(
        default,
        slots,
        multiply_adds,
        provenance,
        default_accumulator=default_accumulator,
        accumulators=accumulators,
    )


def _accumulator(choice: Accumulator | Format | str | None) -> Accumulator | None:
    return None if choice is None else parse_accumulator(choice)


def _check_names(slots: Mapping[str, Any], accumulators: Mapping[str, Any]) -> None:
    for entries in (slots, accumulators):
        if not isinstance(entries, Mapping) or not all(isinstance(name, str) for name in entries):
            raise PlanError(f"slots and accumulators are choices by slot name, not {entries!r}")
    for name in slots:
        if name.endswith(f".{ACCUMULATOR}"):
            raise PlanError(f"{name!r} is an accumulator, not an operand: it goes into accumulators=")
    for name in accumulators:
        if Slot.parse(name).operand != ACCUMULATOR:
            raise PlanError(f"{name!r} is no accumulator: their names end in '.{ACCUMULATOR}'")


def _apart(changes: Sequence[SlotChange], rest: SlotChange) -> list[SlotChange]:
    """The changes that are not those of the rest, then that of the rest; without those that change nothing."""
    special = [own for own in changes if (own.before, own.after) != (rest.before, rest.after)]
    return [change for change in (*special, rest) if change.before != change.after]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        twice = sorted({key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1})
        raise PlanError(f"the plan names {twice[0]!r} twice")
    return document


def _count(work: Any) -> int:
    if type(work) is not int or work < 0:
        raise PlanError(f"the plan is malformed: multiply-adds are {work!r}")
    return work
