"""The error of loss and gradient under a plan: estimated or measured."""

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
