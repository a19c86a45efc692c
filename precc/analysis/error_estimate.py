"""The error of loss and gradient under a plan: estimated or measured."""

import math
from dataclasses import dataclass

__all__ = ["ErrorEstimate", "StandardErrors"]


@dataclass(frozen=True, slots=True)
class StandardErrors:
    """Standard errors of the fields of an `ErrorEstimate`; NaN where there is only one draw."""

    loss_mean: float
    loss: float
    gradient: float


@dataclass(frozen=True, slots=True)
class ErrorEstimate:
    """What a plan does to a step, relative to the same step without rounding.

    Args:
        loss_mean: mean of the error of the loss; absolute.
        loss: standard deviation of the error of the loss; absolute.
        gradient: root mean square of the 2-norm of the gradient's error, relative to the 2-norm of the gradient.
        standard_error: of these three.
    """

    loss_mean: float
    loss: float
    gradient: float
    standard_error: StandardErrors

    def __str__(self) -> str:
        """In one line.

        >>> print(ErrorEstimate(1.2e-4, 6.6e-4, 0.148, StandardErrors(float("nan"), 1e-5, 0.009)))
        loss +1.2e-04 +- 6.6e-04, gradient 14.8% (+- 0.9%)
        """
        sure = self.standard_error.gradient
        known = f" (+- {sure:.1%})" if math.isfinite(sure) and sure else ""
        return f"loss {self.loss_mean:+.1e} +- {self.loss:.1e}, gradient {self.gradient:.1%}{known}"
