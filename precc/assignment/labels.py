"""The best assignment where edges tie few groups: parts of the graph one after the other, with what may become best.

A label is an assignment of the parts so far, with its cost and its errors. Of those that remain are left out: what is
beyond a limit with the least of the parts to come; what is at prices on the errors further from the least of all parts
than the best known assignment (Lagrangian bounds); and most of what another label beats in cost and in every error
(dynamic programming with dominance: Nemhauser and Ullmann 1969). What is left is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from precc.assignment.problem import AssignmentProblem, Choices, Floats

__all__ = ["best_of_labels"]

#: Assignments of one part, and labels with them, beyond which there are too many.
_PART, _MOST = 4096, 500_000

#: Relative to limits, more than sums are off, and less than exchange allows.
_ROUNDING = 1e-12

#: Classes of errors that labels are compared by, all errors together.
_CLASSES = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Groups that edges tie, and their assignments that may be part of the best one.

    Args:
        groups: their numbers.
        choices: of them, [assignments, groups].
        values: cost and errors, [assignments, 1 + constraints].
        excess: beyond the least at prices, [assignments].
    """

    groups: Choices
    choices: Choices
    values: Floats
    excess: Floats

    def only(self, kept: NDArray[Any]) -> "_Part":
        """With some of the assignments."""
        return _Part(self.groups, self.choices[kept], self.values[kept], self.excess[kept])


def best_of_labels(
    problem: AssignmentProblem, prices: Floats, limits: Floats, *, finest: bool = False
) -> Choices | None:
    """The cheapest assignment within limits, or the one whose largest error is least.

    Args:
        problem: whose costs and errors count; not its budgets.
        prices: of errors, none negative: the nearer to the best ones, the fewer labels.
        limits: of cost and errors, [1 + constraints]: what is asked for, and no more than the best known assignment.
        finest: whether the largest error shall be least; else the cost.

    Returns:
        Nothing where there are too many labels, or none.
    """
    parts = _parts(problem)
    if parts is None:
        return None
    weights = np.concatenate([[1.0], np.maximum(prices, 0.0)])
    parts = [_priced(part, weights) for part in parts]
    least = sum(float((part.values @ weights).min()) for part in parts)
    most = limits + _ROUNDING * np.abs(limits)
    room = float(weights @ most) - least + 1e3 * _ROUNDING * (float(weights @ np.abs(most)) + abs(least))
    if room < 0:
        return None
    parts = [part.only(part.excess <= room) for part in parts]
    parts = [part.only(_undominated(part.values)) for part in parts]
    return _best(sorted(parts, key=lambda own: -len(own.excess)), most, room, finest=finest)


def _best(parts: Sequence[_Part], most: Floats, room: float, *, finest: bool) -> Choices | None:
    to_come = np.cumsum([part.values.min(0) for part in reversed(parts)], 0)[::-1]
    left = [*(most - own for own in to_come[1:]), most]
    values, excess, steps = np.zeros((1, len(most))), np.zeros(1), []
    for part, limit in zip(parts, left, strict=True):
        if len(values) * len(part.excess) > _MOST:
            return None
        before, own = np.nonzero(excess[:, None] + part.excess <= room)
        sums = values[before] + part.values[own]
        kept = np.flatnonzero((sums <= limit).all(1))
        kept = kept[_undominated(sums[kept])]
        if not len(kept):
            return None
        before, own, values = before[kept], own[kept], sums[kept]
        excess = excess[before] + part.excess[own]
        steps.append((part, before, own))
    largest = values[:, 1:].max(1, initial=0.0)
    order = (values[:, 0], largest) if finest else (largest, values[:, 0])
    return _traced(steps, int(np.lexsort(order)[0]))


def _traced(steps: Sequence[tuple[_Part, Choices, Choices]], label: int) -> Choices:
    """The choices of all groups, back from a label of the last step."""
    found = np.zeros(sum(len(part.groups) for part, _, _ in steps), np.int64)
    for part, before, own in reversed(steps):
        found[part.groups] = part.choices[own[label]]
        label = int(before[label])
    return found


def _parts(problem: AssignmentProblem) -> list[_Part] | None:
    """With all of their assignments that are allowed; None if there are too many of one."""
    first, second = problem.ends.T
    links = coo_array((np.ones(len(first)), (first, second)), shape=(problem.groups, problem.groups))
    count, labels = connected_components(links, directed=False)
    found = []
    for number in range(count):
        groups = np.flatnonzero(labels == number)
        allowed = [np.flatnonzero(own) for own in np.isfinite(problem.costs[groups])]
        if np.prod([float(len(own)) for own in allowed]) > _PART:
            return None
        choices = np.stack(np.meshgrid(*allowed, indexing="ij"), -1).reshape(-1, len(groups))
        costs = problem.costs[groups, choices].sum(1)
        for edge in np.flatnonzero(labels[first] == number):
            ends = np.searchsorted(groups, problem.ends[edge])
            costs = costs + problem.edge_costs[edge, choices[:, ends[0]], choices[:, ends[1]]]
        values = np.concatenate([costs[None], problem.errors[:, groups, choices].sum(-1)]).T
        there = np.isfinite(costs)
        if not there.any():
            return None
        found.append(_Part(groups, choices[there], values[there], np.zeros(int(there.sum()))))
    return found


def _priced(part: _Part, weights: Floats) -> _Part:
    total = part.values @ weights
    return _Part(part.groups, part.choices, part.values, total - total.min())


def _undominated(values: Floats) -> Choices:
    """Numbers of rows [labels, values] without most of those that another row is nowhere above."""
    order = np.lexsort(values.T[::-1])
    ascending = values[order]
    last, middle = ascending[:, -1], ascending[:, 1:-1]
    if values.shape[1] == 1 or not len(order):
        return order[:1]
    classes = max(2, round(_CLASSES ** (1 / max(middle.shape[1], 1))))
    ranks = np.argsort(np.argsort(middle, 0, kind="stable"), 0)
    place = tuple((ranks * classes // len(order)).T)
    least = np.full((len(order), *[classes] * len(place)), np.inf)
    least[(np.arange(len(order)), *place)] = last
    for axis in range(least.ndim):  # of all rows so far, in classes so far
        np.minimum.accumulate(least, axis, out=least)
    earlier = (np.maximum(np.arange(len(order)) - 1, 0), *(np.maximum(own - 1, 0) for own in place))
    compared = np.all([np.arange(len(order)) > 0, *(own > 0 for own in place)], 0)
    found: Choices = order[~(compared & (least[earlier] <= last))]
    return found
