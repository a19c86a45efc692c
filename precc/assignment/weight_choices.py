"""The problem of choosing formats for weights alone: a multiple-choice knapsack, a group a weight, without edges."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from precc.analysis.analysis import Analysis
from precc.analysis.weight import Weight, weights_of
from precc.assignment.problem import AssignmentProblem, Choices
from precc.assignment.step_work import step_work
from precc.cost.weight_bits import WeightBits
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.errors import InfeasibleError, PlanError
from precc.first_match import first_match
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.rule import Rule
from precc.target import Target

__all__ = ["WeightChoices"]

_WAY_OUT = "; choose others=, candidates=, or another rule"


@dataclass(frozen=True, eq=False)
class WeightChoices:
    """What there is to choose of one analysis.

    A weight is stored once: the slots that read it have one precision, but those of the backward that rules decide. One
    that rules decide in the forward is not chosen for, and no part of the average.

    Args:
        analysis: of a step.
        weights: that are chosen for.
        open: number of the weight, by name of the slots that get what is chosen for it.
        fixed: precisions of all other slots.
        candidates: to choose from.
        others: precision of slots that are neither.
        rules: that hold over plans.
        target: that runs them.
    """

    analysis: Analysis
    weights: tuple[Weight, ...]
    open: Mapping[str, int]
    fixed: Mapping[str, Precision]
    candidates: tuple[Precision, ...]
    others: Precision
    rules: tuple[Rule, ...]
    target: Target

    @classmethod
    def of(
        cls,
        analysis: Analysis,
        candidates: tuple[Precision, ...],
        others: Precision,
        rules: tuple[Rule, ...],
        target: Target,
    ) -> "WeightChoices":
        """What rules leave.

        Raises:
            AnalysisError: the analysis has no weights.
            PlanError: rules decide all of them, or want several precisions for one.
        """
        decided, every = first_match(rules), weights_of(analysis)
        fixed = {name: decided.precision(name, others) for name in analysis.operands}
        for weight in every:
            if (stored := _ruled(weight, rules)) is not None:
                fixed |= {slot.name: decided.precision(slot.name, stored) for slot in weight.slots}
        weights = tuple(own for own in every if _ruled(own, rules) is None)
        if not weights:
            raise PlanError(f"rules decide all {len(every)} weights of {analysis.title}: none is left to choose for")
        slots = [(slot.name, number) for number, own in enumerate(weights) for slot in own.slots]
        chosen = {name: number for name, number in slots if decided.position(name) is None}
        rest = {name: own for name, own in fixed.items() if name not in chosen}
        return cls(analysis, weights, chosen, rest, candidates, others, rules, target)

    @cached_property
    def work(self) -> StepWork:
        """Of the step."""
        return step_work(self.analysis)

    @property
    def bits(self) -> WeightBits:
        """The cost that is the average of bits."""
        return WeightBits.of(TensorWork(own.slots, own.elements) for own in self.weights)

    def problem(self, error: Callable[[Weight, Precision], float]) -> AssignmentProblem:
        """Its cost is the average of bits; its one error the sum of these, of which infinite ones are not allowed.

        Raises:
            InfeasibleError: all candidates have an infinite one in some weight.
            PlanError: the target runs none in some weight, or not what is fixed.
        """
        allowed = self._runs()
        errors = np.array([[error(weight, own) for own in self.candidates] for weight in self.weights])
        allowed &= np.isfinite(errors)
        stuck = np.flatnonzero(~allowed.any(1))
        if len(stuck):
            name = self.weights[int(stuck[0])].name
            raise InfeasibleError(f"each candidate that {self.target.name} runs makes {name} infinite: add a wider one")
        sizes = np.array([own.elements for own in self.weights], np.float64)
        costs = sizes[:, None] / sizes.sum() * np.array([own.bits for own in self.candidates])
        kept = np.where(allowed, errors, 0.0)
        scale = np.array([kept.max() or 1.0])
        return AssignmentProblem(np.where(allowed, costs, np.inf), kept[None], scale, constraints=("error",))

    def plan_of(self, choices: Choices | Sequence[int]) -> PrecisionPlan:
        """The plan that has these candidates in the weights."""
        chosen = {name: self.candidates[int(choices[number])] for name, number in self.open.items()}
        slots = {name: chosen[name] if name in chosen else self.fixed[name] for name in self.analysis.operands}
        return PrecisionPlan(self.others, slots, self.analysis.multiply_adds, rules=self.rules)

    def _runs(self) -> NDArray[np.bool_]:
        """Whether the target runs each candidate in each weight, [weights, candidates]."""
        found = np.ones((len(self.weights), len(self.candidates)), np.bool_)
        for product in self.work.products:
            for pair in product.pairs:
                names = [product.operands[position].name for position in pair]
                problems = [self._problem_of(product, names, own) for own in self.candidates]
                number = next((self.open[name] for name in names if name in self.open), None)
                if number is None and problems[0]:
                    raise PlanError(f"{names[0]} with {names[1]}: {problems[0]}{_WAY_OUT}")
                if number is not None:
                    found[number] &= [not own for own in problems]
                    if not found[number].any():
                        why, name = next(filter(None, problems)), self.weights[number].name
                        raise PlanError(f"the target {self.target.name} runs no candidate in {name}: {why}{_WAY_OUT}")
        return found

    def _problem_of(self, product: ProductWork, names: Sequence[str], own: Precision) -> str:
        first, second = (self.fixed.get(name, own) for name in names)
        return self.target.product_problem(product, first, second)


def _ruled(weight: Weight, rules: tuple[Rule, ...]) -> Precision | None:
    """What rules store a weight in; None if they leave it.

    Raises:
        PlanError: they want several precisions.
    """
    decided, names = first_match(rules), [slot.name for slot in weight.forward]
    precisions = [rules[place].precision for name in names if (place := decided.position(name)) is not None]
    if len(set(precisions)) > 1:
        raise PlanError(f"rules want different precisions for {' and '.join(names)}, which read one weight")
    return precisions[0] if precisions else None
