"""The plan: which precision each slot has. An immutable value with a JSON form.

A plan is total: slots that are not named have what the first rule says that fits them, or else the default precision,
so a graph that appears later resolves without a new plan. Two plans are equal when they give every slot the same
precision.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from precc.accumulation.sums import Sums
from precc.accumulation.two_passes import TwoPasses
from precc.analysis.error_estimate import ErrorEstimate
from precc.cost.plan_cost import PlanCost
from precc.errors import PlanError
from precc.files import write_whole
from precc.first_match import FirstMatch, first_match
from precc.formats import Format
from precc.loss_scaling import LossScaling
from precc.plan_arguments import check_names, counted, parsed_accumulator
from precc.plan_diff import OWN_SUMS, PlanDiff, difference
from precc.plan_document import arguments_of, text_of
from precc.precision import AS_STORED, Precision
from precc.provenance import Provenance
from precc.rule import Rule, parse_rules
from precc.slots import UPDATES, Slot, names_result, names_update
from precc.update_formats import UpdateChoice, UpdateFormats

__all__ = ["PrecisionPlan"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})
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
        accumulators: likewise by slot name, such as ``fc/product/fprop.accumulator``; of products of the forward also
            `TwoPasses`.
        rules: hold over all of this; what they decide of the named slots and accumulators takes the place of it.
        default_result: in what each result is stored that is not named, such as ``fc/product/fprop.result``, or
            ``blocks.0/add/fprop.result`` of a sum of two activations; None: as the tensors are.
        default_update: in what `precc.RoundedUpdates` rounds gradients, momentum, steps and master weights that are not
            named, such as ``fc/weight/update.master``: `UpdateFormats`, a format for all four, or formats by
            ``"master"`` and so on; None: as the tensors are.
        loss_scaling: what `precc.LossScaler` scales losses by: a `LossScaling`, a number that stays, or None: by 1.

    Raises:
        PlanError: the name of an accumulator among the slots, or the other way round; rules that are none, or beside
            them a name that is of no slot.

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
    default_accumulator: Sums | None
    accumulators: Mapping[str, Sums | None]
    rules: tuple[Rule, ...]
    default_result: Precision | None
    default_update: UpdateFormats
    loss_scaling: LossScaling | None

    def __init__(
        self,
        default: Precision | Format | str,
        slots: Mapping[str, Precision | Format | str] = _NOTHING,
        multiply_adds: Mapping[str, int] = _NOTHING,
        provenance: Provenance = _UNKNOWN,
        *,
        default_accumulator: Sums | Format | str | None = None,
        accumulators: Mapping[str, Sums | Format | str | None] = _NOTHING,
        rules: Sequence[Rule] = (),
        default_result: Precision | Format | str | None = None,
        default_update: UpdateChoice = None,
        loss_scaling: LossScaling | float | None = None,
    ) -> None:
        check_names(slots, accumulators)
        if isinstance(default_accumulator, TwoPasses):
            raise PlanError("two passes are named product by product, in accumulators=: the backward has none")
        object.__setattr__(self, "rules", parse_rules(rules))
        stored = AS_STORED if default_result is None else Precision.of(default_result)
        object.__setattr__(self, "default_result", None if stored == AS_STORED else stored)
        object.__setattr__(self, "default_update", UpdateFormats.of(default_update))
        object.__setattr__(self, "loss_scaling", LossScaling.of(loss_scaling))
        decided = self._first_match
        own = {name: decided.precision(name, Precision.of(choice)) for name, choice in slots.items()}
        object.__setattr__(self, "default", Precision.of(default))
        object.__setattr__(self, "slots", MappingProxyType(own))
        work = {name: counted(number) for name, number in multiply_adds.items()}
        object.__setattr__(self, "multiply_adds", MappingProxyType(work))
        object.__setattr__(self, "provenance", provenance)
        sums = {name: decided.accumulator(name, parsed_accumulator(choice)) for name, choice in accumulators.items()}
        object.__setattr__(self, "default_accumulator", parsed_accumulator(default_accumulator))
        object.__setattr__(self, "accumulators", MappingProxyType(sums))

    @cached_property
    def _first_match(self) -> FirstMatch:
        return first_match(self.rules)

    @cached_property
    def _exceptions(self) -> dict[str, Precision | Sums | None]:
        """What is named, differs from the defaults, and is not decided by a rule."""
        slots = {name: own for name, own in self.slots.items() if own != self._default_of(name)}
        sums = {name: own for name, own in self.accumulators.items() if own != self.default_accumulator}
        return {name: own for name, own in {**slots, **sums}.items() if self._first_match.position(name) is None}

    @cached_property
    def telling_rules(self) -> tuple[Rule, ...]:
        """The rules up to the last one that gives something else than the defaults: those after it change nothing."""
        telling = [position for position, rule in enumerate(self.rules, start=1) if self._tells(rule)]
        return self.rules[: max(telling, default=0)]

    def _tells(self, rule: Rule) -> bool:
        if rule.decides_updates:
            return any(self.default_update.precision(what) != rule.precision for what in UPDATES)
        sums = rule.decides_sums and rule.accumulator != self.default_accumulator
        kept = rule.keeps_all and (self.default_result is not None or bool(self.default_update))
        default = self.default_result if rule.decides_results else self.default
        return sums or kept or rule.precision not in (None, default)

    @cached_property
    def _content(self) -> tuple[Any, ...]:
        defaults = self.default, self.default_accumulator, self.default_result, self.default_update, self.loss_scaling
        return *defaults, self.telling_rules, frozenset(self._exceptions.items())

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
        arguments: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for name in ("slots", "multiply_adds", "accumulators"):
            arguments[name] = dict(arguments[name])  # a MappingProxyType cannot be pickled
        return partial(PrecisionPlan, **arguments), ()

    def precision(self, slot: str) -> Precision:
        """The precision of the slot of an operand, a result or an update, named or not; float64 rounds none."""
        own = self.slots.get(slot)
        return own if own is not None else self._first_match.precision(slot, self._default_of(slot))

    def _default_of(self, slot: str) -> Precision:
        if names_update(slot):
            return self.default_update.precision(Slot.parse(slot).operand)
        return (self.default_result or AS_STORED) if names_result(slot) else self.default

    def accumulator(self, slot: str) -> Sums | None:
        """How a product sums whose accumulator has this name; None: as the tensors' own arithmetic does."""
        if slot in self.accumulators:
            return self.accumulators[slot]
        return self._first_match.accumulator(slot, self.default_accumulator)

    @cached_property
    def rounds_sums(self) -> bool:
        """Whether any product has an accumulator."""
        ruled = (rule.accumulator for rule in self.rules)
        return any(own is not None for own in (self.default_accumulator, *self.accumulators.values(), *ruled))

    @cached_property
    def rounds_results(self) -> bool:
        """Whether any result has a precision."""
        named = any(names_result(name) and own != AS_STORED for name, own in self.slots.items())
        return named or self.default_result is not None or any(rule.decides_results for rule in self.rules)

    @cached_property
    def rounds_updates(self) -> bool:
        """Whether any update has a precision; those are rounded by a `precc.RoundedUpdates`."""
        return any(own != AS_STORED for own in self._updates)

    @cached_property
    def _updates(self) -> frozenset[Precision]:
        named = (own for name, own in self.slots.items() if names_update(name))
        ruled = (rule.precision for rule in self.rules if rule.decides_updates)
        return frozenset({*named, *filter(None, ruled), *(own for _, own in self.default_update)})

    def changes_updates(self, dtype: torch.dtype) -> bool:
        """Whether there may be an update that rounding changes, of a parameter of this dtype."""
        return any(own.changes(dtype) for own in self._updates)

    def under(self, rules: Sequence[Rule]) -> "PrecisionPlan":
        """The same plan with these rules before its own; made once.

        What was predicted and what it costs are those of another plan, and left out, if rules change what it says.

        Raises:
            PlanError: what are no rules.
        """
        rules = parse_rules(rules)
        if rules not in self._under:
            every = (*rules, *(rule for rule in self.rules if rule not in rules))
            self._under[rules] = self if every == self.rules else self._ruled(every)
        return self._under[rules]

    def _ruled(self, rules: tuple[Rule, ...]) -> "PrecisionPlan":
        other = replace(self, rules=rules)
        same = other.slots == self.slots and other.accumulators == self.accumulators
        if other == self or (self.slots and same):
            return other
        return replace(other, provenance=replace(self.provenance, predicted_error=None, cost=None))

    @cached_property
    def _under(self) -> dict[tuple[Rule, ...], "PrecisionPlan"]:
        return {}

    def rounds(self, dtype: torch.dtype) -> bool:
        """Whether there may be a slot or a sum in a graph that rounds values of a dtype."""
        of_rules = (rule.precision for rule in self.rules if not rule.decides_updates)
        named = (own for name, own in self.slots.items() if not names_update(name))
        choices = {self.default, *named, *filter(None, (*of_rules, self.default_result))}
        return self.rounds_sums or any(choice.changes(dtype) for choice in choices)

    def resolve(self, multiply_adds: Mapping[str, int]) -> "PrecisionPlan":
        """The same plan with each of these slots named, and with their work; accumulators where there are any."""
        slots = {**{name: self.precision(name) for name in multiply_adds}, **self.slots}
        work = {**self.multiply_adds, **multiply_adds}
        sums = dict(self.accumulators)
        if self.rounds_sums:
            names = (slot.name for name in multiply_adds for slot in Slot.parse(name).accumulators)
            sums = {**{name: self.accumulator(name) for name in names}, **sums}
        return replace(self, slots=slots, multiply_adds=work, accumulators=sums)

    @property
    def average_bits(self) -> float:
        """Storage bits of an operand, averaged over the slots, weighted by multiply-adds.

        Results and updates are no operands, and count nothing.

        Raises:
            PlanError: slots are named whose work is not known yet, or rules decide slots of which none is named; or
                products are computed in two passes, whose bits depend on values.
        """
        if self.in_two_passes:
            first = self.in_two_passes[0]
            raise PlanError(f"average_bits: {first!r} is of two passes, and values decide how much the second does")
        slots = {name: own for name, own in self.slots.items() if not (names_result(name) or names_update(name))}
        ruled = {rule.precision for rule in self.rules if not (rule.decides_results or rule.decides_updates)}
        if {*ruled, *slots.values()} <= {self.default, None}:
            return float(self.default.bits)
        unknown = [name for name in slots if name not in self.multiply_adds]
        if unknown or not slots:
            what = (
                f"the work of slot {unknown[0]!r} (and {len(unknown) - 1} more)" if unknown else "what the rules decide"
            )
            raise PlanError(
                f"average_bits: {what} is not known; set the plan on a net, run a training step, and ask "
                "net.plan.average_bits"
            )
        total = sum(self.multiply_adds[name] for name in slots)
        if not total:
            raise PlanError("average_bits: the products of this plan have no multiply-adds")
        weighted = sum(self.multiply_adds[name] * own.bits for name, own in slots.items())
        return weighted / total

    @property
    def in_two_passes(self) -> tuple[str, ...]:
        """Names of the accumulators of products that are computed in two passes."""
        return tuple(name for name, own in self.accumulators.items() if isinstance(own, TwoPasses))

    @property
    def predicted_error(self) -> ErrorEstimate | None:
        """Of loss and gradient, by the analysis that the policy chose from; None if it chose from none."""
        return self.provenance.predicted_error

    @property
    def cost(self) -> PlanCost | None:
        """Of a step, by the cost model that the policy was given; None if it chose from no analysis."""
        return self.provenance.cost

    def diff(self, other: "PrecisionPlan") -> PlanDiff:
        """What changes from this plan to the other.

        Raises:
            PlanError: the other is no plan.
        """
        if not isinstance(other, PrecisionPlan):
            raise PlanError(
                f"a plan differs from another plan, not from {other!r:.60}; PrecisionPlan.load reads a file"
            )
        return difference(self, other)

    def __str__(self) -> str:
        made_by = f" by {self.provenance.policy}" if self.provenance.policy else ""
        sums = "" if self.default_accumulator is None else f", sums in {self.default_accumulator}"
        sums += "" if self.default_result is None else f", results in {self.default_result}"
        sums += f", updates in {self.default_update}" if self.default_update else ""
        sums += "" if self.loss_scaling is None else f", the loss scaled by {self.loss_scaling}"
        exceptions = self._exceptions
        but = " but:" if exceptions or self.rules else ""
        lines = [f"plan{made_by}: {self.default} in every slot{sums}{but}", *(f"  {rule}" for rule in self.rules)]
        width = max((len(name) for name in exceptions), default=0)
        lines += [f"  {name:<{width}}  {OWN_SUMS if own is None else own}" for name, own in sorted(exceptions.items())]
        return "\n".join(lines)

    __repr__ = __str__

    def to_json(self) -> str:
        """The plan as text, stable under a round trip."""
        return text_of(self)

    @classmethod
    def from_json(cls, text: str) -> "PrecisionPlan":
        """The plan that a text holds.

        Raises:
            PlanError: not JSON, not a plan, of another version, or with an unknown format.
        """
        return cls(**arguments_of(text))

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
        except UnicodeDecodeError as error:
            raise PlanError(f"{str(path)!r} is no plan, which is JSON: it is not even text") from error
        except OSError as error:
            raise PlanError(f"cannot read the plan {str(path)!r}: {error}") from error
        except PlanError as error:
            raise PlanError(f"{str(path)!r}: {error}") from error
