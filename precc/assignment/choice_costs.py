"""Costs of choices, of groups and of linked pairs, and which of them are allowed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from precc.accumulation.accumulator import Accumulator
from precc.assignment.groups import GroupKind
from precc.assignment.problem import Choices, Floats
from precc.cost.cost_model import CostModel, amount
from precc.cost.work import StepWork, TensorWork
from precc.first_match import first_match
from precc.precision import AS_STORED, Precision, misfit
from precc.rule import Rule
from precc.target import Target

__all__ = ["Palette", "choice_costs"]


@dataclass(frozen=True, slots=True)
class Palette:
    """What there is to choose from.

    Args:
        precisions: of operands: the candidates, then those of rules.
        candidates: how many of them are candidates.
        sums: likewise of products.
        sum_candidates: how many of them are candidates.
        rules: that decide slots before anything is chosen.
        results: whether results are chosen for; else they get `stored`, unless rules decide them.
        stored: of results, what rounds none; None of a step without them.
    """

    precisions: tuple[Precision, ...]
    candidates: int
    sums: tuple[Accumulator | None, ...]
    sum_candidates: int
    rules: tuple[Rule, ...]
    results: bool = False
    stored: Precision | None = None

    @classmethod
    def of(
        cls,
        precisions: Sequence[Precision],
        sums: Sequence[Accumulator | None],
        rules: tuple[Rule, ...],
        *,
        results: bool = False,
        stored: Precision | None = None,
    ) -> "Palette":
        """From candidates and rules."""
        ruled = (rule.precision for rule in rules if rule.precision is not None)
        ruled_sums = (rule.accumulator for rule in rules if rule.decides_sums)
        others = [] if stored is None else [stored]
        every, every_sum = dict.fromkeys([*precisions, *ruled, *others]), dict.fromkeys([*sums, *ruled_sums])
        return cls(tuple(every), len(precisions), tuple(every_sum), len(sums), rules, results, stored)

    @property
    def size(self) -> int:
        """Choices of a group, at most."""
        return max(len(self.precisions), len(self.sums))

    def is_ruled(self, data: dict[str, Any]) -> bool:
        """Whether a rule decides a group."""
        decided = first_match(self.rules)
        slots = [slot.name for slot in data["slots"]] if data["kind"] is GroupKind.SLOTS else []
        sums = data["product"].accumulators if data["kind"] is GroupKind.SUM else []
        return any(decided.position(name) is not None for name in (*slots, *sums))

    def allowed(self, data: dict[str, Any]) -> set[int]:
        """The choices of a group by rules alone: one, or all candidates; none where rules contradict each other."""
        if data["kind"] is GroupKind.COPY:
            return set(range(len(self.precisions)))
        decided = first_match(self.rules)
        if data["kind"] is GroupKind.SUM:
            name = data["product"].accumulators[0]
            ruled = decided.position(name) is not None
            return {self.sums.index(decided.accumulator(name, None))} if ruled else set(range(self.sum_candidates))
        names = [slot.name for slot in data["slots"] if decided.position(slot.name) is not None]
        found = {self._index(decided.precision(name, self.precisions[0])) for name in names}
        if not found and not self.results and any(slot.is_result for slot in data["slots"]):
            return {self._index(AS_STORED)}
        return (found if len(found) == 1 else set()) if found else set(range(self.candidates))

    def _index(self, precision: Precision) -> int:
        known = self.stored if precision == AS_STORED and self.stored is not None else precision
        return self.precisions.index(known)


def choice_costs(
    graph: "nx.MultiGraph[int]", work: StepWork, palette: Palette, model: CostModel, target: Target
) -> tuple[Floats, Choices, Floats]:
    """Costs of choices [groups, choices], ends of edges [edges, 2] and their tables [edges, choices, choices].

    Infinite is what rules or the target do not allow.
    """
    costs = np.full((graph.number_of_nodes(), palette.size), np.inf)
    for group, data in graph.nodes(data=True):
        for choice in palette.allowed(data):
            costs[group, choice] = _own_cost(data, choice, palette, model, target)
    edges = _Edges(palette)
    for first, second, data in graph.edges(data=True):
        table = _table(data, palette, model, target)
        if first == second:
            costs[first, : len(table)] += np.diag(table)
        else:
            edges.add(data["ends"], table)
    return costs, *edges.arrays()


def _own_cost(data: dict[str, Any], choice: int, palette: Palette, model: CostModel, target: Target) -> float:
    if data["kind"] is GroupKind.COPY:
        return _copy(data["tensor"], palette.precisions[choice], model)
    if data["kind"] is GroupKind.SUM:
        return amount(model.sums(data["product"], palette.sums[choice]), model)
    stores, own = any(slot.is_result for slot in data["slots"]), palette.precisions[choice]
    return math.inf if stores and own != palette.stored and target.result_problem(own) else 0.0


def _table(data: dict[str, Any], palette: Palette, model: CostModel, target: Target) -> Floats:
    if data["kind"] == "copy":
        tensor: TensorWork = data["tensor"]
        kept = [precision.kept_in(tensor.dtype) for precision in palette.precisions]
        own = np.array([_copy(tensor, precision, model) for precision in palette.precisions])
        return own[:, None] * np.array([[one != other for other in kept] for one in kept], np.float64)
    if data["kind"] == "sum":
        return _allowed_sums(data["position"], palette, target)
    product, pair = data["product"], data["pair"]

    def cost(first: Precision, second: Precision) -> float:
        legal = not target.product_problem(product, first, second)
        return amount(model.product(product, pair, first, second), model) if legal else np.inf

    return _outer(palette.precisions, palette.precisions, cost)


def _copy(tensor: TensorWork, precision: Precision, model: CostModel) -> float:
    """Of one that some of its slots have in a precision; 0 if none has."""
    kept = precision.kept_in(tensor.dtype)
    held = any(tensor.holds(slot, kept) for slot in tensor.slots)
    return amount(model.copy(tensor, kept), model) if held else 0.0


def _allowed_sums(position: int, palette: Palette, target: Target) -> Floats:
    """0 where an accumulator may sum products of an operand, else infinite, [sums, precisions]."""

    def cost(accumulator: Accumulator | None, operand: Precision) -> float:
        formats = None if accumulator is None else accumulator.operand_formats
        pair = [operand, operand] if formats is None else [Precision(fmt) for fmt in formats]
        pair[position] = operand
        illegal = misfit(pair, formats) or target.accumulator_problem(accumulator, *pair)
        return np.inf if illegal else 0.0

    return _outer(palette.sums, palette.precisions, cost)


def _outer(first: Sequence[Any], second: Sequence[Any], cost: Callable[[Any, Any], float]) -> Floats:
    return np.array([[cost(own, other) for other in second] for own in first], np.float64)


class _Edges:
    """Edges between different groups; several between two of them are one."""

    def __init__(self, palette: Palette) -> None:
        self.size = palette.size
        self.found: dict[tuple[int, int], Floats] = {}

    def add(self, ends: tuple[int, int], table: Floats) -> None:
        """A table with the choices of the first end in front."""
        full = np.full((self.size, self.size), np.inf)
        full[: table.shape[0], : table.shape[1]] = table
        if ends[0] > ends[1]:
            ends, full = (ends[1], ends[0]), full.T
        self.found[ends] = self.found.get(ends, np.zeros_like(full)) + full

    def arrays(self) -> tuple[Choices, Floats]:
        """Ends and tables."""
        ends = np.array(list(self.found), np.int64).reshape(-1, 2)
        return ends, np.array(list(self.found.values())).reshape(-1, self.size, self.size)
