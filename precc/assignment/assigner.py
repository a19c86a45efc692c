"""From an analysis to a plan: build the problem, solve it, score the plan again, until prediction and budget agree."""

import math
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from precc.analysis.analysis import Analysis
from precc.analysis.error_estimate import ErrorEstimate
from precc.assignment.choice_costs import Palette, choice_costs
from precc.assignment.choice_errors import ChoiceErrors
from precc.assignment.elimination import cheapest, finest
from precc.assignment.front import front
from precc.assignment.groups import GroupKind
from precc.assignment.limits import Limits
from precc.assignment.problem import AssignmentProblem, Choices, Floats, Solution
from precc.assignment.solver import Solver
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_of
from precc.cost.plan_cost import PlanCost
from precc.cost.work import StepWork
from precc.errors import InfeasibleError, PlanError
from precc.plan import PrecisionPlan
from precc.target import Target

__all__ = ["Assigner", "Scored"]

#: Plans that are scored at most, and how many of the first ones errors are linearised about.
_ROUNDS, _REFERENCES = 12, 2

#: Share of a limit from which a plan is good enough, and what counts as within it.
_NEAR, _WITHIN = 0.95, 1 + 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A plan with what the whole analysis predicts for it.

    Args:
        plan: with provenance.
        error: predicted.
        cost: of a step.
        errors: that limits are about, [constraints].
        solution: that it comes from.
    """

    plan: PrecisionPlan
    error: ErrorEstimate
    cost: PlanCost
    errors: Floats
    solution: Solution


@dataclass(frozen=True, eq=False)
class Assigner:
    """Finds plans for one analysis.

    Args:
        analysis: of a step.
        work: of it, or of its forward alone.
        graph: of the groups.
        palette: what there is to choose from.
        cost: model.
        target: that runs the plan.
        inference: whether the backward does not count.
        lost: the largest share of a slot's sum of squares that a choice may lose.
        solver: of the problems.
        errors: of the choices.
    """

    analysis: Analysis
    work: StepWork
    graph: "nx.MultiGraph[int]"
    palette: Palette
    cost: CostModel
    target: Target
    inference: bool
    lost: float
    solver: Solver
    errors: ChoiceErrors

    def cheapest(self, limits: Limits) -> Scored:
        """The cheapest plan within limits.

        Raises:
            InfeasibleError: there is none.
        """
        best: Scored | None = None
        reference, factors, search, seen = self._uniform, np.ones(3), _Scale(), set[PrecisionPlan]()
        for turn in range(_ROUNDS):
            budgets = limits.budgets * factors * search.value
            try:
                found = self._scored(self.solver.solve(self._problem(reference, limits).within(budgets)))
            except InfeasibleError:
                if best is not None or turn == _ROUNDS - 1:
                    break
                search.note(0.5)
                continue
            relative = _relative(found.errors, limits)
            if relative <= _WITHIN and (best is None or found.cost.value < best.cost.value):
                best = found
            if _NEAR <= relative <= _WITHIN or (found.plan in seen and best is not None):
                break
            seen.add(found.plan)
            if turn < _REFERENCES:
                reference, search = self._reference(found.solution), _Scale()
                factors = _factors(self._problem(reference, limits).errors_of(found.solution.choices), found.errors)
            else:
                search.note(relative)
        if best is None:
            raise self._infeasible(limits)
        return best

    def least(self, cost: float, limits: Limits) -> Scored:
        """The plan that costs no more, with the least largest error relative to limits, which do not limit it.

        Raises:
            InfeasibleError: none costs as little.
        """
        best: Scored | None = None
        factors, reference, most, seen = np.ones(3), self._uniform, cost - self._fixed, set[PrecisionPlan]()
        for _ in range(_ROUNDS):
            problem = self._problem(reference, limits).within(limits.budgets * factors)
            found = self._scored(self._least(problem, most))
            if found.cost.value > cost * (
                1 + 1e-9
            ):  # more than two copies of a tensor, which a problem counts as it can
                most *= cost / found.cost.value
            elif best is None or _relative(found.errors, limits) < _relative(best.errors, limits):
                best = found
            if found.plan in seen:
                break
            seen.add(found.plan)
            reference = self._reference(found.solution)
            factors = _factors(self._problem(reference, limits).errors_of(found.solution.choices), found.errors)
        if best is None:
            raise InfeasibleError(f"no plan found that costs {cost:.4g} {self.cost.unit} or less")
        return best

    def _least(self, problem: AssignmentProblem, cost: float) -> Solution:
        try:
            return self.solver.least_error(problem, cost)
        except InfeasibleError:
            least = self._fixed + float(problem.cost_of(cheapest(problem)))
            raise InfeasibleError(
                f"no plan of these candidates costs {cost + self._fixed:.4g} {self.cost.unit} or less: the cheapest "
                f"one costs {least:.4g}"
            ) from None

    @cached_property
    def _fixed(self) -> float:
        """Cost that no choice changes: the model's own, and sums that are not chosen."""
        chosen = [data["product"] for _, data in self.graph.nodes(data=True) if data["kind"] is GroupKind.SUM]
        rest = [own for own in self.work.products if own not in chosen]
        return self.cost.constant(self.work) + sum(self.cost.sums(own, None) for own in rest if own.accumulators)

    def front(self, points: int, limits: Limits) -> list[Scored]:
        """Plans of which none is both cheaper and finer than another, from the cheapest one; see `front`."""
        best: list[Scored] = []
        for found in map(self._scored, front(self._problem(self._uniform, limits), points)):
            best = [own for own in best if _relative(own.errors, limits) > _relative(found.errors, limits)]
            best.append(found)
        return best

    def score(self, plan: PrecisionPlan) -> tuple[ErrorEstimate, PlanCost]:
        """What the whole analysis predicts for a plan, and what it costs."""
        return self.analysis.predict(plan), cost_of(plan, self.work, self.cost)

    def cost_of(self, plan: PrecisionPlan) -> float:
        """Of a plan, under the rules."""
        return cost_of(plan.under(self.palette.rules), self.work, self.cost).value

    def _scored(self, solution: Solution) -> Scored:
        plan = self.plan_of(solution.choices)
        error, cost = self.score(plan)
        return Scored(plan, error, cost, Limits.spent(error), solution)

    def plan_of(self, choices: Choices) -> PrecisionPlan:
        """The plan of an assignment; slots that are not chosen for are in float32."""
        slots, sums = {}, {}
        for group, data in self.graph.nodes(data=True):
            if data["kind"] is GroupKind.SLOTS:
                slots.update(
                    dict.fromkeys((slot.name for slot in data["slots"]), self.palette.precisions[choices[group]])
                )
            elif data["kind"] is GroupKind.SUM:
                sums[data["product"].accumulators[0]] = self.palette.sums[choices[group]]
        work = {slot.name: own.multiply_adds for own in self.work.products for slot in own.operands}
        return PrecisionPlan("float32", slots, work, accumulators=sums, rules=self.palette.rules)

    def _problem(self, reference: "_Reference", limits: Limits) -> AssignmentProblem:
        costs, ends, tables = self._costs
        found, groups = self.errors, len(self.graph)
        means = np.abs(found.means)
        loss = found.variances + means * reference.means
        gradient = found.gradients + found.squares * reference.slopes
        errors = np.stack([found.by_group(own, groups) for own in (loss, gradient, means)])
        errors = np.where(np.isfinite(costs), errors, 0.0)
        return AssignmentProblem(costs, errors, limits.budgets, ends, tables, limits.names)

    @cached_property
    def _uniform(self) -> "_Reference":
        """By chords, for each choice to the plan that has it everywhere: of mixed plans it is rather too much."""
        squares = self.errors.squares
        slopes = np.stack([self._slopes(squares[:, choice]) for choice in range(self.palette.size)], 1)
        return _Reference(slopes, np.abs(self.errors.means).sum(0))

    def _reference(self, solution: Solution) -> "_Reference":
        """At an assignment."""
        rows = np.arange(len(self.errors.names))
        chosen = solution.choices[np.array(self.errors.groups, np.int64)]
        means = np.abs(self.errors.means[rows, chosen]).sum()
        return _Reference(self._slopes(self.errors.squares[rows, chosen])[:, None], np.array([means]))

    def _slopes(self, squares: Floats) -> Floats:
        """Of what flips, by mean squares of slots, about these."""
        sizes = zip(self.errors.names, squares.tolist(), strict=True)
        found = self.analysis.flip_slopes({name: size for name, size in sizes if size})
        return np.array([found.get(name, 0.0) for name in self.errors.names])

    @cached_property
    def _costs(self) -> tuple[Floats, Choices, Floats]:
        costs, ends, tables = choice_costs(self.graph, self.work, self.palette, self.cost, self.target)
        self._check_legal(costs, ends, tables)
        fits = self._known & ((self._most_lost <= self.lost) | self._is_ruled[:, None])
        allowed = np.where(fits, costs, np.inf)
        stuck = np.flatnonzero(~np.isfinite(allowed).any(1))
        if len(stuck):
            raise InfeasibleError(
                f"in {self._name_of(int(stuck[0]))} each candidate loses more than {self.lost:.0%} of the squares of "
                "the values, or more than predictions can tell: add a finer candidate, such as 'float32', or raise lost"
            )
        return allowed, ends, tables

    def _check_legal(self, costs: Floats, ends: Choices, tables: Floats) -> None:
        """Refuse rules that contradict each other, and pairs of which the target runs none."""
        for group in np.flatnonzero(~np.isfinite(costs).any(1)):
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

    def _infeasible(self, limits: Limits) -> InfeasibleError:
        """With the limit that binds, and the nearest ones that do not."""
        problem = self._problem(self._uniform, limits)
        own = self._scored(Solution.of(problem, finest(problem), -np.inf)).errors
        roots = [math.sqrt(own[0]), math.sqrt(own[1]), own[2]]
        binding = [
            f"{name} is {found:.3g} at least, and the limit {getattr(limits, name):.3g}"
            for name, found in zip(limits.names, roots, strict=True)
            if found > getattr(limits, name)
        ]
        nearest = ", ".join(
            f"{name}={max(found * 1.01, getattr(limits, name)):.3g}"
            for name, found in zip(limits.names, roots, strict=True)
            if getattr(limits, name) < math.inf
        )
        why = "; ".join(binding) or "the limits cannot be met together"
        return InfeasibleError(f"no plan of these candidates is within {limits}: {why}. Feasible: {nearest}")


@dataclass(slots=True)
class _Scale:
    """A factor of budgets, sought by how much of its limit a plan then spends; that grows with it."""

    value: float = 1.0
    low: float = 0.0
    high: float = math.inf

    def note(self, spent: float) -> None:
        """Choose the next one, after one at which this share of the limit was spent."""
        if spent <= _WITHIN:
            self.low = self.value
        else:
            self.high = self.value
        if self.low > 0 and self.high < math.inf:
            self.value = math.sqrt(self.low * self.high)
        else:  # beyond it, so that the other side is seen
            self.value /= 1.05 * spent if spent > 1 else max(spent, 0.25)


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """What errors are linearised about.

    Args:
        slopes: of what flips, by mean squares, [slots, choices] or [slots, 1].
        means: sum of the magnitudes of the means of the loss error, [choices] or [1].
    """

    slopes: Floats
    means: Floats


def _relative(errors: Floats, limits: Limits) -> float:
    """The largest error, relative to its limit."""
    budgets = limits.budgets
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(errors > 0, errors / budgets, 0.0)
    return float(found.max())


def _factors(sums: Floats, scored: Floats) -> Floats:
    """What sums of errors come to, relative to the prediction of the whole plan."""
    ratio = sums / np.where(scored > 0, scored, 1.0)
    found: Floats = np.where((scored > 0) & (sums > 0), np.clip(ratio, 1 / 64, 64.0), 1.0)
    return found
