"""Assignments that are best at some prices of errors: what the Lagrangian solver knows of a problem.

With prices p on the errors, ``L(p) = min_x cost(x) + p . error(x)`` is found by elimination. It bounds from below what
any assignment costs within some budgets (Everett 1963), and the error of any assignment of some cost. Both bounds are
concave in p and raised by cutting planes (Kelley 1960): a small linear program over all assignments found so far tells
at which prices to ask next.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

from precc.assignment.elimination import Elimination
from precc.assignment.problem import AssignmentProblem, Choices, Floats

__all__ = ["Columns", "Duals"]

#: First prices, relative to the range of the costs.
_FIRST = np.logspace(-4, 3, 8)

#: Steps from the prices of the linear program toward the best ones so far.
_STEPS = (0.0, 0.3, 0.7)

#: Times the largest cost: the highest price.
_HIGHEST = 1e6


@dataclass(frozen=True, slots=True, eq=False)
class Duals:
    """A bound, and where it is reached.

    Args:
        bound: of the cost, or of the largest error.
        prices: of errors in units of cost, [constraints].
    """

    bound: float
    prices: Floats


@dataclass(slots=True, eq=False)
class Columns:
    """Of one problem, whose errors are relative to its budgets.

    Args:
        problem: with budgets of 1.
        elimination: of its groups.
        prices: that were asked at, [n, constraints].
        values: ``L`` there, [n].
        found: the assignments, [n, groups].
        costs: of them, [n].
        errors: of them, [n, constraints].
    """

    problem: AssignmentProblem
    elimination: Elimination
    prices: Floats
    values: Floats
    found: Choices
    costs: Floats
    errors: Floats
    _held: Choices | None = field(default=None, repr=False)

    @classmethod
    def of(cls, problem: AssignmentProblem) -> "Columns":
        """With those at a first row of prices, the same for all errors, and those of one choice for all groups."""
        count = len(problem.budgets)
        none = np.zeros((0, problem.groups), np.int64)
        elimination = Elimination(problem.groups, problem.ends, problem.edge_costs)
        rest = (np.zeros((0, count)), np.zeros(0), none, np.zeros(0), np.zeros((0, count)))
        held = None if elimination.is_exact else problem.costs.argmin(1)
        own = cls(problem, elimination, *rest, held)
        own.ask(np.outer(np.concatenate([[0.0], _FIRST * own.scale]), np.ones(count)))
        own._add(_uniform(problem))
        return own

    @property
    def scale(self) -> float:
        """The most that choices can change the cost, or about that; not 0."""
        finite = np.isfinite(self.problem.costs)
        highest = np.where(finite, self.problem.costs, -np.inf).max(1)
        lowest = np.where(finite, self.problem.costs, np.inf).min(1)
        edges = np.where(np.isfinite(self.problem.edge_costs), self.problem.edge_costs, 0.0)
        return float((highest - lowest).sum() + edges.max((1, 2), initial=0.0).sum()) or 1.0

    def ask(self, prices: Floats) -> None:
        """Add the best assignments at these prices, [n, constraints]."""
        costs = self.problem.costs + np.tensordot(prices, self.problem.errors, 1)
        choices, values = self.elimination.minimise(costs, self._held)
        self.prices = np.concatenate([self.prices, prices])
        self.values = np.concatenate([self.values, values])
        self._add(choices)

    def _add(self, choices: Choices) -> None:
        self.found = np.concatenate([self.found, choices])
        self.costs = np.concatenate([self.costs, self.problem.cost_of(choices)])
        self.errors = np.concatenate([self.errors, self.problem.errors_of(choices)])

    def cheapest(self, gap: float, rounds: int) -> Duals:
        """Of the cost within the budgets; the bound is within a relative gap of the best one, or after all rounds."""
        for _ in range(rounds):
            bounds = self.values - self.prices.sum(1)
            best = int(bounds.argmax())
            prices, highest = self._prices_of_cheapest()
            if prices is None or highest - bounds[best] <= gap * abs(highest):
                break
            self._ask_near(prices, self.prices[best])
        bounds = self.values - self.prices.sum(1)
        best = int(bounds.argmax())
        return Duals(float(bounds[best]) if self.elimination.is_exact else -np.inf, self.prices[best])

    def least(self, cost: float, gap: float, rounds: int) -> Duals:
        """Of the largest error of assignments that cost no more, likewise."""
        for _ in range(rounds):
            bounds = self._bounds_of_least(cost)
            best = int(bounds.argmax())
            prices, highest = self.prices_of_least(cost)
            if prices is None or highest - bounds[best] <= gap * abs(highest):
                break
            self._ask_near(prices, self.prices[best])
        return self.duals_of_least(cost)

    def duals_of_least(self, cost: float) -> Duals:
        """The best of what is known of the largest error at a cost."""
        bounds = self._bounds_of_least(cost)
        best = int(bounds.argmax())
        return Duals(float(bounds[best]) if self.elimination.is_exact else -np.inf, self.prices[best])

    def _ask_near(self, prices: Floats, best: Floats) -> None:
        self.ask(np.stack([prices + step * (best - prices) for step in _STEPS]))

    def _bounds_of_least(self, cost: float) -> Floats:
        """With weights ``w = p / sum(p)`` of errors, no assignment of cost C or less has ``w . error`` below these."""
        total = self.prices.sum(1)
        return np.where(total > 0, (self.values - cost) / np.where(total > 0, total, 1.0), -np.inf)

    def _prices_of_cheapest(self) -> tuple[Floats | None, float]:
        """Highest of ``b`` under ``b <= cost + p . (error - 1)`` of each, with p; None where HiGHS finds none."""
        count, known = self.errors.shape[1], np.isfinite(self.costs)
        planes = np.concatenate([1 - self.errors[known], np.ones((int(known.sum()), 1))], 1)
        most = _HIGHEST * float(np.abs(self.costs[known]).max())
        found = _linear_program(
            LinearConstraint(planes, -np.inf, self.costs[known]), np.append(np.full(count, most), np.inf)
        )
        return (None, np.inf) if found.x is None else (np.maximum(found.x[:count], 0.0), float(found.x[count]))

    def prices_of_least(self, cost: float) -> tuple[Floats | None, float]:
        """Highest of ``b`` under ``b <= w . error + s (cost - C)`` of each, with ``w / s``; None if it is infinite."""
        count, known = self.errors.shape[1], np.isfinite(self.costs)
        scale = float(np.abs(self.costs[known]).max()) or 1.0
        over = (self.costs[known] - cost)[:, None] / scale
        planes = np.concatenate([-self.errors[known], -over, np.ones((int(known.sum()), 1))], 1)
        weights = np.concatenate([np.ones(count), [0.0, 0.0]])[None]
        most = np.append(np.zeros(len(over)), 1.0)
        under = LinearConstraint(np.concatenate([planes, weights]), np.append(np.full(len(over), -np.inf), 1.0), most)
        found = _linear_program(under, np.full(count + 2, np.inf))
        if found.x is None:
            return None, np.inf
        per_cost = float(found.x[count]) / scale
        return (found.x[:count] / per_cost if per_cost > 0 else None), float(found.x[count + 1])


def _linear_program(constraint: LinearConstraint, most: Floats) -> OptimizeResult:
    """The largest last number; all others are 0 or more. By `milp`: `linprog` prepares longer, and finds the same."""
    least = np.append(np.zeros(len(most) - 1), -np.inf)
    return milp(np.append(np.zeros(len(most) - 1), -1.0), constraints=constraint, bounds=Bounds(least, most))


def _uniform(problem: AssignmentProblem) -> Choices:
    """Assignments of one choice to each group that has it, and its cheapest to the others, [n, groups]."""
    choices = np.arange(problem.costs.shape[1])[:, None]
    found = np.where(np.isfinite(problem.costs.T), choices, problem.costs.argmin(1)[None])
    return found[np.isfinite(problem.cost_of(found))]
