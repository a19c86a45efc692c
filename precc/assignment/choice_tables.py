"""The choices of one analysis, and what they cost: the tables that problems of assignment are made of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from precc.assignment.choice_costs import choice_costs
from precc.assignment.groups import GroupKind
from precc.assignment.limits import Limits
from precc.assignment.problem import AssignmentProblem, Choices, Floats
from precc.assignment.step_choices import Reference, StepChoices
from precc.cost.bit_ops import BitOps
from precc.cost.cost_model import CostModel
from precc.cost.energy import Energy
from precc.cost.memory import Memory
from precc.cost.operand_bits import OperandBits
from precc.cost.roofline import Roofline
from precc.errors import InfeasibleError, PlanError
from precc.target import Target

__all__ = ["ChoiceTables"]

#: Cost models of which equal ones answer alike, whenever they are asked.
_CONSTANT = (BitOps, Energy, Memory, OperandBits, Roofline)


@dataclass(frozen=True, eq=False)
class ChoiceTables:
    """Of one analysis, for one cost model and target.

    Args:
        choices: that there are.
        cost: model.
        target: that runs the plan.
        lost: the largest share of a slot's sum of squares that a choice may lose.
    """

    choices: StepChoices
    cost: CostModel
    target: Target
    lost: float

    @classmethod
    def of(cls, choices: StepChoices, cost: CostModel, target: Target, lost: float) -> "ChoiceTables":
        """Found once for each cost model of precc; those of others may answer anew each time."""

        def make() -> ChoiceTables:
            return cls(choices, cost, target, lost)

        key = (cls, choices, cost, repr(cost), target, lost)
        return choices.analysis.once(key, make) if type(cost) in _CONSTANT else make()

    def priced(self, cost: CostModel) -> "ChoiceTables":
        """With another cost."""
        return ChoiceTables.of(self.choices, cost, self.target, self.lost)

    def problem(self, reference: Reference, limits: Limits) -> AssignmentProblem:
        """To be within limits, with errors linearised about a reference."""
        costs, ends, tables = self._costs
        errors = np.where(np.isfinite(costs), self.choices.errors_about(reference), 0.0)
        return AssignmentProblem(costs, errors, limits.budgets, ends, tables, limits.names)

    @cached_property
    def fixed(self) -> float:
        """Cost that no choice changes: the model's own, and sums that are not chosen."""
        graph, work = self.choices.graph, self.choices.work
        chosen = [data["product"] for _, data in graph.nodes(data=True) if data["kind"] is GroupKind.SUM]
        rest = [own for own in work.products if own not in chosen]
        return self.cost.constant(work) + sum(self.cost.sums(own, None) for own in rest if own.accumulators)

    @cached_property
    def _costs(self) -> tuple[Floats, Choices, Floats]:
        own = self.choices
        costs, ends, tables = choice_costs(own.graph, own.work, own.palette, self.cost, self.target)
        self._check_legal(costs, ends, tables)
        allowed = np.where(self._fits, costs, np.inf)
        stuck = np.flatnonzero(~np.isfinite(allowed).any(1))
        if len(stuck):
            raise InfeasibleError(
                f"in {own.name_of(int(stuck[0]))} each candidate loses more than {self.lost:.1%} of the squares of "
                "the values, or more than predictions can tell: add a finer candidate, such as 'float32', or raise lost"
            )
        return allowed, ends, tables

    @cached_property
    def _fits(self) -> NDArray[np.bool_]:
        """Whether a choice is known, and loses no more than it may, [groups, choices]."""
        own = self.choices
        return own.known & ((own.most_lost <= self.lost) | own.is_ruled[:, None])

    @property
    def leaves_out(self) -> bool:
        """Whether a choice loses more than it may."""
        return not bool((self._fits | ~self.choices.known).all())

    def _why_none(self, group: int) -> str:
        """Why no choice of a group is allowed, or costs a finite amount."""
        data, palette = self.choices.graph.nodes[group], self.choices.palette
        stores = any(slot.is_result for slot in data.get("slots", ()))
        own = [self.target.result_problem(palette.precisions[choice]) for choice in sorted(palette.allowed(data))]
        if stores and all(own):
            return f"can be stored: {own[0]}"
        return f"has a finite cost by {self.cost!r} on {self.target.name}"

    def _check_legal(self, costs: Floats, ends: Choices, tables: Floats) -> None:
        """Refuse rules that contradict each other, costs without end, and pairs of which the target runs none."""
        choices = self.choices
        for group in np.flatnonzero(~np.isfinite(costs).any(1)):
            if choices.palette.allowed(choices.graph.nodes[int(group)]):
                raise PlanError(f"no choice for {choices.name_of(int(group))} {self._why_none(int(group))}")
            raise PlanError(f"rules want different precisions for {choices.name_of(int(group))}, which has one")
        for (first, second), table in zip(ends.tolist(), tables, strict=True):
            pairs = table + costs[first][:, None] + costs[second][None, :]
            if not np.isfinite(pairs).any():
                names = " with ".join(choices.name_of(group) for group in (first, second))
                raise PlanError(
                    f"the target {self.target.name} runs none of the pairs that candidates and rules leave for {names}"
                )
