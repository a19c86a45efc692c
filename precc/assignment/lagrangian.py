"""The default solver: prices on errors, least cost under them by elimination, then exchange."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from precc.assignment.columns import Columns, Duals
from precc.assignment.exchange import improved, relinked, repaired
from precc.assignment.infeasible import infeasible
from precc.assignment.labels import best_of_labels
from precc.assignment.milp import MILP
from precc.assignment.problem import AssignmentProblem, Choices, Floats, Solution
from precc.errors import LimitReachedError, PlanError

__all__ = ["DEFAULT_SOLVER", "Lagrangian", "least_of"]

#: Choices and pairs of choices of a problem that is solved exactly in a second or two.
_SMALL = 20_000

#: From how much more than its bound on an error (of squares) is worth an exact look, and in how many nodes of MILP's.
_FAR, _NODES = 0.1, 200

#: Budgets that are tried to find the least error at a cost.
_HALVINGS = 10


@dataclass(frozen=True, slots=True)
class Lagrangian:
    """Lagrangian prices, elimination, exchange: near the best assignment in milliseconds, and a bound of the rest.

    Args:
        gap: relative, between cost and bound, that is good enough.
        most: gap beyond which the problem is solved exactly, if it has not more than 20,000 choices and pairs of
            choices: by labels (`precc.assignment.labels`) where edges tie few groups, else by `MILP`. Of least errors
            at a cost, where they may be 10% (of squares) beyond a bound, labels likewise, else, if choices meet on
            edges, MILP has 200 nodes, and the better one of both counts. Where exchange finds nothing, MILP alone
            answers.
        rounds: of cutting planes.

    Raises:
        PlanError: an option that is none.
    """

    gap: float = 2e-3
    most: float = 1e-2
    rounds: int = 25

    def __post_init__(self) -> None:
        for name in ("gap", "most"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise PlanError(f"Lagrangian: {name} is relative, 0 or more, not {value!r}")
        if type(self.rounds) is not int or self.rounds < 1:
            raise PlanError(f"Lagrangian: rounds is a number of at least 1, not {self.rounds!r}")

    def solve(self, problem: AssignmentProblem) -> Solution:
        found, prices = self._cheapest(problem)
        if found is None:
            return MILP(self.gap).solve(problem)
        if found.gap <= self.most or not _is_small(problem):
            return found
        limits = np.concatenate([[found.cost / problem.unit], np.ones(len(prices))])
        best = best_of_labels(problem.relative, prices, limits)
        if best is None:
            exact = MILP(self.gap).solve(problem)
        else:
            exact = Solution.of(problem, best, float(problem.cost_of(best)))
        return exact if exact.cost <= found.cost else found

    def _cheapest(self, problem: AssignmentProblem) -> tuple[Solution | None, Floats]:
        """By prices and exchange alone, with the prices; None if none was found."""
        own = problem.relative
        nothing = np.zeros(len(own.budgets))
        if not own.has_choices:
            return None, nothing
        columns = Columns.of(own)
        if not np.isfinite(columns.costs).any():
            return None, nothing
        duals = columns.cheapest(self.gap / 10, self.rounds)
        best = self._best(columns, duals)
        return None if best is None else Solution.of(problem, best, duals.bound * problem.unit), duals.prices

    def _best(self, columns: Columns, duals: Duals) -> Choices | None:
        """The cheapest assignment found from those at prices; None if none is within the budgets."""
        best, least = None, np.inf
        for start in _starts(columns, duals.prices):
            found = improved(columns.problem, start, duals.prices)
            cost = float(columns.problem.cost_of(found))
            best, least = (found, cost) if cost < least else (best, least)
            if least - duals.bound <= self.gap / 2 * abs(duals.bound):
                break
        return best

    def least_error(self, problem: AssignmentProblem, cost: float) -> Solution:
        own, limit = problem.relative_without_limits, cost / problem.unit
        columns = Columns.of(own)
        if not np.isfinite(columns.costs).any():
            return MILP(self.most).least_error(problem, cost)
        duals = columns.least(limit, self.gap / 10, self.rounds)
        best = least_of(columns, limit, duals.prices)
        if best is None:
            raise infeasible(problem, cost)
        exact = self._exact_least(problem, limit, duals, best)
        if exact is not None:
            return Solution.of(problem, exact, -np.inf)
        low = max(duals.bound, 0.0)
        for _ in range(_HALVINGS):
            high = problem.largest_error(best)
            if high <= low * (1 + 10 * self.gap) or not high:
                break
            middle = math.sqrt(max(low, high / 16) * high)
            found, _ = self._cheapest(problem.within(middle * problem.budgets))
            if found is not None and found.cost <= cost:
                best = improved(own, found.choices, duals.prices, limit)
            else:
                low = middle
        best = self._compared(problem, cost, best, duals.bound)
        return Solution.of(problem, best, -np.inf)

    def _exact_least(self, problem: AssignmentProblem, limit: float, duals: Duals, best: Choices) -> Choices | None:
        """The least error there is, if this is far from its bound, and labels are few."""
        high = problem.largest_error(best)
        if high <= duals.bound * (1 + _FAR) or not _is_small(problem):
            return None
        limits = np.concatenate([[limit], np.full(len(duals.prices), high)])
        return best_of_labels(problem.relative_without_limits, duals.prices, limits, finest=True)

    def _compared(self, problem: AssignmentProblem, cost: float, best: Choices, bound: float) -> Choices:
        """With what MILP finds, where edges tie groups: exchange moves two of them at a time, and may not leave."""
        high = problem.largest_error(best)
        if not len(problem.ends) or high <= bound * (1 + _FAR) or not _is_small(problem):
            return best
        try:
            other = MILP(self.most, _NODES).least_error(problem, cost).choices
        except LimitReachedError:  # nothing better
            return best
        return other if problem.largest_error(other) < high else best


#: With its usual gaps.
DEFAULT_SOLVER = Lagrangian()


def least_of(columns: Columns, cost: float, prices: Floats, *, changes: int | None = None) -> Choices | None:
    """The assignment that costs no more and has the least largest error, from those found at prices, if there is one.

    `changes` are those that exchange makes at most, in the best of them; default: as many as help, in all of them.
    """
    affordable = columns.costs <= cost * (1 + 1e-12)
    if not affordable.any():
        return None
    own, largest = columns.problem, columns.errors.max(1, initial=0.0)
    within = np.argsort(np.where(affordable, largest, np.inf))[: min(2, int(affordable.sum()))]
    beyond = np.argsort(np.where(affordable, np.inf, columns.costs))[: min(3, int((~affordable).sum()))]
    starts = [relinked(own, columns.found[k], columns.found[other], cost) for k in within for other in beyond]
    starts += [columns.found[k] for k in within]
    likely = sorted(starts, key=own.largest_error)[: None if changes is None else 1]
    return min((improved(own, x, prices, cost, changes=changes) for x in likely), key=own.largest_error)


def _starts(columns: Columns, prices: Floats) -> Iterator[Choices]:
    """Assignments within the budgets, those that are likely to be good first."""
    own, found = columns.problem, columns.found
    feasible = own.is_feasible(found)
    value = np.where(np.isfinite(columns.costs), columns.costs + (columns.errors - 1) @ prices, np.inf)
    within = [k for k in np.argsort(np.where(feasible, columns.costs, np.inf)) if feasible[k]][:2]
    beyond = [k for k in np.argsort(np.where(feasible, np.inf, value)) if not feasible[k] and np.isfinite(value[k])][:4]
    for k in within:
        yield from (relinked(own, found[k], found[other]) for other in beyond)
    mended = (repaired(own, found[k], prices) for k in beyond)
    yield from (own for own in mended if own is not None)
    yield from (found[k] for k in within)


def _is_small(problem: AssignmentProblem) -> bool:
    return problem.costs.size + problem.edge_costs.size <= _SMALL
