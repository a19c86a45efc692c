"""Local search: single groups change, pairs of groups exchange error for cost, linked groups change together."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from precc.assignment.pairs import Pairs
from precc.assignment.problem import AssignmentProblem, Choices, Floats

__all__ = ["Moves", "improved", "repaired", "relinked"]

#: Moves of each kind that are tried in pairs.
_MOVES = 400

#: Gains below this, relative to the cost, are rounding errors.
_LEAST = 1e-12

#: More than sums of costs and errors can be off, relative to their terms.
_ROUNDING = 1e-11


@dataclass(slots=True, eq=False)
class Moves:
    """What all changes of one group would do to an assignment.

    Args:
        costs: by how much the cost would change, [groups, choices].
        errors: by how much the errors would, [constraints, groups, choices].
    """

    costs: Floats
    errors: Floats

    @classmethod
    def of(cls, problem: AssignmentProblem, x: Choices) -> "Moves":
        rows = np.arange(problem.groups)
        total = problem.costs.copy()
        edges, first, second = np.arange(len(problem.ends)), problem.ends[:, 0], problem.ends[:, 1]
        np.add.at(total, first, problem.edge_costs[edges, :, x[second]])
        np.add.at(total, second, problem.edge_costs[edges, x[first], :])
        change = total - total[rows, x][:, None]
        return cls(change, problem.errors - problem.errors[:, rows, x][..., None])


def repaired(problem: AssignmentProblem, x: Choices, prices: Floats) -> Choices | None:
    """An assignment within the budgets, reached by the changes that cost least for what they mend; None if stuck.

    Args:
        problem: with errors relative to budgets.
        x: an assignment that is allowed.
        prices: of errors, which weigh them against each other.
    """
    x = x.copy()
    weights = np.maximum(prices, prices.max(initial=0.0) * 1e-3) if len(prices) else prices
    weights = weights if weights.any() else np.ones(len(prices))
    for _ in range(4 * problem.groups):
        slack = problem.budgets - problem.errors_of(x)
        if (slack >= -1e-9).all():
            return x
        moves = Moves.of(problem, x)
        excess = np.maximum(-slack, 0.0)[:, None, None]
        after = np.maximum(moves.errors - slack[:, None, None], 0.0)
        mended = ((excess - after) * weights[:, None, None]).sum(0)
        helps = (mended > 1e-15 * weights.max()) & np.isfinite(moves.costs)
        rate = np.where(helps, moves.costs / np.where(helps, mended, 1.0), np.inf)
        best = int(rate.argmin())
        if not np.isfinite(rate.flat[best]):
            return None
        group, choice = divmod(best, rate.shape[1])
        x[group] = choice
    return None


def improved(
    problem: AssignmentProblem, x: Choices, prices: Floats, cost: float | None = None, *, changes: int | None = None
) -> Choices:
    """A better assignment, until no change of a group and no exchange between two makes it better.

    Args:
        problem: with errors relative to budgets.
        x: an assignment that is within the budgets, or costs no more than `cost`.
        prices: of errors: changes that are nearly even at these are tried in pairs.
        cost: None: cheaper is better, within the budgets; else a smaller largest error is, at no more than this cost.
        changes: the most that are made; default: 100 and 20 a group.
    """
    x, goal = x.copy(), _Cheaper() if cost is None else _Finer(cost)
    for _ in range(20 * problem.groups + 100 if changes is None else changes):
        moves = Moves.of(problem, x)
        state = _State(float(problem.cost_of(x)), problem.errors_of(x))
        if not (_change(x, moves, goal, state) or _exchange(problem, x, moves, goal, state, prices)):
            break
    return x


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    cost: float
    errors: Floats


class _Goal(Protocol):
    """What is better."""

    def gains(self, state: _State, costs: Floats, errors: Floats) -> Floats:
        """Of changes of cost [...] and errors [constraints, ...]: negative is better, infinite is not allowed."""
        ...

    def room(self, state: _State, prices: Floats) -> float:
        """What a change that is better adds at most to cost and errors, at prices that are not negative."""
        ...


@dataclass(frozen=True, slots=True)
class _Cheaper:
    """Within budgets of 1."""

    def gains(self, state: _State, costs: Floats, errors: Floats) -> Floats:
        slack = (1 - state.errors + 1e-12).reshape(-1, *[1] * costs.ndim)
        least = _LEAST * abs(state.cost)
        return np.where((errors <= slack).all(0) & (costs < -least), costs, np.inf)

    def room(self, state: _State, prices: Floats) -> float:
        return _widened(float(prices @ (1 - state.errors)), prices, state)


@dataclass(frozen=True, slots=True)
class _Finer:
    """At no more than a cost."""

    cost: float

    def gains(self, state: _State, costs: Floats, errors: Floats) -> Floats:
        before = state.errors.max(initial=0.0)
        after = (state.errors.reshape(-1, *[1] * costs.ndim) + errors).max(0, initial=0.0) - before
        fits = state.cost + costs <= self.cost * (1 + 1e-12)
        found: Floats = np.where(fits & (after < -_LEAST * before), after, np.inf)
        return found

    def room(self, state: _State, prices: Floats) -> float:
        largest = state.errors.max(initial=0.0)
        return _widened(self.cost - state.cost + float(prices @ (largest - state.errors)), prices, state)


def _widened(room: float, prices: Floats, state: _State) -> float:
    """By rounding errors, and by what `gains` allows of them."""
    return room + _ROUNDING * (abs(state.cost) + float(prices @ (1 + state.errors)))


def _change(x: Choices, moves: Moves, goal: _Goal, state: _State) -> bool:
    """Make the single change that gains most, if one gains anything."""
    gains = goal.gains(state, moves.costs, moves.errors)
    best = int(gains.argmin())
    if gains.flat[best] == np.inf:
        return False
    group, choice = divmod(best, gains.shape[1])
    x[group] = choice
    return True


def _exchange(problem: AssignmentProblem, x: Choices, moves: Moves, goal: _Goal, state: _State, prices: Floats) -> bool:
    """Make the pair of changes that gains most, if one gains anything; of those whose reduced costs are least."""
    reduced = moves.costs + np.tensordot(prices, moves.errors, 1)
    reduced[np.arange(len(x)), x] = np.inf
    order = np.argsort(reduced, axis=None)[:_MOVES]
    order = order[np.isfinite(reduced.flat[order])]
    groups, choices = np.divmod(order, reduced.shape[1])
    cost, errors = moves.costs[groups, choices], moves.errors[:, groups, choices]
    # what rounding errors of the reduced costs could hide is no reason to leave a pair out
    least = reduced.flat[order] - _ROUNDING * (np.abs(cost) + np.abs(prices) @ np.abs(errors))
    pairs = Pairs.of(problem, x, groups, choices).with_sums_within(least, goal.room(state, np.abs(prices)))
    first, second = np.divmod(pairs.apart(groups), max(len(order), 1))
    total = cost[first] + cost[second] + pairs.between[first, second]
    gains = goal.gains(state, total, errors[:, first] + errors[:, second])
    if gains.min(initial=np.inf) == np.inf:
        return False
    best = int(gains.argmin())
    for move in (first[best], second[best]):
        x[groups[move]] = choices[move]
    return True


def relinked(problem: AssignmentProblem, x: Choices, other: Choices, cost: float | None = None) -> Choices:
    """From an assignment toward another one that is cheaper and beyond the budgets, or finer and beyond the cost.

    Where they differ, linked groups change together: those that gain most first, as long as they fit.
    """
    count, labels = _parts(problem, x != other)
    costs, errors = _changes(problem, x, other, count, labels)
    x, members = x.copy(), np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[members], np.arange(count + 1))
    state = _State(float(problem.cost_of(x)), problem.errors_of(x))
    for k in sorted(range(count), key=lambda k: _rate(float(costs[k]), errors[:, k], finer=cost is not None)):
        after = _State(state.cost + costs[k], state.errors + errors[:, k])
        fits = (after.errors <= 1 + 1e-12).all() if cost is None else after.cost <= cost * (1 + 1e-12)
        gains = costs[k] < 0 if cost is None else (errors[:, k] < 0).any()
        if fits and gains:
            part = members[starts[k] : starts[k + 1]]
            x[part], state = other[part], after
    return x


def _rate(dearer: float, worse: Floats, *, finer: bool) -> float:
    """What a change gains for what it takes, the best ones least."""
    gain, price = (float(worse.sum()), dearer) if finer else (dearer, float(worse.sum()))
    return gain / max(price, 1e-300)


def _parts(problem: AssignmentProblem, differs: NDArray[np.bool_]) -> tuple[int, Choices]:
    """How many connected parts the groups that differ make, and the part of each group; -1 of one that does not."""
    ends = problem.ends[differs[problem.ends].all(1)]
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(problem.groups, problem.groups))
    _, found = connected_components(graph, directed=False)
    labels = np.full(problem.groups, -1)
    names, labels[differs] = np.unique(found[differs], return_inverse=True)
    return len(names), labels


def _changes(
    problem: AssignmentProblem, x: Choices, other: Choices, count: int, labels: Choices
) -> tuple[Floats, Floats]:
    """What the change of each part does to the cost, [parts], and to the errors, [constraints, parts]."""
    rows, edges, (first, second) = np.flatnonzero(labels >= 0), np.arange(len(problem.ends)), problem.ends.T
    parts = labels[rows]
    own = problem.costs[rows, other[rows]] - problem.costs[rows, x[rows]]
    tables, of_edges = problem.edge_costs, np.maximum(labels[first], labels[second])  # both ends: the same part
    change = tables[edges, other[first], other[second]] - tables[edges, x[first], x[second]]
    touched = of_edges >= 0
    costs = np.bincount(parts, own, count).astype(np.float64)
    costs += np.bincount(of_edges[touched], change[touched], count)
    errors = problem.errors[:, rows, other[rows]] - problem.errors[:, rows, x[rows]]
    by_part: Floats = np.array([np.bincount(parts, own, count) for own in errors], np.float64)
    return costs, by_part.reshape(len(errors), count)
