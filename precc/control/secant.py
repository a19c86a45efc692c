"""The Lipschitz constant of a gradient, estimated from secants: how far the gradient turned over how far x went."""

import math
from dataclasses import dataclass

from precc.errors import ControllerError

__all__ = ["SecantRule", "Secants"]


@dataclass(frozen=True, slots=True)
class Secants:
    """The last slopes ``||g_k+1 - g_k|| / ||x_k+1 - x_k||``, oldest first."""

    slopes: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SecantRule:
    """L as a quantile of the last slopes; 1 is their maximum.

    On one objective each slope is at most L, so this is an estimate from below. Between two batches, whose gradients
    have noise of the standard deviation sigma each, a slope has an error of up to ``sqrt(2) * sigma / ||x_k+1 - x_k||``
    beside, which makes it too large where steps are short: a quantile below 1 then says more.

    Args:
        window: how many slopes count.
        quantile: of these, in (0, 1].

    Raises:
        ControllerError: an option outside its range.

    >>> rule = SecantRule(window=2)
    >>> secants = rule.step(turned=6.0, moved=2.0, state=rule.step(turned=1.0, moved=2.0, state=rule.init()))
    >>> rule.estimate(secants)
    3.0
    """

    window: int = 100
    quantile: float = 1.0

    def __post_init__(self) -> None:
        if type(self.window) is not int or self.window < 1:
            raise ControllerError(f"window counts steps, at least 1; got {self.window!r}")
        if not 0 < self.quantile <= 1:
            raise ControllerError(f"quantile must be in (0, 1], got {self.quantile}")

    def init(self) -> Secants:
        return Secants()

    def step(self, turned: float, moved: float, state: Secants) -> Secants:
        """The state after one more slope; where x did not move, or it is not finite, there is none."""
        slope = turned / moved if moved > 0 else math.nan
        return Secants((*state.slopes, slope)[-self.window :]) if math.isfinite(slope) else state

    def estimate(self, state: Secants) -> float | None:
        """The smallest slope that is not exceeded by this share of the slopes; None before the first."""
        if not state.slopes:
            return None
        return sorted(state.slopes)[math.ceil(self.quantile * len(state.slopes)) - 1]
