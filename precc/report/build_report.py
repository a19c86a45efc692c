"""Builds the report of a net: everything that is known of it, and sentences on what is not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from precc.analysis.analysis import Analysis
from precc.assignment.step_work import step_work
from precc.cost.bit_ops import BitOps
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_by_op, cost_of
from precc.cost.plan_cost import PlanCost
from precc.errors import AnalysisError, PlanError, UnsupportedError, expected_one_of
from precc.history import History
from precc.plan import PrecisionPlan
from precc.report.analysed_step import AnalysedStep, GroupCalibration
from precc.report.choice_table import ChoiceTable
from precc.report.finer_rules import finer_rules_block
from precc.report.graph_notes import graph_notes
from precc.report.layer_rows import layer_rows
from precc.report.net_parts import NetFacts, NetParts
from precc.report.precision_report import PrecisionReport
from precc.report.reasons import reasons
from precc.report.slot_rows import slot_rows
from precc.report.source_listings import source_listings
from precc.report.step_choices import MOST_CHOICES, choice_table
from precc.report.step_errors import BY, StepErrors, measured_errors, predicted_errors
from precc.slots import Role

__all__ = ["ReportOptions", "build_report"]

_FEWEST_DRAWS = 2


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report is to have.

    Args:
        measure: draws of each measurement; 0: nothing is measured.
        by: what is measured by itself beside the plan: ``"op"``, or ``"slot"``, each op and each slot.
        against: to be seen beside this one: another report, the path of one, or a plan, of which one is made.
        cost: model; None is `BitOps`.
        choices: whether to have the table of choices; None: up to 250 slots.

    Raises:
        AnalysisError, PlanError: an option that makes no sense.
    """

    measure: int = 0
    by: str = "op"
    against: PrecisionReport | PrecisionPlan | str | Path | None = None
    cost: CostModel | None = None
    choices: bool | None = None

    def __post_init__(self) -> None:
        if type(self.measure) is not int or (self.measure != 0 and self.measure < _FEWEST_DRAWS):
            raise AnalysisError(f"measure is a number of draws, at least 2, or 0 for none, not {self.measure!r}")
        if self.by not in BY:
            raise AnalysisError(f"by={self.by!r}: {expected_one_of(BY)}")
        if not isinstance(self.against, (PrecisionReport, PrecisionPlan, str, Path, type(None))):
            raise PlanError(f"against is a report, a plan, or the path of a report in JSON, not {self.against!r:.60}")
        if isinstance(self.cost, type) or not isinstance(self.cost, (CostModel, type(None))):
            raise PlanError(f"{self.cost!r:.60} is no cost model, such as precc.BitOps()")
        if type(self.choices) not in (bool, type(None)):
            raise PlanError(f"choices is True, False or None, not {self.choices!r}")


def build_report(net: NetFacts, analysis: Analysis | None, options: ReportOptions) -> PrecisionReport:
    """The report of a net.

    Args:
        net: as it stands.
        analysis: of a step of it; None: nothing is known of errors.
        options: what to have.

    Raises:
        AnalysisError: it is no analysis, or there is none to measure with.
        DataError, OSError: the other report cannot be read.
        UnsupportedError: the plan cannot be measured.
    """
    if analysis is not None and not isinstance(analysis, Analysis):
        raise AnalysisError(f"an analysis is what net.analyze returns, not {analysis!r:.60}")
    if options.measure and (analysis is None or analysis.measurement is None):
        raise AnalysisError("to measure, pass the analysis: net.report(net.analyze(*inputs, loss=...), measure=4)")
    parts = NetParts.of(net.graphs, analysis)
    stale = [] if analysis is None else [name for name in parts.slots if name not in analysis.records]
    if stale and options.measure:
        raise AnalysisError(_stale(stale)[0])
    known = None if stale else analysis
    missing = [*_uncaptured(net, parts), *_stale(stale)]
    errors = StepErrors() if known is None else predicted_errors(known, net.plan)
    if known is not None and options.measure:
        errors = measured_errors(known, net.plan, errors, options.measure, options.by)
    slots = slot_rows(net, parts, known, errors)
    why = reasons(net.plan, parts, slots, errors.predicted)
    cost, shares, unpriced = _cost(known, net.plan, options.cost or BitOps())
    choices, unchosen = _choices(known, net.plan, errors, options.choices)
    rows = layer_rows(net.plan, parts, slots, errors, shares, why)
    listings, unlisted = source_listings({row.name: row.place for row in rows if row.place is not None})
    missing += [*errors.missing, *unpriced, *unchosen, *unlisted]
    missing += _unknown(analysis, known, errors)
    predicted = known is not None and errors.whole is not None
    return PrecisionReport(
        net.title,
        rows,
        tuple(graph_notes(net, [row.multiply_adds for row in rows])),
        net.plan,
        slots,
        History(list(net.history), net.history.plans),
        None if known is None else _step(known, errors),
        cost,
        choices,
        tuple(listings),
        tuple(missing),
        finer_rules_block(known, net.plan, parts, errors.predicted) if known is not None and predicted else "",
        _other(net, analysis, options),
    )


def _other(net: NetFacts, analysis: Analysis | None, options: ReportOptions) -> PrecisionReport | None:
    """What the report is seen beside."""
    own = options.against
    if isinstance(own, PrecisionPlan):
        return build_report(replace(net, plan=own), analysis, ReportOptions(cost=options.cost, choices=False))
    return PrecisionReport.load(own) if isinstance(own, (str, Path)) else own


def _uncaptured(net: NetFacts, parts: NetParts) -> list[str]:
    """What graphs there are not."""
    if not net.graphs:
        seen = "; formats are those of the analysis" if parts.ops else ""
        return [f"no graph captured yet: call the net once{seen}"]
    trained = any(product.role is not Role.FPROP for product in parts.products)
    if parts.ops and not trained:
        return ["dgrad and wgrad are not known: no forward has recorded gradients; call the net with gradients on"]
    return []


def _stale(slots: Sequence[str]) -> list[str]:
    if not slots:
        return []
    more = f" (and {len(slots) - 1} more)" if len(slots) > 1 else ""
    return [f"the analysis is of another step: it does not know the slot {slots[0]}{more}; call net.analyze again"]


def _unknown(analysis: Analysis | None, known: Analysis | None, errors: StepErrors) -> list[str]:
    """What nobody has asked for."""
    if analysis is None:
        what = "errors, ranges, conditions, cost and rules are not known"
        return [f"{what}: net.report(net.analyze(*inputs, loss=...)) has them"]
    if known is None:
        return []
    found = []
    if errors.observed is None:
        found.append("nothing is measured: net.report(analysis, measure=4), with the analysis that net.analyze returns")
    if not known.calibration.counts():
        found.append("predictions are not calibrated: analysis.calibrate(net.plan)")
    return found


def _step(analysis: Analysis, errors: StepErrors) -> AnalysedStep:
    counts = analysis.calibration.counts().items()
    known = [(group, count, analysis.calibration.of(f"/{group}")) for group, count in counts]
    calibration = tuple(GroupCalibration(group, count, own.loss, own.gradient) for group, count, own in known)
    return AnalysedStep(
        analysis.loss,
        analysis.gradient_norm,
        str(analysis.batch),
        analysis.digest,
        errors.whole,
        errors.observed,
        errors.draws,
        errors.correlation,
        calibration,
    )


def _cost(
    analysis: Analysis | None, plan: PrecisionPlan, model: CostModel
) -> tuple[PlanCost | None, Mapping[str, float], list[str]]:
    """What a step costs, and the share of each op; or why that is not known."""
    if analysis is None:
        return None, {}, []
    try:
        work = step_work(analysis)
        whole, parts = cost_of(plan, work, model), cost_by_op(plan, work, model)
    except (UnsupportedError, PlanError) as error:
        return None, {}, [f"the cost is not known: {error}"]
    total = sum(parts.values())
    return whole, {op: own / total for op, own in parts.items()} if 0 < total < math.inf else {}, []


def _choices(
    analysis: Analysis | None, plan: PrecisionPlan, errors: StepErrors, wanted: bool | None
) -> tuple[ChoiceTable | None, list[str]]:
    if analysis is None or errors.whole is None or wanted is False:
        return None, []
    count = len(analysis.operands)
    if wanted is None and count > MOST_CHOICES:
        return None, [f"what other formats would do is left out: {count:,} slots; net.report(choices=True)"]
    try:
        return choice_table(analysis, plan), []
    except (AnalysisError, UnsupportedError, PlanError) as error:
        return None, [f"what other formats would do is not known: {error}"]
