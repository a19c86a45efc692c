"""The cheapest plan within an error."""

import math
from dataclasses import dataclass

from precc.assignment.assigner import Assigner, Scored
from precc.assignment.limits import Limits
from precc.errors import PlanError
from precc.policies.budget_policy import BudgetPolicy

__all__ = ["ErrorBudget"]


@dataclass(frozen=True, kw_only=True, repr=False)
class ErrorBudget(BudgetPolicy):
    """The cheapest plan whose predicted errors are within limits.

    Args:
        loss: root mean square of the error of the loss; absolute.
        gradient: root mean square of the norm of the gradient's error, relative to the gradient's norm.
        bias: magnitude of the mean of the loss error; absolute.
        candidates, accumulators, share, inference, lost, solver: as in `precc.policies.budget_policy.BudgetPolicy`.

    Raises:
        PlanError: no limit at all, a negative one, or one of the gradient for inference.

    >>> ErrorBudget(loss=0.01, gradient=0.1)
    ErrorBudget(loss=0.01, gradient=0.1)
    """

    loss: float = math.inf
    gradient: float = math.inf
    bias: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._limits.budgets.min() == math.inf:
            raise PlanError("an error budget needs loss=, gradient= or bias=")
        if self.inference and self.gradient < math.inf:
            raise PlanError("a plan for inference has no gradient to limit: leave gradient= out")

    @property
    def _limits(self) -> Limits:
        return Limits(self.loss, self.gradient, self.bias)

    @property
    def _budget(self) -> str:
        return str(self._limits)

    def _solve(self, assigner: Assigner) -> Scored:
        return assigner.cheapest(self._limits)
