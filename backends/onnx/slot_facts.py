"""What the last analysis of a net knows of the slots of its forward, as numbers for a file."""

from precc.analysis.analysis import Analysis
from precc.analysis.error_estimate import ErrorEstimate
from precc.analysis.records import SlotRecord
from precc.errors import PreccError
from precc.plan import PrecisionPlan
from precc.slots import Role
from precc.warn_caller import warn_caller

__all__ = ["facts_of"]


def facts_of(analysis: Analysis | None, plan: PrecisionPlan) -> dict[str, dict[str, float]]:
    """By slot: ``condition``, ``condition_p99``, ``sensitivity``, ``error``, ``loss_error``; none without an analysis.

    The first two are the median of the condition numbers of the product, componentwise relative, and what 99 in a
    hundred of them stay below. The sensitivity is the change of the gradient for relative errors of 1 in the slot,
    relative to its norm. The last two are what the plan's rounding in this slot alone does, as predicted: to the
    gradient, relative to its norm, and to the loss, absolute. Where nothing can be predicted, a warning says why.
    """
    if analysis is None:
        return {}
    forward = {name: own for name, own in analysis.records.items() if own.slot.role is Role.FPROP and own.sensitivity}
    alone = PrecisionPlan("float64", {name: plan.precision(name) for name in forward})
    try:
        errors = analysis.contributions(alone)
    except PreccError as error:
        warn_caller(f"the exported file has no predicted errors: {error}")
        errors = {}
    return {name: _facts(record, errors.get(name)) for name, record in forward.items()}


def _facts(record: SlotRecord, error: ErrorEstimate | None) -> dict[str, float]:
    facts: dict[str, float] = {}
    if record.condition is not None:
        facts |= {"condition": record.condition.median, "condition_p99": record.condition.p99}
    if record.sensitivity is not None:
        facts["sensitivity"] = record.sensitivity.gradient
    if error is not None:
        facts |= {"error": error.gradient, "loss_error": error.loss}
    return facts
