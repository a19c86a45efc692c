"""Limits of a plan's errors."""

import math
from dataclasses import dataclass

import numpy as np

from precc.analysis.error_estimate import ErrorEstimate
from precc.assignment.problem import Floats
from precc.errors import PlanError

__all__ = ["Limits"]


#: The largest limit; its square is finite.
_MOST = 1e150


@dataclass(frozen=True, slots=True)
class Limits:
    """What the errors of a plan may be at most; infinite: anything.

    Args:
        loss: root mean square of the loss error, ``sqrt(mean**2 + deviation**2)``; absolute.
        gradient: root mean square of the gradient's error, relative to its norm.
        bias: magnitude of the mean of the loss error; absolute.

    Raises:
        PlanError: a limit that is negative, or no number.
    """

    loss: float = math.inf
    gradient: float = math.inf
    bias: float = math.inf

    def __post_init__(self) -> None:
        for name in ("loss", "gradient", "bias"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
                raise PlanError(f"{name} is a limit of an error, 0 or more, not {value!r}")
            object.__setattr__(self, name, math.inf if value > _MOST else float(value))

    @property
    def names(self) -> tuple[str, str, str]:
        """In the order of arrays."""
        return ("loss", "gradient", "bias")

    @property
    def budgets(self) -> Floats:
        """What sums of errors may come to: squares of the first two, [3]."""
        return np.array([self.loss**2, self.gradient**2, self.bias])

    @staticmethod
    def spent(error: ErrorEstimate) -> Floats:
        """By a plan, in the units of `budgets`."""
        return np.array([error.loss**2 + error.loss_mean**2, error.gradient**2, abs(error.loss_mean)])

    def share_of(self, spent: Floats) -> float:
        """What a plan spends of the budget that it spends most of; infinite where that is 0 and something is spent."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.where(spent > 0, spent / self.budgets, 0.0).max())

    def __str__(self) -> str:
        found = {name: getattr(self, name) for name in self.names}
        return ", ".join(f"{name} {value:.3g}" for name, value in found.items() if value < math.inf)
