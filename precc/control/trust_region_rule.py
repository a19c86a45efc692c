"""The trust-region rule with dynamic precision: when to refine, when to accept, how the radius moves.

With a linear model the step is ``p = -radius * G / ||G||_2``, its predicted reduction ``pred``. A loss
that is only known up to epsilon may be trusted to judge the step if ``epsilon < (eta1 / 2) * pred``:
accepting means that the computed loss fell by ``eta1 * pred`` at least, hence the true one by ``eta1 * pred - 2 *
epsilon > 0``. Otherwise the next finer level of arithmetic is taken, at the same point and radius. Then, with
the ratio ``rho = actual / pred``: ``rho >= eta2`` doubles the radius, ``rho < eta1`` rejects and halves it.

Source: Conn, Gould, Toint, Trust-Region Methods (2000), section 10.6, in the form with levels of arithmetic.
All quantities are absolute, in units of the loss.
"""

import math
from dataclasses import dataclass, replace
from enum import Enum

__all__ = ["Decision", "Observation", "TrustRegionRule", "TrustRegionState"]


class Decision(Enum):
    """What to do at the point x with the step p."""

    REFINE = "refine"  #: the error is too large: measure again at x on the next finer level
    EVALUATE = "evaluate"  #: the gate passed: evaluate the loss at x + p
    ACCEPT = "accept"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Observation:
    """What was observed of a step.

    Args:
        predicted_reduction: decrease that the model promises.
        epsilon: absolute error of the loss at x; infinite if the level cannot represent it.
        actual_reduction: computed decrease; None before x + p was evaluated, NaN if that loss is not finite.
    """

    predicted_reduction: float
    epsilon: float
    actual_reduction: float | None = None


@dataclass(frozen=True, slots=True)
class TrustRegionState:
    """The radius (in the 2-norm of all parameters) and the level of arithmetic, 0 the coarsest."""

    radius: float
    level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRegionRule:
    """The constants of the rule; ``step`` is the whole rule.

    Args:
        radius: the first radius.
        eta1: least ratio of a step that is accepted; 0.1 is usual.
        eta2: least ratio that doubles the radius; 0.75 is usual.
        levels: how many levels of arithmetic there are.

    Raises:
        ValueError: not ``0 < eta1 <= eta2 < 1``, or a radius that is not positive and finite, or no level.

    >>> rule = TrustRegionRule(radius=0.1, levels=3)
    >>> rule.step(Observation(predicted_reduction=1.0, epsilon=0.06), rule.init())
    (<Decision.REFINE: 'refine'>, TrustRegionState(radius=0.1, level=1))
    >>> rule.step(Observation(1.0, 0.04, actual_reduction=0.8), rule.init())
    (<Decision.ACCEPT: 'accept'>, TrustRegionState(radius=0.2, level=0))
    """

    radius: float = 0.1
    eta1: float = 0.1
    eta2: float = 0.75
    levels: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.eta1 <= self.eta2 < 1:
            raise ValueError(f"expected 0 < eta1 <= eta2 < 1, got eta1={self.eta1}, eta2={self.eta2}")
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise ValueError(f"the radius must be positive and finite, got {self.radius}")
        if self.levels < 1:
            raise ValueError("a trust region needs at least one level of arithmetic")

    def init(self) -> TrustRegionState:
        return TrustRegionState(self.radius)

    def gate(self, observed: Observation) -> bool:
        """Whether the loss is known well enough to judge the step."""
        return observed.epsilon < 0.5 * self.eta1 * observed.predicted_reduction

    def step(self, observed: Observation, state: TrustRegionState) -> tuple[Decision, TrustRegionState]:
        """The decision on what was observed, and the state after it.

        On the finest level there is nothing to refine: the step is judged even if the gate fails.
        """
        predicted = observed.predicted_reduction
        if not (predicted > 0 and math.isfinite(predicted)):
            return Decision.REJECT, self._shrunk(state)
        if not self.gate(observed) and state.level + 1 < self.levels:
            return Decision.REFINE, replace(state, level=state.level + 1)
        actual = observed.actual_reduction
        if actual is None:
            return Decision.EVALUATE, state
        # no division, and a reduction that is NaN is no success
        if actual >= self.eta2 * predicted:
            return Decision.ACCEPT, replace(state, radius=2.0 * state.radius)
        if actual >= self.eta1 * predicted:
            return Decision.ACCEPT, state
        return Decision.REJECT, self._shrunk(state)

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
        if level_at_fault and state.level + 1 < self.levels:
            return Decision.REFINE, replace(state, level=state.level + 1)
        return Decision.REJECT, self._shrunk(state)

    @staticmethod
    def _shrunk(state: TrustRegionState) -> TrustRegionState:
        return replace(state, radius=0.5 * state.radius)
