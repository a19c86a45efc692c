"""Mixed-precision SGD: which level a step may be computed in, and how long it may be.

The loss is known up to epsilon, the step is ``x - gamma * P G`` with a stochastic gradient G of standard deviation
sigma, ``P = 1`` in SGD and the preconditioner in Adam. A level will do whose epsilon is at most
``gamma * eta / 2 * <G, P G>``; the coarsest is taken. With ``gamma <= 2 * (1 - eta) / L``, L being the Lipschitz
constant of the gradient, an iterate R drawn with the weights ``2 * (1 - eta) * gamma_k - L * gamma_k**2`` has
``E ||grad f(x_R)||**2 = O(1 / sqrt(N))`` above a floor of ``eta * sigma**2 / (1 - eta)`` where eta is constant, as the
noise is in G too; with eta proportional to gamma, ``eta_k = eta * gamma_k / gamma_0``, the floor falls with gamma.

Source: Estano, Filip, Riccietti (2022), after Ghadimi and Lan (2013). From the descent lemma, with w_k the weights,
``sum w_k E ||grad f(x_k)||**2 <= 2 * (f(x_1) - min f) + sigma**2 * sum (L * gamma_k**2 + 2 * eta_k * gamma_k)``; their
claim leaves out the last term, which is the floor, and the first 2.
Errors are absolute, in units of the loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from precc.errors import ControllerError

__all__ = ["MPSGDDecision", "MPSGDObservation", "MPSGDRule", "MPSGDState"]


@dataclass(frozen=True, slots=True)
class MPSGDObservation:
    """What was observed of a step.

    Args:
        rate: gamma.
        gradient_square: ``<G, P G>``.
        epsilons: of the loss under each level, coarsest first.
        lipschitz: L; None if it is not known.
    """

    rate: float
    gradient_square: float
    epsilons: Sequence[float]
    lipschitz: float | None = None


@dataclass(frozen=True, slots=True)
class MPSGDState:
    """The level in force, the first rate, and the sum of the weights so far."""

    level: int = 0
    first_rate: float | None = None
    total_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class MPSGDDecision:
    """What follows.

    Args:
        level: for the next computation: the coarsest that will do, or else the finest.
        bound: ``gamma * eta / 2 * <G, P G>``.
        epsilon: of the level that was in force.
        passed: whether that is within the bound.
        rate_bound: ``2 * (1 - eta) / L``; None if L is not known.
        too_long: whether gamma is above it.
        replaces: probability with which this iterate takes the place of the one that was drawn before.
    """

    level: int
    bound: float
    epsilon: float
    passed: bool
    rate_bound: float | None
    too_long: bool
    replaces: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MPSGDRule:
    """The constants of the rule.

    Args:
        eta: in (0, 1): how much of a step's decrease errors of the loss may take.
        levels: how many levels of arithmetic there are.
        scale_eta: eta in proportion to gamma.

    Raises:
        ControllerError: an option outside its range.

    >>> rule = MPSGDRule(eta=0.5, levels=3)
    >>> decision, state = rule.step(MPSGDObservation(0.1, 4.0, (1.0, 0.09, 0.0)), MPSGDState(level=0))
    >>> decision.bound, decision.level, decision.passed
    (0.1, 1, False)
    """

    eta: float = 0.1
    levels: int = 1
    scale_eta: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.eta < 1:
            raise ControllerError(f"eta must be in (0, 1), got {self.eta}")
        if self.levels < 1:
            raise ControllerError("MPSGD needs at least one level of arithmetic")
        if type(self.scale_eta) is not bool:
            raise ControllerError(f"scale_eta is True or False, not {self.scale_eta!r}")

    def init(self) -> MPSGDState:
        """On the finest level: nothing is known."""
        return MPSGDState(self.levels - 1)

    def eta_of(self, rate: float, state: MPSGDState) -> float:
        """Eta of a step; where gamma grew, it stays below 1."""
        first = state.first_rate
        if not self.scale_eta or not first:
            return self.eta
        return min(self.eta * rate / first, math.nextafter(1.0, 0.0))

    def bound(self, rate: float, gradient_square: float, state: MPSGDState) -> float:
        """The largest error that the loss may have."""
        return 0.5 * rate * self.eta_of(rate, state) * gradient_square

    def passes(self, epsilon: float, bound: float) -> bool:
        """Whether an error is small enough."""
        return epsilon <= bound < math.inf

    def coarsest(self, bound: float, epsilons: Sequence[float]) -> int:
        """The coarsest level within a bound, or else the finest; also where the bound is not finite."""
        within = (level for level, epsilon in enumerate(epsilons) if self.passes(epsilon, bound))
        return next(within, self.levels - 1)

    def reason(self, epsilon: float, bound: float) -> str:
        """Why a level with this error was taken."""
        if self.passes(epsilon, bound):
            return f"the coarsest whose error is within {bound:.3g}"
        return f"no level is within {bound:.3g}: the finest"

    def step(self, observed: MPSGDObservation, state: MPSGDState) -> tuple[MPSGDDecision, MPSGDState]:
        """The decision on a step that was computed in the state's level, and the state after it."""
        rate, lipschitz = observed.rate, observed.lipschitz
        eta = self.eta_of(rate, state)
        bound = self.bound(rate, observed.gradient_square, state)
        level = self.coarsest(bound, observed.epsilons)
        epsilon = observed.epsilons[state.level]
        rate_bound = 2.0 * (1.0 - eta) / lipschitz if lipschitz else None
        weight = max(2.0 * (1.0 - eta) * rate - (lipschitz or 0.0) * rate**2, 0.0)
        total = state.total_weight + weight
        decision = MPSGDDecision(
            level=level,
            bound=bound,
            epsilon=epsilon,
            passed=self.passes(epsilon, bound),
            rate_bound=rate_bound,
            too_long=rate_bound is not None and rate > rate_bound,
            replaces=weight / total if total > 0 else 0.0,
        )
        first = rate if state.first_rate is None else state.first_rate
        return decision, replace(state, level=level, first_rate=first, total_weight=total)
