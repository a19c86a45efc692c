"""What to say where no assignment is within the budgets."""

import numpy as np

from precc.assignment.problem import AssignmentProblem
from precc.errors import InfeasibleError

__all__ = ["infeasible"]


def infeasible(problem: AssignmentProblem, cost: float | None = None) -> InfeasibleError:
    """The error, with the constraints that no assignment meets by themselves, or else those that meet only apart.

    With a cost: that none costs as little.
    """
    if cost is not None:
        return InfeasibleError(f"no assignment costs {cost:.4g} or less")
    least = np.where(np.isfinite(problem.costs), problem.errors, np.inf).min(2).sum(1)
    alone = tuple(
        f"{name}: at least {own:.3g}, wanted {budget:.3g}"
        for name, own, budget in zip(problem.constraints, least, problem.budgets, strict=True)
        if own > budget
    )
    together = tuple(name for name, budget in zip(problem.constraints, problem.budgets, strict=True) if budget < np.inf)
    return InfeasibleError(
        "no assignment is within the budgets: " + ("; ".join(alone) or f"of {' and '.join(together)} together"),
    )
