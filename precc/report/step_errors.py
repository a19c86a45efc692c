"""What is predicted, and measured, of the error of a plan: of the whole, of each op, of each slot."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from precc.analysis.analysis import Analysis
from precc.analysis.error_estimate import ErrorEstimate
from precc.errors import AnalysisError, PlanError, UnsupportedError
from precc.plan import PrecisionPlan
from precc.report.error_figures import ErrorFigures
from precc.slots import Slot

__all__ = ["BY", "StepErrors", "measured_errors", "op_plans", "predicted_errors"]

#: What is measured by itself beside the whole plan.
BY = ("op", "slot")

#: Fewer pairs have no order to speak of.
_FEWEST = 3

#: Slots up to which each one is predicted by itself; of more, ops are.
_MOST_SLOTS = 2000


@dataclass(frozen=True, slots=True)
class StepErrors:
    """Errors of one step.

    Args:
        whole: of the plan, predicted.
        predicted: of an op or a slot that alone rounds, by its name; those that round nothing are left out.
        observed: of the plan, measured.
        measured: of ops or slots likewise.
        draws: of the measurements.
        correlation: Spearman's, of predicted and measured gradients of what was measured by itself.
        missing: what is not known, in sentences.
    """

    whole: ErrorFigures | None = None
    predicted: Mapping[str, ErrorFigures] = field(default_factory=dict)
    observed: ErrorFigures | None = None
    measured: Mapping[str, ErrorFigures] = field(default_factory=dict)
    draws: int = 0
    correlation: float | None = None
    missing: tuple[str, ...] = ()


def op_plans(analysis: Analysis, plan: PrecisionPlan) -> dict[str, PrecisionPlan]:
    """For each op the plan by which it alone rounds, as the whole plan has it."""
    slots: dict[str, list[Slot]] = {}
    for name, record in analysis.records.items():
        if record.sensitivity is not None or plan.accumulator(name) is not None:
            slots.setdefault(record.slot.op, []).append(record.slot)
    return {op: _alone(analysis, plan, own) for op, own in slots.items()}


def _alone(analysis: Analysis, plan: PrecisionPlan, slots: Sequence[Slot]) -> PrecisionPlan:
    values = {own.name: plan.precision(own.name) for own in slots if analysis.records[own.name].sensitivity is not None}
    sums = {own.name: plan.accumulator(own.name) for own in slots if own.name not in values}
    return PrecisionPlan("float64", values, accumulators=sums)


def predicted_errors(analysis: Analysis, plan: PrecisionPlan) -> StepErrors:
    """What an analysis predicts; where it cannot, a sentence says why."""
    try:
        whole = ErrorFigures.of(analysis.predict(plan))
        every = {op: analysis.predict(own) for op, own in op_plans(analysis, plan).items()}
        if len(analysis.records) <= _MOST_SLOTS:
            every |= analysis.contributions(plan)
    except (AnalysisError, UnsupportedError, PlanError) as error:
        return StepErrors(missing=(f"errors are not predicted: {error}",))
    found = {name: ErrorFigures.of(own) for name, own in every.items() if _errs(own)}
    many = f"errors of single slots are not predicted where there are more than {_MOST_SLOTS:,}: net.explain(slot)"
    return StepErrors(whole, found, missing=() if len(analysis.records) <= _MOST_SLOTS else (many,))


def measured_errors(analysis: Analysis, plan: PrecisionPlan, predicted: StepErrors, draws: int, by: str) -> StepErrors:
    """The same with measurements of the plan and of each op by itself; of each slot too where `by` says so.

    Shows a bar with the time that is left, on a terminal.

    Raises:
        AnalysisError, PlanError, UnsupportedError: as `Analysis.measure`.
    """
    alone = op_plans(analysis, plan)
    if by == "slot":
        alone |= {name: _alone(analysis, plan, [analysis.records[name].slot]) for name in analysis.records}
    alone = {name: own for name, own in alone.items() if name in predicted.predicted or not predicted.predicted}
    found: dict[str, ErrorFigures] = {}
    with _progress() as progress:
        task = progress.add_task("measuring", total=1 + len(alone))
        whole = ErrorFigures.of(analysis.measure(plan, draws))
        progress.advance(task)
        for name, own in alone.items():
            found[name] = ErrorFigures.of(analysis.measure(own, draws))
            progress.advance(task)
    return StepErrors(
        predicted.whole,
        predicted.predicted,
        whole,
        found,
        draws,
        _correlation(predicted.predicted, found, by),
        predicted.missing,
    )


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _correlation(predicted: Mapping[str, ErrorFigures], measured: Mapping[str, ErrorFigures], by: str) -> float | None:
    """Of ops, or of slots alone where those were measured."""
    slots = {name for name in measured if "." in name.rpartition("/")[2]}
    names = [name for name in measured if name in predicted and (by == "op" or name in slots)]
    every = [(predicted[name].gradient, measured[name].gradient) for name in names]
    pairs = [pair for pair in every if all(map(math.isfinite, pair))]
    first, second = [own for own, _ in pairs], [own for _, own in pairs]
    if len(pairs) < _FEWEST or min(len(set(first)), len(set(second))) == 1:
        return None
    from scipy.stats import spearmanr  # takes a second to import

    return float(spearmanr(first, second).statistic)


def _errs(own: ErrorEstimate) -> bool:
    return bool(own.gradient or own.loss or own.loss_mean or own.unknown)
