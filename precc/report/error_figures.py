"""What rounding does to a step, as three numbers of a report."""

from dataclasses import dataclass

from precc.analysis.error_estimate import ErrorEstimate

__all__ = ["ErrorFigures"]


@dataclass(frozen=True, slots=True)
class ErrorFigures:
    """The error of loss and gradient, predicted or measured; beside the step without rounding.

    Args:
        loss_mean: mean of the error of the loss; absolute.
        loss: standard deviation of the error of the loss; absolute.
        gradient: root mean square of the norm of the gradient's error, relative to the norm of the gradient.
        partial: whether operators without a derivative leave a part of it out.
    """

    loss_mean: float
    loss: float
    gradient: float
    partial: bool = False

    @classmethod
    def of(cls, estimate: ErrorEstimate) -> "ErrorFigures":
        """Without the standard errors."""
        return cls(estimate.loss_mean, estimate.loss, estimate.gradient, bool(estimate.unknown))
