"""What there is to choose in one step, whatever it costs: groups, and what errors their choices make."""

from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray

from precc.analysis.analysis import Analysis
from precc.assignment.choice_costs import Palette
from precc.assignment.choice_errors import ChoiceErrors
from precc.assignment.groups import Grouping, GroupKind, group_graph
from precc.assignment.problem import Floats, Solution
from precc.assignment.step_work import step_work
from precc.cost.work import StepWork
from precc.precision import Precision
from precc.slots import Slot

__all__ = ["Reference", "StepChoices"]


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
class StepChoices:
    """Of one analysis.

    Args:
        analysis: of a step.
        work: of it, or of its forward alone.
        graph: of the groups.
        palette: what there is to choose from.
        errors: of the choices.
    """

    analysis: Analysis
    work: StepWork
    graph: "nx.MultiGraph[int]"
    palette: Palette
    errors: ChoiceErrors

    @classmethod
    def of(cls, analysis: Analysis, palette: Palette, grouping: Grouping, *, inference: bool) -> "StepChoices":
        """Found once: it is most of what a first budget takes, and does not depend on budgets.

        Args:
            analysis: of a step.
            palette: what there is to choose from.
            grouping: of slots.
            inference: whether the forward alone counts.
        """

        def make() -> StepChoices:
            work = step_work(analysis, inference=inference)
            graph = group_graph(work, grouping)
            return cls(analysis, work, graph, palette, ChoiceErrors.of(analysis, graph, palette))

        # names of formats are no part of what is equal, and shall be those of the caller
        return analysis.once((cls, palette, repr(palette), grouping, inference), make)

    def errors_about(self, reference: Reference) -> Floats:
        """Of groups, linearised about a reference: of the loss, the gradient and the bias, [3, groups, choices]."""
        found, groups = self.errors, len(self.graph)
        means = np.abs(found.means)
        loss = found.variances + means * reference.means
        gradient = found.gradients + found.squares * reference.slopes
        return np.stack([found.by_group(own, groups) for own in (loss, gradient, means)])

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
    def multiply_adds(self) -> dict[str, int]:
        """Of the product that each slot feeds."""
        return {slot.name: own.multiply_adds for own in self.work.products for slot in own.operands}

    def rounds(self, slot: Slot, precision: Precision) -> bool:
        """Whether a plan names a slot for a precision: an operand's in any case, a result's if it changes values."""
        return not slot.is_result or precision.changes(self._stored[slot])

    @cached_property
    def _stored(self) -> dict[Slot, torch.dtype]:
        return {own.result: own.dtype for own in self.work.tensors if own.result is not None}

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Whether the errors of a choice are finite, [groups, choices]."""
        unknown = self.errors.by_group((~self.errors.known).astype(float), len(self.graph))
        return np.asarray(unknown == 0)

    @cached_property
    def most_lost(self) -> Floats:
        """The largest share of a sum of squares that a choice loses in a slot, [groups, choices]."""
        most = np.zeros((len(self.graph), self.palette.size))
        np.maximum.at(most, np.array(self.errors.groups, np.int64), self.errors.lost)
        return most

    @cached_property
    def is_ruled(self) -> NDArray[np.bool_]:
        """Whether a rule decides the group."""
        data = [own for _, own in self.graph.nodes(data=True)]
        return np.array([self.palette.is_ruled(own) for own in data])

    def name_of(self, group: int) -> str:
        """For messages."""
        data = self.graph.nodes[group]
        if data["kind"] is GroupKind.SUM:
            return str(data["product"].accumulators[0])
        slots = data["slots"] if data["kind"] is GroupKind.SLOTS else data["tensor"].slots
        return ", ".join(slot.name for slot in slots[:3]) + (f" and {len(slots) - 3} more" if len(slots) > 3 else "")
