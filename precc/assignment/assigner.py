"""From an analysis to a plan: build the problem, solve it, score the plan again, until prediction and budget agree."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from precc.analysis.analysis import Analysis
from precc.analysis.error_estimate import ErrorEstimate
from precc.assignment.choice_tables import ChoiceTables
from precc.assignment.elimination import cheapest, finest
from precc.assignment.front import front
from precc.assignment.groups import GroupKind
from precc.assignment.limits import Limits
from precc.assignment.problem import AssignmentProblem, Choices, Floats, Solution
from precc.assignment.solver import Solver
from precc.assignment.step_choices import Reference, StepChoices
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_of
from precc.cost.plan_cost import PlanCost
from precc.cost.work import StepWork
from precc.errors import InfeasibleError
from precc.plan import PrecisionPlan
from precc.rule import Rule

__all__ = ["Assigner", "Scored"]

#: Plans that are scored at most, and how many of the first ones errors are linearised about.
_ROUNDS, _REFERENCES = 12, 2

#: Share of a limit from which a plan is good enough, and what counts as within it.
_NEAR, _WITHIN = 0.95, 1 + 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A plan with what the whole analysis predicts for it.

    Args:
        plan: without provenance yet.
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
        tables: of its choices.
        inference: whether the backward does not count.
        solver: of the problems.
    """

    tables: ChoiceTables
    inference: bool
    solver: Solver

    @property
    def choices(self) -> StepChoices:
        """That there are."""
        return self.tables.choices

    @property
    def analysis(self) -> Analysis:
        """That plans are predicted by."""
        return self.choices.analysis

    @property
    def rules(self) -> tuple[Rule, ...]:
        """That hold over all plans."""
        return self.choices.palette.rules

    def priced(self, model: Callable[[StepWork], CostModel]) -> "Assigner":
        """With another cost, as a model of the step says it."""
        return replace(self, tables=self.tables.priced(model(self.choices.work)))

    def cheapest(self, limits: Limits) -> Scored:
        """The cheapest plan within limits.

        Raises:
            InfeasibleError: there is none.
        """
        best: Scored | None = None
        reference, factors, search, seen = self.choices.uniform, np.ones(3), _Scale(), set[PrecisionPlan]()
        for turn in range(_ROUNDS):
            budgets = limits.budgets * factors * search.value
            try:
                found = self._scored(self.solver.solve(self.tables.problem(reference, limits).within(budgets)))
            except InfeasibleError:
                if best is not None or turn == _ROUNDS - 1:
                    break
                search.note(0.5)
                continue
            relative = limits.share_of(found.errors)
            if relative <= _WITHIN and (best is None or found.cost.value < best.cost.value):
                best = found
            if _NEAR <= relative <= _WITHIN or (found.plan in seen and best is not None):
                break
            seen.add(found.plan)
            if turn < _REFERENCES:
                reference, search = self.choices.reference(found.solution), _Scale()
                factors = self._factors(reference, limits, found)
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
        factors, reference, seen = np.ones(3), self.choices.uniform, set[PrecisionPlan]()
        for _ in range(_ROUNDS):
            problem = self.tables.problem(reference, limits).within(limits.budgets * factors)
            found = self._scored(self._least(problem, cost - self.tables.fixed))
            # where a tensor has several copies with several readers each, a problem counts more of them than there are
            within = found.cost.value <= cost * _WITHIN
            if within and (best is None or limits.share_of(found.errors) < limits.share_of(best.errors)):
                best = found
            if found.plan in seen:
                break
            seen.add(found.plan)
            reference = self.choices.reference(found.solution)
            factors = self._factors(reference, limits, found)
        if best is None:
            raise InfeasibleError(f"no plan found that costs {cost:.4g} {self.tables.cost.unit} or less")
        return best

    def _least(self, problem: AssignmentProblem, cost: float) -> Solution:
        try:
            return self.solver.least_error(problem, cost)
        except InfeasibleError:
            least = self.tables.fixed + float(problem.cost_of(cheapest(problem)))
            out = f", of those that lose {self.tables.lost:.1%} at most (lost=)" if self.tables.leaves_out else ""
            out += ", with what rules decide, which counts" if self.rules else ""
            raise InfeasibleError(
                f"no plan of these candidates costs {cost + self.tables.fixed:.4g} {self.tables.cost.unit} or less: "
                f"the cheapest one costs {least:.4g}{out}"
            ) from None

    def front(self, points: int, limits: Limits) -> list[Scored]:
        """Plans of which none is both cheaper and finer than another, from the cheapest one; see `front`."""
        best: list[Scored] = []
        for found in map(self._scored, front(self.tables.problem(self.choices.uniform, limits), points)):
            best = [own for own in best if limits.share_of(own.errors) > limits.share_of(found.errors)]
            best.append(found)
        return best

    def score(self, plan: PrecisionPlan) -> tuple[ErrorEstimate, PlanCost]:
        """What the whole analysis predicts for a plan, and what it costs."""
        return self.analysis.predict(plan), cost_of(plan, self.choices.work, self.tables.cost)

    def cost_of(self, plan: PrecisionPlan) -> float:
        """Of a plan, under the rules."""
        return cost_of(plan.under(self.rules), self.choices.work, self.tables.cost).value

    def _scored(self, solution: Solution) -> Scored:
        plan = self.plan_of(solution.choices)
        error, cost = self.score(plan)
        return Scored(plan, error, cost, Limits.spent(error), solution)

    def plan_of(self, choices: Choices) -> PrecisionPlan:
        """The plan of an assignment; operands that are not chosen for are in float32, results as they are."""
        slots, sums, palette = {}, {}, self.choices.palette
        for group, data in self.choices.graph.nodes(data=True):
            if data["kind"] is GroupKind.SLOTS:
                own = palette.precisions[choices[group]]
                slots.update({slot.name: own for slot in data["slots"] if self.choices.rounds(slot, own)})
            elif data["kind"] is GroupKind.SUM:
                sums[data["product"].accumulators[0]] = palette.sums[choices[group]]
        return PrecisionPlan("float32", slots, self.choices.multiply_adds, accumulators=sums, rules=self.rules)

    def _factors(self, reference: Reference, limits: Limits, found: Scored) -> Floats:
        """What sums of errors come to, relative to the prediction of the whole plan."""
        sums, scored = self.tables.problem(reference, limits).errors_of(found.solution.choices), found.errors
        ratio = sums / np.where(scored > 0, scored, 1.0)
        factors: Floats = np.where((scored > 0) & (sums > 0), np.clip(ratio, 1 / 64, 64.0), 1.0)
        return factors

    def _infeasible(self, limits: Limits) -> InfeasibleError:
        """With the limit that binds, and the nearest ones that do not."""
        problem = self.tables.problem(self.choices.uniform, limits)
        own = self._scored(Solution.of(problem, finest(problem), -np.inf)).errors
        roots = [math.sqrt(own[0]), math.sqrt(own[1]), own[2]]
        binding = [
            f"{name} is {found:.3g} in the finest plan, and the limit {getattr(limits, name):.3g}"
            for name, found in zip(limits.names, roots, strict=True)
            if found > getattr(limits, name)
        ]
        nearest = ", ".join(
            f"{name}={max(found * 1.01, getattr(limits, name)):.3g}"
            for name, found in zip(limits.names, roots, strict=True)
            if getattr(limits, name) < math.inf
        )
        why = "; ".join(binding) or "the limits cannot be met together"
        ruled = " and rules" if self.rules else ""
        return InfeasibleError(f"no plan of these candidates{ruled} is within {limits}: {why}. Feasible: {nearest}")


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
