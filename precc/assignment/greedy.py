"""The usual heuristic, and chance: what the solver is compared with."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from precc.assignment.elimination import cheapest, finest
from precc.assignment.exchange import Moves, repaired
from precc.assignment.infeasible import infeasible
from precc.assignment.problem import AssignmentProblem, Choices, Floats, Solution
from precc.errors import PlanError

__all__ = ["Greedy", "RandomChoice"]

#: The single change to make, as its place in [groups, choices], from what all would do; None: none is left.
_Pick = Callable[[Floats, Floats], int | None]


@dataclass(frozen=True, slots=True)
class Greedy:
    """From the assignment that errs least, the change that saves most cost for its error, as long as one fits.

    To a cost: from the cheapest one, the change that gains most for its cost. Errors are weighed alike, relative to
    their budgets.
    """

    def solve(self, problem: AssignmentProblem) -> Solution:
        return _coarsened(problem, lambda costs, errors: _steepest(-costs, errors))

    def least_error(self, problem: AssignmentProblem, cost: float) -> Solution:
        return _refined(problem, cost, lambda costs, errors: _steepest(-errors, costs))


@dataclass(frozen=True, slots=True)
class RandomChoice:
    """Changes in random order, as long as they fit: what an assignment is worth that knows costs and no errors.

    Args:
        seed: of the order.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if type(self.seed) is not int or self.seed < 0:
            raise PlanError(f"RandomChoice: seed is a whole number of at least 0, not {self.seed!r}")

    def solve(self, problem: AssignmentProblem) -> Solution:
        return _coarsened(problem, self._pick())

    def least_error(self, problem: AssignmentProblem, cost: float) -> Solution:
        return _refined(problem, cost, self._pick())

    def _pick(self) -> _Pick:
        rng = np.random.default_rng(self.seed)

        def pick(costs: Floats, errors: Floats) -> int | None:
            fitting = np.flatnonzero(np.isfinite(costs))
            return int(rng.choice(fitting)) if len(fitting) else None

        return pick


def _steepest(gain: Floats, price: Floats) -> int | None:
    """Where the gain for the price is largest; None where nothing gains."""
    rate = np.where(gain > 0, gain / np.maximum(price, 1e-300), -np.inf)
    best = int(rate.argmax())
    return best if rate.flat[best] > -np.inf else None


def _coarsened(problem: AssignmentProblem, pick: _Pick) -> Solution:
    """Cheaper changes from the finest assignment, within the budgets."""
    own = problem.relative
    x = repaired(own, finest(own), np.ones(len(own.budgets))) if own.has_choices else None
    if x is None:
        raise infeasible(problem)
    while True:
        moves = Moves.of(own, x)
        slack = (1 - own.errors_of(x) + 1e-12)[:, None, None]
        fits = (moves.costs < 0) & (moves.errors <= slack).all(0)
        if not _changed(x, moves, fits, pick):
            return Solution.of(problem, x, -np.inf)


def _refined(problem: AssignmentProblem, cost: float, pick: _Pick) -> Solution:
    """Dearer changes from the cheapest assignment, up to a cost."""
    own, cost = problem.relative_without_limits, cost / problem.unit
    x = cheapest(own)
    if own.cost_of(x) > cost * (1 + 1e-12):
        raise infeasible(problem, cost * problem.unit)
    while True:
        moves = Moves.of(own, x)
        fits = (moves.costs > 0) & (own.cost_of(x) + moves.costs <= cost * (1 + 1e-12))
        if not _changed(x, moves, fits, pick):
            return Solution.of(problem, x, -np.inf)


def _changed(x: Choices, moves: Moves, fits: NDArray[np.bool_], pick: _Pick) -> bool:
    """Make the picked one of the changes that fit; whether there was one."""
    costs = np.where(fits, moves.costs, np.nan)
    best = pick(costs, np.where(fits, moves.errors.sum(0), np.nan))
    if best is None:
        return False
    group, choice = divmod(best, costs.shape[1])
    x[group] = choice
    return True
