"""The Pareto front: the least error at each cost."""

import numpy as np

from precc.assignment.columns import Columns
from precc.assignment.infeasible import infeasible
from precc.assignment.lagrangian import least_of
from precc.assignment.problem import AssignmentProblem, Solution

__all__ = ["front"]

#: The first ones, relative to the range of the costs.
_PRICES = np.logspace(-12, 4, 24)

#: By exchange, at each point.
_CHANGES = 5

#: Of cutting planes, for all points together.
_ROUNDS = 2


def front(problem: AssignmentProblem, points: int = 24) -> list[Solution]:
    """Assignments of which none is both cheaper and finer than another, from the cheapest to the finest.

    Errors are relative to the problem's budgets, and the largest one counts; budgets themselves do not limit it.
    Costs are spaced evenly by their logarithms.
    """
    own = problem.relative_without_limits
    columns = Columns.of(own)
    columns.ask(np.outer(_PRICES * columns.scale, np.ones(len(own.budgets))))
    known = np.isfinite(columns.costs)
    if not known.any():
        raise infeasible(problem)
    costs = np.geomspace(max(columns.costs[known].min(), 1e-300), columns.costs[known].max(), points)
    limits = [float(cost) * (1 + 1e-9) for cost in costs]
    for _ in range(_ROUNDS):
        prices = [own for own, _ in map(columns.prices_of_least, limits) if own is not None]
        if prices:
            columns.ask(np.stack(prices))
    found = []
    for cost in limits:
        prices_there = columns.duals_of_least(cost).prices
        best = least_of(columns, cost, prices_there, changes=_CHANGES)
        if best is not None:
            found.append(Solution.of(problem, best, -np.inf))
    return _not_dominated(problem, found)


def _not_dominated(problem: AssignmentProblem, found: list[Solution]) -> list[Solution]:
    kept, least = [], np.inf
    for one in sorted(found, key=lambda one: (one.cost, problem.largest_error(one.choices))):
        if problem.largest_error(one.choices) < least:
            kept.append(one)
            least = problem.largest_error(one.choices)
    return kept
