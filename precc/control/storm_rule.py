"""STORM, the trust region with random models: when to accept, how the radius moves, how exact the loss must be.

The model is linear: ``m(x, s) = f + <g, s>``, the step ``s = -radius * g / ||g||_2``, its predicted reduction
``m(x, 0) - m(x, s) = radius * ||g||_2``. A step is a success, and accepted, if ``rho >= eta1`` and
``||g|| >= eta2 * radius``: ``radius <- min(gamma * radius, radius_max)``. Otherwise ``radius <- radius / gamma``. The
loss must be known to an error in ``(0, eta_precision * pred]``; where it is not, the coarsest finer level that has it
is taken, at the same point and radius.

Source: Chen, Menickelly, Scheinberg, Stochastic optimization using a trust-region method and random models (2018), with
the switch of precision of Estano, Filip, Riccietti (2022), where the interval is printed with the opposite sign.
All quantities are absolute, in units of the loss.
"""

import math
from dataclasses import dataclass, replace

from precc.control.trust_region_rule import Decision, Observation, TrustRegionState
from precc.errors import ControllerError

__all__ = ["STORMRule"]


@dataclass(frozen=True, slots=True, kw_only=True)
class STORMRule:
    """The constants of the rule.

    Args:
        radius: the first radius.
        eta1: least ratio of a success.
        eta2: least norm of the gradient, per radius, of a success.
        gamma: factor of the radius.
        radius_max: the largest radius.
        eta_precision: largest error of the loss over the predicted reduction. Below ``eta1 / 2`` each success that
            passed the gate is a true decrease, if the error at x + s is no larger than that at x.
        levels: how many levels of arithmetic there are.

    Raises:
        ControllerError: a constant outside its range; the message names it.

    >>> rule = STORMRule(radius=0.5, levels=2)
    >>> rule.step(Observation(predicted_reduction=1.0, epsilon=0.05, gradient_norm=2.0), rule.init())[0]
    <Decision.REFINE: 'refine'>
    >>> decision, state = rule.step(Observation(1.0, 0.04, actual_reduction=0.1, gradient_norm=2.0), rule.init())
    >>> decision, state.radius
    (<Decision.ACCEPT: 'accept'>, 1.0)
    """

    radius: float = 0.1
    eta1: float = 0.1
    eta2: float = 1e-3
    gamma: float = 2.0
    radius_max: float = 10.0
    eta_precision: float = 0.04
    levels: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.eta1 < 1:
            raise ControllerError(f"eta1 must be in (0, 1), got {self.eta1}")
        if not 0 < self.eta2 < math.inf:
            raise ControllerError(f"eta2 must be positive and finite, got {self.eta2}")
        if not 1 < self.gamma < math.inf:
            raise ControllerError(f"gamma must be above 1 and finite, got {self.gamma}")
        if not 0 < self.radius <= self.radius_max < math.inf:
            raise ControllerError(
                f"expected 0 < radius <= radius_max, finite, got radius={self.radius}, radius_max={self.radius_max}"
            )
        if not 0 < self.eta_precision < math.inf:
            raise ControllerError(f"eta_precision must be positive and finite, got {self.eta_precision}")
        if self.levels < 1:
            raise ControllerError("STORM needs at least one level of arithmetic")

    def init(self) -> TrustRegionState:
        return TrustRegionState(self.radius)

    def bound(self, predicted: float) -> float:
        """The largest error that the loss may have."""
        return self.eta_precision * predicted

    def gate(self, observed: Observation) -> bool:
        """Whether the loss is known well enough."""
        return observed.epsilon <= self.bound(observed.predicted_reduction)

    def step(self, observed: Observation, state: TrustRegionState) -> tuple[Decision, TrustRegionState]:
        """The decision on what was observed, and the state after it; on the finest level nothing is refined."""
        predicted = observed.predicted_reduction
        if not (predicted > 0 and math.isfinite(predicted)):
            return Decision.REJECT, self._shrunk(state)
        if not self.gate(observed) and state.level + 1 < self.levels:
            return Decision.REFINE, replace(state, level=state.level + 1)
        actual = observed.actual_reduction
        if actual is None:
            return Decision.EVALUATE, state
        if actual >= self.eta1 * predicted and observed.gradient_norm >= self.eta2 * state.radius:
            return Decision.ACCEPT, replace(state, radius=min(self.gamma * state.radius, self.radius_max))
        return Decision.REJECT, self._shrunk(state)

    def step_without_loss(self, state: TrustRegionState, *, level_at_fault: bool) -> tuple[Decision, TrustRegionState]:
        """The decision where the loss or its gradient at x is not finite: refine, if the level is at fault."""
        if level_at_fault and state.level + 1 < self.levels:
            return Decision.REFINE, replace(state, level=state.level + 1)
        return Decision.REJECT, self._shrunk(state)

    def reason(self, decision: Decision, observed: Observation, state: TrustRegionState) -> str:
        """Why, in a clause with the numbers; the state is that of before."""
        predicted, epsilon, actual = observed.predicted_reduction, observed.epsilon, observed.actual_reduction
        if not (predicted > 0 and math.isfinite(predicted)):
            return f"the model promises no decrease, but {predicted:.3g}"
        if decision is Decision.REFINE or actual is None:
            return f"epsilon {epsilon:.3g} is above {self.bound(predicted):.3g}"
        ratio = actual / predicted
        if not ratio >= self.eta1:
            return f"rho {ratio:.3g} is below eta1 {self.eta1:g}"
        least, norm = self.eta2 * state.radius, observed.gradient_norm
        if decision is Decision.REJECT:
            return f"the gradient {norm:.3g} is below eta2 * radius {least:.3g}"
        return f"rho {ratio:.3g} is at least eta1 {self.eta1:g}, the gradient {norm:.3g} at least {least:.3g}"

    def _shrunk(self, state: TrustRegionState) -> TrustRegionState:
        return replace(state, radius=state.radius / self.gamma)
