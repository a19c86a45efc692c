"""Provenance: where a plan comes from."""

from dataclasses import dataclass

from precc.analysis.error_estimate import ErrorEstimate
from precc.cost.plan_cost import PlanCost

__all__ = ["Provenance"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a plan comes from.

    Args:
        policy: that made it.
        budget: of the policy.
        analysis: its digest.
        predicted_error: of the plan, in the step that was analysed.
        cost: of that step.
    """

    policy: str = ""
    budget: str = ""
    analysis: str = ""
    predicted_error: ErrorEstimate | None = None
    cost: PlanCost | None = None
