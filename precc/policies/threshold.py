"""The rule of condition numbers: low precision where they are small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from precc.accumulation.product_arithmetic import Arithmetic, ProductArithmetic
from precc.accumulation.sums import Sums
from precc.accumulation.two_passes import TwoPasses, checked_tau
from precc.analysis.analysis import Analysis
from precc.analysis.component_conditions import ComponentConditions
from precc.assignment.check_runs import check_runs
from precc.assignment.step_work import step_work
from precc.cost.bit_ops import BitOps
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_of
from precc.errors import member_of
from precc.first_match import first_match
from precc.formats import Format
from precc.plan import PrecisionPlan
from precc.policies.choosing_policy import checked_analysis, checked_cost
from precc.policies.ruled_policy import RuledPolicy
from precc.precision import Precision
from precc.provenance import Provenance
from precc.rule import Rule, parse_rules
from precc.rule_checks import check_decisions
from precc.slots import Role, Slot
from precc.target import Target, parse_target

__all__ = ["Threshold", "ThresholdGranularity"]


class ThresholdGranularity(Enum):
    """What has one precision."""

    NODE = "node"  #: a product: low if nine in ten of its components are within tau
    CHANNEL = "channel"  #: a channel of its result, likewise
    COMPONENT = "component"  #: a dot product, at run time, from the low result (`TwoPasses`)


@dataclass(frozen=True, repr=False)
class Threshold(RuledPolicy):
    """Products of the forward in low precision where ``kappa_phi * kappa_v <= tau``, else in high precision.

    The rule of El Arar, Filip, Mary and Riccietti 2025 (arXiv 2503.15568): relative errors of a component grow by that
    product (`precc.analysis.component_conditions.ComponentConditions`). It bounds errors relative to each component,
    not what they do to the loss: for that there are policies with a budget. Fused attention and products of grouped
    rows, whose components are not looked at, have the operands of `high` in their own sums; products of the backward
    are in `backward`.

    A plan by channel or component has no predicted error and no cost, which depend on values; by node it has an error
    if the analysis has sums, ``AnalysisOptions(sums=64)``.

    Args:
        tau: the largest condition number that is low; 0 or more.
        granularity: ``"node"``, ``"channel"`` or ``"component"``.
        low: a `ProductArithmetic`, or a format for operands and sums.
        high: likewise.
        backward: a precision, a format or its name: of the operands of the backward, in their own sums.

    Raises:
        FormatError, PlanError: an option that makes no sense.

    >>> Threshold(10.0, "node").high.accumulator.format.name
    'float16'
    """

    tau: float
    granularity: ThresholdGranularity | str = ThresholdGranularity.COMPONENT
    low: Arithmetic = "e4m3"
    high: Arithmetic = "e5m10"
    backward: Precision | Format | str = "float32"

    def __post_init__(self) -> None:
        own = member_of(ThresholdGranularity, self.granularity, "unknown granularity of a threshold")
        object.__setattr__(self, "tau", checked_tau(self.tau))
        object.__setattr__(self, "granularity", own)
        object.__setattr__(self, "low", ProductArithmetic.of(self.low))
        object.__setattr__(self, "high", ProductArithmetic.of(self.high))
        object.__setattr__(self, "backward", Precision.of(self.backward))
        if own is not ThresholdGranularity.NODE:
            TwoPasses(self.low, self.high, tau=self.tau)  # what it cannot be is said here

    def assign(
        self,
        analysis: object | None = None,
        *,
        cost: CostModel | None = None,
        target: Target | str = "cpu-emulated",
        rules: Sequence[Rule] = (),
    ) -> PrecisionPlan:
        """The plan; a net whose graphs are there takes it by ``net.set_plan(plan, recompile=True)``, for its sums.

        Args:
            analysis: of the step, as ``net.analyze`` or `Analysis.load` gives it.
            cost: model; default: `BitOps`.
            target: that runs the plan, or its name; two passes run on ``"cpu-emulated"`` alone.
            rules: that hold over the plan; a product of which they decide an operand is theirs, with its own sums.

        Raises:
            AnalysisError: there is no analysis.
            PlanError: the target cannot run the plan, or rules contradict each other.
        """
        known, runner = checked_analysis(analysis, self, gradient=False), parse_target(target)
        model = BitOps() if cost is None else checked_cost(cost, runner)
        every = parse_rules(rules)
        check_decisions(every, known.records)
        forward = [slot for name in known.operands if (slot := known.records[name].slot).role is Role.FPROP]
        ruled = {slot.op for slot in forward if first_match(every).position(slot.name) is not None}
        found = {op: own for op, own in known.findings.components.items() if op not in ruled}
        slots = {name: self._precision(known.records[name].slot, found) for name in known.operands}
        sums = {f"{op}/fprop.accumulator": self._sums(own) for op, own in found.items()}
        plan = PrecisionPlan("float32", slots, known.multiply_adds, accumulators=sums, rules=every)
        check_runs(plan, step_work(known), runner)
        return replace(plan, provenance=self._provenance(plan, known, model, found))

    def shares(self, analysis: Analysis) -> Mapping[str, float]:
        """The share of each product that is low, by op, as far as its analysis tells; components by sampled ones."""
        return {op: self._share(own) for op, own in analysis.findings.components.items()}

    def _share(self, own: ComponentConditions) -> float:
        match self.granularity:
            case ThresholdGranularity.NODE:
                return float(own.p90 <= self.tau)
            case ThresholdGranularity.CHANNEL:
                return 1 - len(self._channels(own)) / max(1, len(own.channels))
            case _:
                return own.share_within(self.tau)

    def _channels(self, own: ComponentConditions) -> tuple[int, ...]:
        """Those in high precision."""
        return tuple(number for number, kappa in enumerate(own.channels) if not kappa <= self.tau)

    def _sums(self, own: ComponentConditions) -> Sums:
        low, high = self._both
        match self.granularity:
            case ThresholdGranularity.NODE:
                return (low if own.p90 <= self.tau else high).accumulator
            case ThresholdGranularity.CHANNEL:
                return TwoPasses(low, high, channels=self._channels(own))
            case _:
                return TwoPasses(low, high, tau=self.tau, activation=own.activation)

    def _precision(self, slot: Slot, found: Mapping[str, ComponentConditions]) -> Precision:
        """Of an operand; what is computed in two passes rounds it itself."""
        if slot.role is not Role.FPROP:
            return Precision.of(self.backward)
        own, (low, high) = found.get(slot.op), self._both
        if own is None:
            return high.operands
        if self.granularity is not ThresholdGranularity.NODE:
            return Precision("float32")
        return (low if own.p90 <= self.tau else high).operands

    @property
    def _both(self) -> tuple[ProductArithmetic, ProductArithmetic]:
        return ProductArithmetic.of(self.low), ProductArithmetic.of(self.high)

    def _provenance(
        self, plan: PrecisionPlan, analysis: Analysis, cost: CostModel, found: Mapping[str, ComponentConditions]
    ) -> Provenance:
        shares, work = {op: self._share(own) for op, own in found.items()}, step_work(analysis)
        adds = {own.operands[0].op: own.multiply_adds for own in work.products if own.role is Role.FPROP}
        low = sum(shares[op] * adds[op] for op in shares) / max(1, sum(adds.values()))
        budget = f"{low:.1%} of the forward's multiply-adds low"
        if self.granularity is not ThresholdGranularity.NODE:
            return Provenance(repr(self), budget, analysis.digest)
        predicted = analysis.predict(plan) if analysis.findings.sensitivities.sums else None
        return Provenance(repr(self), budget, analysis.digest, predicted, cost_of(plan, work, cost))

    def __repr__(self) -> str:
        granularity = member_of(ThresholdGranularity, self.granularity, "")
        low, high = self._both
        backward = Precision.of(self.backward)
        return f"Threshold({self.tau:g}, {granularity.value!r}, low={low}, high={high}, backward={backward})"
