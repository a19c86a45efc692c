"""Least cost of groups that are linked by edges, for many costs of the choices at once.

Groups are eliminated one after the other, in rounds of groups that do not touch: one with a single edge adds the least
cost, for each choice of its neighbour, to that of the neighbour (dynamic programming on trees); one with two edges adds
it to the edge between its neighbours (Bertele and Brioschi 1972). Graphs of treewidth 2 are minimised exactly: trees,
and the products of a net (fprop, dgrad and wgrad of a layer share their three tensors in pairs). Where every group has
three edges or more, one is held at the choice that it has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precc.assignment.problem import AssignmentProblem, Choices, Floats

__all__ = ["Elimination", "cheapest", "finest"]

#: Numbers of a temporary array.
_MOST = 4_000_000

_Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Round:
    """Groups that are eliminated together: all have no edge, one or two, or one group is held.

    Args:
        groups: their numbers, [n].
        neighbours: of each, [n, edges of each].
        edges: numbers of those edges, [n, edges of each].
        turned: whether the group is the second end of the edge, likewise.
        into: of groups with two edges: number of the edge between the neighbours, [n].
        into_turned: whether the second neighbour is its first end.
    """

    groups: _Index
    neighbours: _Index
    edges: _Index
    turned: NDArray[np.bool_]
    into: _Index
    into_turned: NDArray[np.bool_]
    held: bool = False


@dataclass(frozen=True, eq=False)
class Elimination:
    """Of the groups of one graph.

    Args:
        groups: how many.
        ends: of the edges, [edges, 2]; several between two groups add up.
        tables: of the edges, [edges, choices, choices].
    """

    groups: int
    ends: Choices
    tables: Floats

    @property
    def is_exact(self) -> bool:
        """Whether no group is held."""
        return not any(one.held for one in self._schedule[0])

    @cached_property
    def _schedule(self) -> tuple[tuple[_Round, ...], int]:
        """The rounds, and how many edges there are with those that come in."""
        return _Scheduler(self.groups, self.ends).schedule()

    def minimise(self, costs: Floats, held: Choices | None = None) -> tuple[Choices, Floats]:
        """The best choices for costs [batch, groups, choices]: [batch, groups], and what they cost, [batch].

        `held` are the choices at which groups are held, if any are.
        """
        rounds, edges = self._schedule
        batch, _, k = costs.shape
        costs = costs.copy()
        fills = any(one.edges.shape[1] == 2 for one in rounds)
        tables = np.zeros((batch if fills else 1, edges, k, k))
        tables[:, : len(self.ends)] = self.tables
        value, answers = np.zeros(batch), []
        for one in rounds:
            answers.append(_eliminated(one, costs, tables, held))
            if one.held or not one.edges.shape[1]:
                value += costs[np.arange(batch)[:, None], one.groups, answers[-1]].sum(1)
        found = np.zeros((batch, self.groups), np.int64)
        for one, answer in zip(reversed(rounds), reversed(answers), strict=True):
            _choose(one, answer, found)
        return found, value


def _eliminated(one: _Round, costs: Floats, tables: Floats, held: Choices | None) -> Choices:
    """Add what a round passes on, and return the best choices for each choice of the neighbours."""
    if one.held:
        assert held is not None
        return _hold(one, costs, tables, held)
    own = costs[:, one.groups]  # [batch, n, k]
    if not one.edges.shape[1]:
        return np.asarray(own.argmin(-1))
    first = own[..., None] + _oriented(tables, one.edges[:, 0], one.turned[:, 0])  # [batch, n, k, k of the neighbour]
    if one.edges.shape[1] == 1:
        _add_to(costs, one.neighbours[:, 0], first.min(-2))
        return np.asarray(first.argmin(-2))
    best = np.empty((*first.shape[:2], *first.shape[-1:] * 2), np.int64)
    step = max(1, _MOST // (first[:, 0].size * first.shape[-1]))
    for k in range(0, len(one.groups), step):
        part = slice(k, k + step)
        second = _oriented(tables, one.edges[part, 1], one.turned[part, 1])
        both = first[:, part, :, :, None] + second[..., :, None, :]  # [batch, n, k, k of the first, k of the second]
        best[:, part] = both.argmin(-3)
        passed = both.min(-3)
        passed = np.where(one.into_turned[part, None, None], passed.swapaxes(-1, -2), passed)
        _add_to(tables, one.into[part], passed)
    return best


def _hold(one: _Round, costs: Floats, tables: Floats, held: Choices) -> Choices:
    group = int(one.groups[0])
    choice = int(held[group])
    for neighbour, edge, turned in zip(one.neighbours[0], one.edges[0], one.turned[0], strict=True):
        table = tables[:, edge]
        costs[:, neighbour] += table[:, :, choice] if turned else table[:, choice, :]
    return np.full((len(costs), 1), choice)


def _add_to(totals: Floats, places: _Index, terms: Floats) -> None:
    """Terms [batch, n, ...] at places [n] of the second dimension, several of which may be the same."""
    np.add.at(totals.swapaxes(0, 1), places, terms.swapaxes(0, 1))


def _oriented(tables: Floats, edges: _Index, turned: NDArray[np.bool_]) -> Floats:
    """Tables with the choices of the eliminated groups in front."""
    own = tables[:, edges]
    return np.where(turned[:, None, None], own.swapaxes(-1, -2), own)


def _choose(one: _Round, answer: Choices, found: Choices) -> None:
    batch, n = np.arange(len(found))[:, None], np.arange(len(one.groups))
    if one.held or not one.edges.shape[1]:
        found[:, one.groups] = answer
    elif one.edges.shape[1] == 1:
        found[:, one.groups] = answer[batch, n, found[:, one.neighbours[:, 0]]]
    else:
        found[:, one.groups] = answer[batch, n, found[:, one.neighbours[:, 0]], found[:, one.neighbours[:, 1]]]


def cheapest(problem: AssignmentProblem) -> Choices:
    """The assignment of least cost, whatever its errors; exact where elimination is."""
    elimination = Elimination(problem.groups, problem.ends, problem.edge_costs)
    found, _ = elimination.minimise(problem.costs[None], problem.costs.argmin(1))
    return np.asarray(found[0])


def finest(problem: AssignmentProblem) -> Choices:
    """The allowed assignment of least sum of errors, relative to the largest ones, whatever its cost; likewise."""
    errors, allowed = problem.errors, np.isfinite(problem.costs)
    largest = np.where(allowed, errors, 0.0).max((1, 2), initial=0.0)[:, None, None]
    relative = (errors / np.where(largest > 0, largest, 1.0)).sum(0)
    tables = np.where(np.isfinite(problem.edge_costs), 0.0, np.inf)
    return cheapest(replace(problem, costs=np.where(allowed, relative, np.inf), tables=tables))


class _Scheduler:
    """Orders the eliminations of one graph, whose edges are between different pairs of groups."""

    def __init__(self, groups: int, ends: Choices) -> None:
        self.links: list[dict[int, tuple[int, bool]]] = [{} for _ in range(groups)]
        self.edges = 0
        for first, second in ends.tolist():
            self._link(first, second)
        self.by_degree: tuple[dict[int, None], ...] = ({}, {}, {}, {})  # dictionaries: sets that keep an order
        for group in range(groups):
            self._note(group)

    def _link(self, first: int, second: int) -> None:
        self.links[first][second] = (self.edges, False)
        self.links[second][first] = (self.edges, True)
        self.edges += 1

    def _note(self, group: int) -> None:
        for own in self.by_degree:
            own.pop(group, None)
        self.by_degree[min(len(self.links[group]), 3)][group] = None

    def schedule(self) -> tuple[tuple[_Round, ...], int]:
        """The rounds, and how many edges there are with those that come in."""
        found = []
        while any(self.by_degree):
            degree = next(degree for degree, own in enumerate(self.by_degree) if own)
            if degree == 3:
                groups = [max(self.by_degree[3], key=lambda group: len(self.links[group]))]
            else:
                groups = self._apart(self.by_degree[degree])
            found.append(self._round(groups, held=degree == 3))
        return tuple(found), self.edges

    def _apart(self, groups: Iterable[int]) -> list[int]:
        """As many of these as do not touch each other."""
        found: dict[int, None] = {}
        for group in groups:
            if not any(neighbour in found for neighbour in self.links[group]):
                found[group] = None
        return list(found)

    def _round(self, groups: Sequence[int], *, held: bool) -> _Round:
        links = [list(self.links[group].items()) for group in groups]
        filled = [self._fill(*own) if len(own) == 2 and not held else (0, False) for own in links]
        for group, own in zip(groups, links, strict=True):
            for neighbour, _ in own:
                del self.links[neighbour][group]
                self._note(neighbour)
            for degree in self.by_degree:
                degree.pop(group, None)
        for own in links:
            for neighbour, _ in own:
                self._note(neighbour)  # an edge that came in counts
        count = len(links[0])
        numbers = [[[neighbour, edge, turned] for neighbour, (edge, turned) in own] for own in links]
        table = np.array(numbers, np.int64).reshape(len(groups), count, 3)
        into = np.array(filled, np.int64)
        turned = table[..., 2].astype(bool)
        return _Round(
            np.array(groups, np.int64), table[..., 0], table[..., 1], turned, into[:, 0], into[:, 1].astype(bool), held
        )

    def _fill(self, first: tuple[int, Any], second: tuple[int, Any]) -> tuple[int, bool]:
        """The edge between the neighbours of a group, and whether the second one is its first end."""
        if second[0] not in self.links[first[0]]:
            self._link(first[0], second[0])
        return self.links[first[0]][second[0]]
