"""The protocol of solvers."""

from typing import Protocol, runtime_checkable

from precc.assignment.problem import AssignmentProblem, Solution

__all__ = ["Solver"]


@runtime_checkable
class Solver(Protocol):
    """Chooses for each group of a problem.

    Both raise InfeasibleError where no assignment is within the budgets, or costs as little.
    """

    def solve(self, problem: AssignmentProblem) -> Solution:
        """The cheapest assignment within the budgets."""
        ...

    def least_error(self, problem: AssignmentProblem, cost: float) -> Solution:
        """Of those that cost no more, the one whose largest error, relative to its budget, is least."""
        ...
