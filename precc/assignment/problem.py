"""The problem of assignment: one choice for each group, least cost, within budgets of errors that add up.

Minimise ``sum_i cost[i, x_i] + sum_(i,j) table_ij[x_i, x_j]`` over choices x subject to ``sum_i error[m, i, x_i] <=
budget[m]`` for each m: a multiple-choice knapsack with several constraints and costs on edges.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precc.errors import PlanError

__all__ = ["AssignmentProblem", "Choices", "Floats", "Solution"]

Floats = NDArray[np.float64]
Choices = NDArray[np.int64]

#: Relative excess of a budget that counts as rounding error of the sums.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False, repr=False)
class AssignmentProblem:
    """As data.

    Args:
        costs: of each choice, [groups, choices]; infinite where a group has it not.
        errors: none negative, [constraints, groups, choices].
        budgets: none negative, [constraints].
        ends: groups at both ends of each edge, [edges, 2].
        tables: cost of each pair of choices, [edges, choices, choices]; infinite where it is not allowed.
        constraints: their names.

    Raises:
        PlanError: shapes that do not fit, errors or budgets that are negative or NaN, a group without a choice.
    """

    costs: Floats
    errors: Floats
    budgets: Floats
    ends: Choices = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    tables: Floats | None = None
    constraints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        groups, choices = self.costs.shape
        if self.tables is None:
            object.__setattr__(self, "tables", np.zeros((len(self.ends), choices, choices)))
        if not self.constraints:
            object.__setattr__(self, "constraints", tuple(f"error {m}" for m in range(len(self.budgets))))
        shapes = (self.errors.shape, self.edge_costs.shape, self.ends.shape, len(self.constraints))
        wanted = ((len(self.budgets), groups, choices), (len(self.ends), choices, choices), (len(self.ends), 2))
        if shapes != (*wanted, len(self.budgets)):
            raise PlanError(f"an assignment problem of {groups} groups and {choices} choices has arrays of {shapes}")
        if not (self.errors >= 0).all() or not (self.budgets >= 0).all():
            raise PlanError("an assignment problem has errors and budgets of 0 or more")
        if np.isnan(self.costs).any() or np.isnan(self.edge_costs).any() or not np.isfinite(self.costs).any(1).all():
            raise PlanError("an assignment problem has a finite cost for some choice of each group, and no NaN")

    @property
    def edge_costs(self) -> Floats:
        """`tables`, which are there."""
        assert self.tables is not None
        return self.tables

    @property
    def groups(self) -> int:
        """How many."""
        return int(self.costs.shape[0])

    def within(self, budgets: Any) -> "AssignmentProblem":
        """The same with other budgets."""
        return replace(self, budgets=np.asarray(budgets, np.float64))

    @property
    def has_choices(self) -> bool:
        """Whether each group has one."""
        return bool(np.isfinite(self.costs).any(1).all())

    @cached_property
    def unit(self) -> float:
        """Of costs: the largest one, so that tolerances, which are absolute, are the same whatever costs count."""
        finite = [own[np.isfinite(own)].max(initial=0.0) for own in (self.costs, self.edge_costs)]
        return float(max(finite)) or 1.0

    @cached_property
    def relative(self) -> "AssignmentProblem":
        """With costs in `unit`, errors relative to budgets, which are 1, and without choices that exceed one alone.

        Budgets that are infinite are left out, and those of 0 once nothing else than the choices that err not is left.
        """
        most = self.budgets * (1 + _ROUNDING)
        return self._scaled(np.where((self.errors > most[:, None, None]).any(0), np.inf, self.costs))

    @property
    def relative_without_limits(self) -> "AssignmentProblem":
        """With costs in `unit`, errors relative to budgets, and all choices."""
        return self._scaled(self.costs)

    def _scaled(self, costs: Floats) -> "AssignmentProblem":
        kept = self._kept
        errors = self.errors[kept] / self.budgets[kept, None, None]
        names = tuple(name for name, keep in zip(self.constraints, kept, strict=True) if keep)
        own = object.__new__(AssignmentProblem)  # unchecked: a group that is left without a choice is no mistake here
        entries = (
            costs / self.unit,
            np.where(np.isfinite(costs), errors, 0.0),
            np.ones(len(errors)),
            self.ends,
            self.edge_costs / self.unit,
            names,
        )
        for name, value in zip(("costs", "errors", "budgets", "ends", "tables", "constraints"), entries, strict=True):
            object.__setattr__(own, name, value)
        return own

    @property
    def _kept(self) -> NDArray[np.bool_]:
        return np.isfinite(self.budgets) & (self.budgets > 0)

    def largest_error(self, choices: Choices) -> float:
        """Relative to the budgets, of one assignment."""
        relative = self.errors_of(choices)[self._kept] / self.budgets[self._kept]
        return float(relative.max(initial=0.0))

    def cost_of(self, choices: Choices) -> Floats:
        """Of one or more assignments [..., groups]."""
        rows = np.arange(self.groups)
        first, second = choices[..., self.ends[:, 0]], choices[..., self.ends[:, 1]]
        edges = self.edge_costs[np.arange(len(self.ends)), first, second]
        found: Floats = self.costs[rows, choices].sum(-1) + edges.sum(-1)
        return found

    def errors_of(self, choices: Choices) -> Floats:
        """Sums of errors of one or more assignments, [..., constraints]."""
        chosen = self.errors[:, np.arange(self.groups), choices]  # [constraints, ..., groups]
        found: Floats = np.moveaxis(chosen.sum(-1), 0, -1)
        return found

    def is_feasible(self, choices: Choices) -> NDArray[np.bool_]:
        """Whether one or more assignments are within the budgets and allowed."""
        within = (self.errors_of(choices) <= self.budgets * (1 + _ROUNDING)).all(-1)
        found: NDArray[np.bool_] = within & np.isfinite(self.cost_of(choices))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What a solver found.

    Args:
        choices: of each group, [groups].
        cost: of them.
        errors: of them, [constraints].
        bound: that the cost of no assignment within the budgets is below; ``-inf`` where the solver knows none.
    """

    choices: Choices
    cost: float
    errors: Floats
    bound: float

    @classmethod
    def of(cls, problem: AssignmentProblem, choices: Choices, bound: float) -> "Solution":
        """From the choices."""
        return cls(choices, float(problem.cost_of(choices)), problem.errors_of(choices), bound)

    @property
    def gap(self) -> float:
        """How far the cost is from the bound, relative to it."""
        return self.cost / self.bound - 1 if self.bound > 0 else (0.0 if self.cost <= self.bound else float("inf"))
