"""Pairs of changes of single groups, and which of them can gain anything."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from precc.assignment.problem import AssignmentProblem, Choices, Floats

__all__ = ["Pairs"]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Of some changes of an assignment.

    Args:
        between: what two changes cost more than each by itself, [changes, changes]; of the first of both alone.
        chosen: whether a pair is looked at, likewise; those that an edge joins are.
    """

    between: Floats
    chosen: NDArray[np.bool_]

    @classmethod
    def of(cls, problem: AssignmentProblem, x: Choices, groups: Choices, choices: Choices) -> "Pairs":
        """Of changes of these groups to these choices, with those that edges join."""
        count = len(groups)
        between, chosen = np.zeros((count, count)), np.zeros((count, count), bool)
        place = np.full(problem.costs.shape, -1)
        place[groups, choices] = np.arange(count)
        a, b = problem.ends[:, 0], problem.ends[:, 1]
        first, second = np.broadcast_arrays(place[a][:, :, None], place[b][:, None, :])
        edges, own, other = np.nonzero((first >= 0) & (second >= 0))
        pair = _ordered(first[edges, own, other], second[edges, own, other])
        tables, a, b = problem.edge_costs, x[a[edges]], x[b[edges]]
        extra = tables[edges, own, other] - tables[edges, own, b] - tables[edges, a, other] + tables[edges, a, b]
        extra = np.where(np.isnan(extra), np.inf, extra)  # a change that is not allowed by itself
        np.add.at(between, pair, extra)
        chosen[pair] = True
        return cls(between, chosen)

    def with_sums_within(self, values: Floats, most: float) -> "Pairs":
        """And those the sum of whose values is no more than this."""
        order = np.argsort(values)
        ascending = values[order]
        counts = np.searchsorted(ascending, most - ascending, side="right")
        counts = np.minimum(counts, np.arange(len(order)))  # each pair once
        rows = np.repeat(np.arange(len(order)), counts)
        columns = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = self.chosen.copy()
        chosen[_ordered(order[rows], order[columns])] = True
        return Pairs(self.between, chosen)

    def apart(self, groups: Choices) -> Choices:
        """Numbers of the pairs that are looked at and whose changes are of different groups, ascending."""
        pairs = np.flatnonzero(self.chosen)
        first, second = np.divmod(pairs, max(len(groups), 1))
        found: Choices = pairs[groups[first] != groups[second]]
        return found


def _ordered(one: Choices, other: Choices) -> tuple[Choices, Choices]:
    """Each pair with the smaller number first."""
    return np.minimum(one, other), np.maximum(one, other)
