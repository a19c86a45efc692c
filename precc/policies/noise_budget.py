"""The cheapest plan whose rounding hides in the noise of the gradient."""

import math
from dataclasses import dataclass

import numpy as np

from precc.assignment.assigner import Assigner, Scored
from precc.assignment.limits import Limits
from precc.assignment.problem import AssignmentProblem, Floats, Solution
from precc.assignment.step_choices import Reference, StepChoices
from precc.checks import require_number
from precc.errors import InfeasibleError, PlanError
from precc.policies.budget_policy import BudgetPolicy
from precc.precision import Precision
from precc.slots import Role, Slot

__all__ = ["NoiseBudget"]

#: Problems that are solved at most, each linearised about the plan before.
_ROUNDS = 4


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
        analysis, choices = assigner.analysis, assigner.choices
        shrunk = (self.batch or analysis.batch.rows) / max(analysis.batch.rows, 1)
        allowed = self.theta**2 * self.noise * shrunk / analysis.gradient_norm**2
        budgets = np.array([allowed, self.loss_gap])
        about, factor = choices.uniform, 1.0
        best: Solution | None = None
        for _ in range(_ROUNDS):
            problem = self._problem(assigner, about, shrunk, budgets)
            solution = assigner.solver.solve(problem.within(budgets * [factor, 1.0]))
            about = choices.reference(solution)
            spent = float(self._problem(assigner, about, shrunk, budgets).errors_of(solution.choices)[0])
            if spent <= allowed * (1 + 1e-9) and (best is None or solution.cost < best.cost):
                best = solution
            if 0.9 * allowed <= spent <= allowed:
                break
            factor *= min(max(allowed / spent, 0.25), 4.0) if spent > 0 else 4.0
        if best is None:
            raise InfeasibleError(
                f"no plan of these candidates is found within {self._budget}: raise theta, or add a finer candidate"
            )
        plan = assigner.plan_of(best.choices)
        error, paid = assigner.score(plan)
        return Scored(plan, error, paid, Limits.spent(error), best)

    def _problem(self, assigner: Assigner, about: Reference, shrunk: float, budgets: Floats) -> AssignmentProblem:
        """Gradient errors of all slots but forward weights, and loss gaps of these, linearised about a reference."""
        base = assigner.tables.problem(about, Limits())
        errors = self._errors(assigner.choices, about, shrunk)
        errors = np.where(np.isfinite(base.costs), errors, 0.0)
        return AssignmentProblem(base.costs, errors, budgets, base.ends, base.tables, ("gradient noise", "loss gap"))

    def _errors(self, choices: StepChoices, about: Reference, shrunk: float) -> Floats:
        found, groups = choices.errors, len(choices.graph)
        slots = [Slot.parse(name) for name in found.names]
        forward_weight = np.array([_is_forward_weight(slot) for slot in slots])[:, None]
        kept = np.zeros(found.gradients.shape, bool)
        for choice, own in enumerate(choices.palette.precisions):
            kept[:, choice] = [_persists(slot, own) for slot in slots]
        persisting = np.where(kept, found.gradients, found.coherent)
        passing = found.gradients - persisting + found.squares * about.slopes
        charged = passing + persisting * ((1 + self.horizon) * shrunk)
        gradient = np.where(forward_weight, 0.0, charged)
        gap = np.where(forward_weight, np.abs(found.means), 0.0)
        return np.stack([found.by_group(own, groups) for own in (gradient, gap)])


def _is_forward_weight(slot: Slot) -> bool:
    return slot.role is Role.FPROP and slot.operand == "weight"


def _persists(slot: Slot, precision: Precision) -> bool:
    """Whether an operand is the same in each batch, and is rounded so."""
    return slot.operand == "weight" and not precision.is_stochastic
