"""The plan that errs least at a cost."""

from dataclasses import dataclass, field

from precc.assignment.assigner import Assigner, Scored
from precc.checks import require_number
from precc.plan import PrecisionPlan
from precc.policies.budget_policy import BudgetPolicy
from precc.policies.uniform_errors import best_uniform

__all__ = ["CostBudget"]


@dataclass(frozen=True, kw_only=True, repr=False)
class CostBudget(BudgetPolicy):
    """The plan with the smallest error that costs no more, by the cost model of `assign`.

    Of loss and gradient the larger error counts, each relative to that of the best candidate that costs no more when
    all slots have it, or, if there is none, of the cheapest one.

    Args:
        limit: of the cost of a step, in units of the model; what rules decide counts.
        candidates, accumulators, share, inference, lost, solver: as in `precc.policies.budget_policy.BudgetPolicy`.

    Raises:
        PlanError: it is no positive number.

    >>> CostBudget(1e9)
    CostBudget(limit=1000000000.0)
    """

    limit: float = field(kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self.limit, "the limit of the cost")

    @property
    def _budget(self) -> str:
        return f"cost {self.limit:.4g}"

    def _solve(self, assigner: Assigner) -> Scored:
        costs = {own: assigner.cost_of(PrecisionPlan(own)) for own in self._candidates}
        within = [own for own, cost in costs.items() if cost <= self.limit]
        limits = best_uniform(assigner, within or [min(costs, key=lambda own: costs[own])])
        return assigner.least(self.limit, limits)
