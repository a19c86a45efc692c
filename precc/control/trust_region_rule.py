"""The trust-region rule with dynamic precision: when to refine, when to accept, how the radius moves.

With a linear model the step is ``p = -radius * G / ||G||_2``, its predicted reduction ``pred``. The computed
reduction is off by ``entries * epsilon`` at most, where epsilon is the error of the loss, which enters at x and
at x + p (``entries=2``), or that of the difference itself (``entries=1``). It may be trusted to judge the step if
``epsilon < eta1 * pred / entries``: accepting means that the computed loss fell by ``eta1 * pred`` at least, hence
the true one by ``eta1 * pred - entries * epsilon > 0``. Otherwise the next finer level of arithmetic is taken, at
the same point and radius. Then, with the ratio ``rho = actual / pred``: ``rho >= eta2`` doubles the radius,
``rho < eta1`` rejects and halves it.

In place of levels there may be a budget, the error that a plan may have: ``budget <- min(budget / 2, 0.9 * bound)``,
bound being ``eta1 * pred / entries``, whenever the gate fails and there is a finer plan; the first is ``0.9 * bound``.

Source: Conn, Gould, Toint, Trust-Region Methods (2000), section 10.6, in the form with levels of arithmetic. The
tolerant ratio: Sun and Nocedal, A trust region method for noisy unconstrained optimization (2022).
All quantities are absolute, in units of the loss.
"""

import math
from dataclasses import dataclass, replace
from enum import Enum

from precc.errors import ControllerError

__all__ = ["Decision", "Observation", "TrustRegionRule", "TrustRegionState"]

_WITHIN = 0.9  # share of the bound that a budget takes
_COARSER = 0.25  # share of the bound within which the error of a coarser level must be


class Decision(Enum):
    """What to do at the point x with the step p."""

    REFINE = "refine"  #: the error is too large: measure again at x on the next finer level
    BUDGET = "budget"  #: the first budget is known: measure again at x under a plan within it
    EVALUATE = "evaluate"  #: the gate passed: evaluate the loss at x + p
    ACCEPT = "accept"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Observation:
    """What was observed of a step.

    Args:
        predicted_reduction: decrease that the model promises.
        epsilon: absolute error of the loss, or of its difference; infinite if the level cannot represent it.
        actual_reduction: computed decrease; None before x + p was evaluated, NaN if that loss is not finite.
        gradient_error: ``||ghat - g|| / ||g||``, g being the gradient in full precision; None if it was not measured.
        finest: whether no budget gives a finer plan: what the net's rules round stays.
        gradient_norm: ``||g||_2``, for rules that ask for it.
    """

    predicted_reduction: float
    epsilon: float
    actual_reduction: float | None = None
    gradient_error: float | None = None
    finest: bool = False
    gradient_norm: float = math.nan


@dataclass(frozen=True, slots=True)
class TrustRegionState:
    """Where the rule is.

    Args:
        radius: in the 2-norm of all parameters.
        level: of arithmetic, 0 the coarsest; 0 where there is a budget.
        budget: the error that a plan may have; None before the first, and where there are levels.
        successes: gates in a row that passed, since the last change of level.
    """

    radius: float
    level: int = 0
    budget: float | None = None
    successes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRegionRule:
    """The constants of the rule; ``step`` is the whole rule, but for going back to coarser levels.

    Args:
        radius: the first radius.
        eta1: least ratio of a step that is accepted; 0.1 is usual.
        eta2: least ratio that doubles the radius; 0.75 is usual.
        levels: how many levels of arithmetic there are; None: a budget.
        budget: the first one; None: from the first step.
        entries: how often epsilon enters the actual reduction: 2, of the loss, or 1, of the difference.
        zeta: largest ``gradient_error`` with which the gate passes; None: it is not asked for.
        noise_tolerance: r in ``rho = (actual + r * epsilon) / (pred + r * epsilon)``. With ``r > entries / (1 - eta2)``
            the radius grows on every step on which the model is right, however small; one that is accepted may raise
            the loss by ``(r * (1 - eta1) + entries) * epsilon``. 0: the plain ratio.
        coarsen_after: gates in a row that must have passed before a coarser level is looked at; None: never.

    Raises:
        ControllerError: not ``0 < eta1 <= eta2 < 1``, a radius or budget that is not positive and finite, no level,
            zeta outside of ``(0, 1 - eta2)``, or a noise tolerance that is too small.

    >>> rule = TrustRegionRule(radius=0.1, levels=3)
    >>> decision, state = rule.step(Observation(predicted_reduction=1.0, epsilon=0.06), rule.init())
    >>> decision, state.level
    (<Decision.REFINE: 'refine'>, 1)
    >>> decision, state = rule.step(Observation(1.0, 0.04, actual_reduction=0.8), rule.init())
    >>> decision, state.radius
    (<Decision.ACCEPT: 'accept'>, 0.2)
    """

    radius: float = 0.1
    eta1: float = 0.1
    eta2: float = 0.75
    levels: int | None = 1
    budget: float | None = None
    entries: int = 2
    zeta: float | None = None
    noise_tolerance: float = 0.0
    coarsen_after: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.eta1 <= self.eta2 < 1:
            raise ControllerError(f"expected 0 < eta1 <= eta2 < 1, got eta1={self.eta1}, eta2={self.eta2}")
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise ControllerError(f"the radius must be positive and finite, got {self.radius}")
        if self.levels is not None and self.levels < 1:
            raise ControllerError("a trust region needs at least one level of arithmetic")
        if self.budget is not None and self.levels is not None:
            raise ControllerError(f"a budget of {self.budget} goes with levels='budget', not with levels of arithmetic")
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise ControllerError(f"the budget, an error of the loss, must be positive and finite, got {self.budget}")
        if self.zeta is not None and not 0 < self.zeta < 1 - self.eta2:
            raise ControllerError(f"zeta must be in (0, 1 - eta2), that is (0, {1 - self.eta2:g}), got {self.zeta}")
        least = self.entries / (1 - self.eta2)
        if self.noise_tolerance and not least < self.noise_tolerance < math.inf:
            raise ControllerError(
                f"noise_tolerance must be 0, or above {self.entries} / (1 - eta2) = {least:g} and finite, "
                f"got {self.noise_tolerance}"
            )
        if self.coarsen_after is not None and self.coarsen_after < 1:
            raise ControllerError(f"coarsen_after counts gates, at least 1; got {self.coarsen_after}")

    def init(self) -> TrustRegionState:
        return TrustRegionState(self.radius, budget=self.budget)

    def bound(self, predicted: float) -> float:
        """The error below which the gate passes."""
        return self.eta1 * predicted / self.entries

    def gate(self, observed: Observation) -> bool:
        """Whether loss and gradient are known well enough to judge the step."""
        return self._within_zeta(observed.gradient_error) and observed.epsilon < self.bound(
            observed.predicted_reduction
        )

    def _within_zeta(self, gradient_error: float | None) -> bool:
        return self.zeta is None or gradient_error is None or gradient_error <= self.zeta

    def step(self, observed: Observation, state: TrustRegionState) -> tuple[Decision, TrustRegionState]:
        """The decision on what was observed, and the state after it.

        On the finest level, or under the finest plan, there is nothing to refine: the step is judged even if the gate
        fails.
        """
        predicted = observed.predicted_reduction
        if not (predicted > 0 and math.isfinite(predicted)):
            return Decision.REJECT, self._shrunk(state)
        passed = self.gate(observed)
        if self.levels is None and state.budget is None:
            return Decision.BUDGET, self._finer(state, self.bound(predicted))
        if not passed and not observed.finest and self._can_refine(state):
            return Decision.REFINE, self._finer(state, self.bound(predicted))
        actual = observed.actual_reduction
        if actual is None:
            return Decision.EVALUATE, state
        judged = replace(state, successes=state.successes + 1 if passed else 0)
        tolerated = self.noise_tolerance * observed.epsilon if self.noise_tolerance else 0.0
        # no division, and a reduction that is NaN is no success
        if actual + tolerated >= self.eta2 * (predicted + tolerated):
            return Decision.ACCEPT, replace(judged, radius=2.0 * state.radius)
        if actual + tolerated >= self.eta1 * (predicted + tolerated):
            return Decision.ACCEPT, judged
        return Decision.REJECT, self._shrunk(judged)

    def step_between(self, predicted: float, state: TrustRegionState) -> tuple[Decision, TrustRegionState]:
        """The decision on a step that is not evaluated: taken, if the model promises a decrease at all."""
        if predicted > 0 and math.isfinite(predicted):
            return Decision.ACCEPT, state
        return Decision.REJECT, self._shrunk(state)

    def step_without_loss(self, state: TrustRegionState, *, level_at_fault: bool) -> tuple[Decision, TrustRegionState]:
        """The decision where the loss or its gradient at x is not finite.

        If full precision has a finite loss there, the level is at fault and its error infinite: refine. If not, or
        if no finer level is left, reject and shrink.
        """
        if level_at_fault and self._can_refine(state):
            return Decision.REFINE, self._finer(state, math.inf)
        return Decision.REJECT, self._shrunk(state)

    def coarser(self, state: TrustRegionState) -> TrustRegionState | None:
        """What to try after enough gates in a row: the next coarser level, or twice the budget; None: not yet."""
        if self.coarsen_after is None or state.successes < self.coarsen_after:
            return None
        if state.budget is not None:
            return replace(state, budget=2.0 * state.budget, successes=0)
        return replace(state, level=state.level - 1, successes=0) if state.level else None

    def coarsens(self, predicted: float, epsilon: float, gradient_error: float | None = None) -> bool:
        """Whether the coarser level, which has these errors, is to be taken; if not, the gates are counted anew."""
        return self._within_zeta(gradient_error) and epsilon < _COARSER * self.bound(predicted)

    def reason(self, decision: Decision, observed: Observation) -> str:
        """Why, in a clause with the numbers."""
        predicted, epsilon, actual = observed.predicted_reduction, observed.epsilon, observed.actual_reduction
        if not (predicted > 0 and math.isfinite(predicted)):
            return f"the model promises no decrease, but {predicted:.3g}"
        bound = self.bound(predicted)
        if decision is Decision.BUDGET:
            return f"the first budget, {_WITHIN:g} of the bound {bound:.3g}"
        if decision is Decision.REFINE and not epsilon < bound:
            return f"epsilon {epsilon:.3g} is not below {bound:.3g}"
        if decision is Decision.REFINE:
            return f"the gradient's error {observed.gradient_error:.3g} is not within zeta {self.zeta:g}"
        tolerated = self.noise_tolerance * epsilon if self.noise_tolerance else 0.0
        ratio = math.nan if actual is None else (actual + tolerated) / (predicted + tolerated)
        ungated = "" if self.gate(observed) else f", though epsilon {epsilon:.3g} may be too large, bound {bound:.3g}"
        if decision is Decision.REJECT:
            return f"rho {ratio:.3g} is below eta1 {self.eta1:g}{ungated}"
        name, least = ("eta2", self.eta2) if ratio >= self.eta2 else ("eta1", self.eta1)
        return f"rho {ratio:.3g} is at least {name} {least:g}{ungated}"

    def _can_refine(self, state: TrustRegionState) -> bool:
        return state.budget is not None if self.levels is None else state.level + 1 < self.levels

    def _finer(self, state: TrustRegionState, bound: float) -> TrustRegionState:
        if self.levels is not None:
            return replace(state, level=state.level + 1, successes=0)
        half = math.inf if state.budget is None else 0.5 * state.budget
        return replace(state, budget=min(half, _WITHIN * bound), successes=0)

    @staticmethod
    def _shrunk(state: TrustRegionState) -> TrustRegionState:
        return replace(state, radius=0.5 * state.radius)
