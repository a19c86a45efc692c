"""Costs and errors of all choices of one analysis: the tables that problems of assignment are made of."""

from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from precc.analysis.analysis import Analysis
from precc.assignment.choice_costs import Palette, choice_costs
from precc.assignment.choice_errors import ChoiceErrors
from precc.assignment.groups import GroupKind
from precc.assignment.limits import Limits
from precc.assignment.problem import AssignmentProblem, Choices, Floats, Solution
from precc.cost.cost_model import CostModel
from precc.cost.work import StepWork
from precc.errors import InfeasibleError, PlanError
from precc.target import Target

__all__ = ["ChoiceTables", "Reference"]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What errors are linearised about.

    Args:
        slopes: of what flips, by mean squares, [slots, choices] or [slots, 1].
        means: sum of the magnitudes of the means of the loss error, [choices] or [1].
    """

    slopes: Floats
    means: Floats


@dataclass(frozen=True, eq=False)
class ChoiceTables:
    """Of one analysis, for one cost model and target.

    Args:
        analysis: of a step.
        work: of it, or of its forward alone.
        graph: of the groups.
        palette: what there is to choose from.
        cost: model.
        target: that runs the plan.
        lost: the largest share of a slot's sum of squares that a choice may lose.
        errors: of the choices.
    """

    analysis: Analysis
    work: StepWork
    graph: "nx.MultiGraph[int]"
    palette: Palette
    cost: CostModel
    target: Target
    lost: float
    errors: ChoiceErrors

    def problem(self, reference: Reference, limits: Limits) -> AssignmentProblem:
        """To be within limits, with errors linearised about a reference."""
        costs, ends, tables = self._costs
        found, groups = self.errors, len(self.graph)
        means = np.abs(found.means)
        loss = found.variances + means * reference.means
        gradient = found.gradients + found.squares * reference.slopes
        errors = np.stack([found.by_group(own, groups) for own in (loss, gradient, means)])
        errors = np.where(np.isfinite(costs), errors, 0.0)
        return AssignmentProblem(costs, errors, limits.budgets, ends, tables, limits.names)

    @cached_property
    def uniform(self) -> Reference:
        """By chords, for each choice to the plan that has it everywhere: of mixed plans it is rather too much."""
        squares = self.errors.squares
        slopes = np.stack([self._slopes(squares[:, choice]) for choice in range(self.palette.size)], 1)
        return Reference(slopes, np.abs(self.errors.means).sum(0))

    def reference(self, solution: Solution) -> Reference:
        """At an assignment."""
        rows = np.arange(len(self.errors.names))
        chosen = solution.choices[np.array(self.errors.groups, np.int64)]
        means = np.abs(self.errors.means[rows, chosen]).sum()
        return Reference(self._slopes(self.errors.squares[rows, chosen])[:, None], np.array([means]))

    def _slopes(self, squares: Floats) -> Floats:
        """Of what flips, by mean squares of slots, about these."""
        sizes = zip(self.errors.names, squares.tolist(), strict=True)
        found = self.analysis.flip_slopes({name: size for name, size in sizes if size})
        return np.array([found.get(name, 0.0) for name in self.errors.names])

    @cached_property
    def fixed(self) -> float:
        """Cost that no choice changes: the model's own, and sums that are not chosen."""
        chosen = [data["product"] for _, data in self.graph.nodes(data=True) if data["kind"] is GroupKind.SUM]
        rest = [own for own in self.work.products if own not in chosen]
        return self.cost.constant(self.work) + sum(self.cost.sums(own, None) for own in rest if own.accumulators)

    @cached_property
    def _costs(self) -> tuple[Floats, Choices, Floats]:
        costs, ends, tables = choice_costs(self.graph, self.work, self.palette, self.cost, self.target)
        self._check_legal(costs, ends, tables)
        allowed = np.where(self._fits, costs, np.inf)
        stuck = np.flatnonzero(~np.isfinite(allowed).any(1))
        if len(stuck):
            raise InfeasibleError(
                f"in {self._name_of(int(stuck[0]))} each candidate loses more than {self.lost:.1%} of the squares of "
                "the values, or more than predictions can tell: add a finer candidate, such as 'float32', or raise lost"
            )
        return allowed, ends, tables

    @cached_property
    def _fits(self) -> NDArray[np.bool_]:
        """Whether a choice is known, and loses no more than it may, [groups, choices]."""
        return self._known & ((self._most_lost <= self.lost) | self._is_ruled[:, None])

    @property
    def leaves_out(self) -> bool:
        """Whether a choice loses more than it may."""
        return not bool((self._fits | ~self._known).all())

    def _check_legal(self, costs: Floats, ends: Choices, tables: Floats) -> None:
        """Refuse rules that contradict each other, costs without end, and pairs of which the target runs none."""
        for group in np.flatnonzero(~np.isfinite(costs).any(1)):
            if self.palette.allowed(self.graph.nodes[int(group)]):
                where = f"by {self.cost!r} on {self.target.name}"
                raise PlanError(f"no choice for {self._name_of(int(group))} has a finite cost {where}")
            raise PlanError(f"rules want different precisions for {self._name_of(int(group))}, which has one")
        for (first, second), table in zip(ends.tolist(), tables, strict=True):
            pairs = table + costs[first][:, None] + costs[second][None, :]
            if not np.isfinite(pairs).any():
                names = " with ".join(self._name_of(group) for group in (first, second))
                raise PlanError(
                    f"the target {self.target.name} runs none of the pairs that candidates and rules leave for {names}"
                )

    def _name_of(self, group: int) -> str:
        data = self.graph.nodes[group]
        if data["kind"] is GroupKind.SUM:
            return str(data["product"].accumulators[0])
        slots = data["slots"] if data["kind"] is GroupKind.SLOTS else data["tensor"].slots
        return ", ".join(slot.name for slot in slots[:3]) + (f" and {len(slots) - 3} more" if len(slots) > 3 else "")

    @cached_property
    def _is_ruled(self) -> NDArray[np.bool_]:
        """Whether a rule decides the group."""
        data = [own for _, own in self.graph.nodes(data=True)]
        return np.array([self.palette.is_ruled(own) for own in data])

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        """Whether the errors of a choice are finite, [groups, choices]."""
        unknown = self.errors.by_group((~self.errors.known).astype(float), len(self.graph))
        return np.asarray(unknown == 0)

    @cached_property
    def _most_lost(self) -> Floats:
        most = np.zeros((len(self.graph), self.palette.size))
        np.maximum.at(most, np.array(self.errors.groups, np.int64), self.errors.lost)
        return most
