"""The cheapest plan whose rounding hides in the noise of the gradient."""

import math
from dataclasses import dataclass, replace

import numpy as np

from precc.analysis.analysis import Analysis
from precc.assignment.assigner import Assigner, Scored
from precc.assignment.limits import Limits
from precc.assignment.problem import AssignmentProblem, Floats, Solution
from precc.assignment.step_choices import Reference, StepChoices
from precc.checks import require_number
from precc.errors import InfeasibleError, PlanError
from precc.plan import PrecisionPlan
from precc.policies.budget_policy import BudgetPolicy
from precc.precision import Precision
from precc.slots import Role, Slot

__all__ = ["Charges", "NoiseBudget", "without_forward_weights"]

#: Problems that are solved at most, each linearised about the plan before.
_ROUNDS = 6

#: Share of the budget from which a plan is good enough, and what counts as within it.
_NEAR, _WITHIN = 0.9, 1 + 1e-9


@dataclass(frozen=True, kw_only=True, repr=False)
class NoiseBudget(BudgetPolicy):
    """The cheapest plan of a training whose gradients are noisy anyway.

    Rounding of mean zero whose standard deviation is theta times that of the gradient of a batch acts like a batch
    that is smaller by ``1 + theta**2``. The rules (sums over slots, mean squares c of the gradient's error as
    `Analysis.alone` predicts them, V the variance of the gradient of a batch):

    - (G) ``sum of c * (1 + horizon * beta) <= theta**2 * V`` over all slots but the forward weights; beta is the share
      of c that persists from batch to batch and so adds up over the horizon: all of it for weights that are rounded to
      nearest, for others what the means of errors make.
    - (W) forward weights have a master copy, and the net adapts to their rounding: they are charged as a gap of the
      loss, ``sum of |mean loss error| <= loss_gap``, to second order ``1/2 sum Var(error) * d2L/dw2``.
    - (R) what is flushed or clipped is at most `lost` of a slot's sum of squares.

    The bounds are estimates: (G) holds for independent roundings, and (W) is quadratic in them.

    Args:
        noise: V, in the square of the gradient's norm (`AnalysisOptions.metric` counts), of the gradient of a batch of
            training.
        batch: its examples; None: as many as were analysed. An analysis of n of them has errors of chance that are
            larger by batch / n, as is the noise of n examples.
        theta: rounding relative to noise.
        horizon: steps over which a persisting error adds up.
        loss_gap: of the loss, absolute; infinite: weights are not limited.
        candidates, accumulators, share, lost, solver: as in `precc.policies.budget_policy.BudgetPolicy`.

    Raises:
        PlanError: an option that makes no sense; results or inference, which have no such budget.

    >>> NoiseBudget(noise=0.01, loss_gap=0.002)
    NoiseBudget(noise=0.01, loss_gap=0.002)
    """

    noise: float
    batch: int | None = None
    theta: float = 0.5
    horizon: float = 10.0
    loss_gap: float = math.inf
    lost: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self.noise, "noise, the variance of the gradient,", zero=True)
        require_number(self.theta, "theta")
        require_number(self.horizon, "horizon", zero=True)
        if not (isinstance(self.loss_gap, (int, float)) and self.loss_gap > 0):
            raise PlanError(f"loss_gap is a gap of the loss, above 0, not {self.loss_gap!r}")
        if self.batch is not None and (type(self.batch) is not int or self.batch < 1):
            raise PlanError(f"batch is a number of examples, at least 1, or None, not {self.batch!r}")
        if self.inference or self.results:
            raise PlanError("a noise budget is for the operands of a training step: no inference=, no results=")

    @property
    def _budget(self) -> str:
        gap = "" if math.isinf(self.loss_gap) else f", loss gap {self.loss_gap:.3g}"
        return f"theta {self.theta:g} of noise {self.noise:.3g}{gap}"

    def _solve(self, assigner: Assigner) -> Scored:
        analysis = assigner.analysis
        charges = Charges.of(assigner.choices, self.horizon, (self.batch or analysis.batch.rows) / _rows(analysis))
        allowed = self.theta**2 * self.noise * charges.shrunk / analysis.gradient_norm**2
        budgets = np.array([allowed, self.loss_gap])
        about, factor = charges.choices.uniform, 1.0
        best: Solution | None = None
        for _ in range(_ROUNDS):
            problem = charges.problem(assigner, about, budgets * [factor, 1.0])
            solution = assigner.solver.solve(problem)
            about = charges.choices.reference(solution)
            spent = charges.spent(solution, assigner.plan_of(solution.choices))
            if spent <= allowed * _WITHIN and (best is None or solution.cost < best.cost):
                best = solution
            if _NEAR * allowed <= spent <= allowed * _WITHIN:
                break
            factor *= min(max(allowed / spent, 1 / 64), 64.0) if spent > 0 else 64.0
        if best is None:
            raise InfeasibleError(
                f"no plan of these candidates is found within {self._budget}: raise theta, or add a finer candidate"
            )
        plan = assigner.plan_of(best.choices)
        error, paid = assigner.score(plan)
        return Scored(plan, error, paid, Limits.spent(error), best)


@dataclass(frozen=True, slots=True, eq=False)
class Charges:
    """What choices are charged.

    Args:
        choices: of the step, forward weights without errors of the gradient: the net adapts to these.
        gaps: of the loss, by slot and choice; those of forward weights.
        persisting: mean squares of the gradient's error that are alike in all batches, likewise.
        extra: charges of these beside their own mean square, relative to it.
        shrunk: examples of a batch of training, relative to those analysed.
    """

    choices: StepChoices
    gaps: Floats
    persisting: Floats
    extra: float
    shrunk: float

    @classmethod
    def of(cls, choices: StepChoices, horizon: float, shrunk: float) -> "Charges":
        found = choices.errors
        slots = [Slot.parse(name) for name in found.names]
        forward = np.array([_is_forward_weight(slot) for slot in slots])[:, None]
        kept = np.zeros(found.gradients.shape, bool)
        for choice, own in enumerate(choices.palette.precisions):
            kept[:, choice] = [_persists(slot, own) for slot in slots]
        gradients, squares, persisting = (
            np.where(forward, 0.0, own)
            for own in (found.gradients, found.squares, np.where(kept, found.gradients, found.coherent))
        )
        others = replace(choices, errors=replace(found, gradients=gradients, squares=squares))
        return cls(others, np.where(forward, np.abs(found.means), 0.0), persisting, (1 + horizon) * shrunk - 1, shrunk)

    def gradients(self, about: Reference) -> Floats:
        """Charges of the gradient by slot and choice, linearised about a reference."""
        found = self.choices.errors
        return found.gradients + found.squares * about.slopes + self.extra * self.persisting

    def problem(self, assigner: Assigner, about: Reference, budgets: Floats) -> AssignmentProblem:
        """To be within budgets of the gradient and of the loss, with errors linearised about a reference."""
        base = assigner.tables.problem(about, Limits())
        found, groups = self.choices.errors, len(self.choices.graph)
        gradients = self.gradients(about)
        errors = np.stack([found.by_group(np.maximum(own, 0.0), groups) for own in (gradients, self.gaps)])
        errors = np.where(np.isfinite(base.costs), errors, 0.0)
        return AssignmentProblem(base.costs, errors, budgets, base.ends, base.tables, ("gradient noise", "loss gap"))

    def spent(self, solution: Solution, plan: PrecisionPlan) -> float:
        """What the whole analysis predicts for the gradient's error of a plan, with the charges of what persists."""
        rows = np.arange(len(self.choices.errors.names))
        chosen = solution.choices[np.array(self.choices.errors.groups, np.int64)]
        predicted = self.choices.analysis.predict(without_forward_weights(plan)).gradient ** 2
        return predicted + self.extra * float(self.persisting[rows, chosen].sum())


def _rows(analysis: Analysis) -> int:
    return max(analysis.batch.rows, 1)


def without_forward_weights(plan: PrecisionPlan) -> PrecisionPlan:
    """A plan that names all slots, with the forward weights not rounded: what rule (G) is about."""
    rest = {name: own for name, own in plan.slots.items() if not _is_forward_weight(Slot.parse(name))}
    return PrecisionPlan("float64", rest, accumulators=plan.accumulators)


def _is_forward_weight(slot: Slot) -> bool:
    return slot.role is Role.FPROP and slot.operand == "weight"


def _persists(slot: Slot, precision: Precision) -> bool:
    """Whether an operand is the same in each batch, and is rounded so."""
    return slot.operand == "weight" and not precision.is_stochastic
