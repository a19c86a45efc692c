"""What rounding does to a step, in numbers of a report, and how sure they are."""

import math
from dataclasses import dataclass

from precc.analysis.error_estimate import UNSURE, ErrorEstimate

__all__ = ["DOUBT_NOTE", "ErrorFigures", "percent"]

#: What a question mark behind an error says.
DOUBT_NOTE = "? is not sure: a slot loses over a tenth of its sum of squares, or the standard error is over half"

#: The standard error of a gradient's, as a part of it, above which it is not sure.
_NOISY = 0.5

#: Errors of which digits behind the point say nothing.
_LARGE = 10


@dataclass(frozen=True, slots=True)
class ErrorFigures:
    """The error of loss and gradient, predicted or measured; beside the step without rounding.

    Args:
        loss_mean: mean of the error of the loss; absolute.
        loss: standard deviation of the error of the loss; absolute.
        gradient: root mean square of the norm of the gradient's error, relative to the norm of the gradient.
        partial: whether operators without a derivative leave a part of it out.
        standard_error: of the gradient's, from random probes or draws; None where it is not known.
        lost: of a prediction, the largest share of a slot's sum of squares that is rounded to 0 or clipped.
    """

    loss_mean: float
    loss: float
    gradient: float
    partial: bool = False
    standard_error: float | None = None
    lost: float = 0.0

    @classmethod
    def of(cls, estimate: ErrorEstimate) -> "ErrorFigures":
        """Without the standard errors of the loss, and the names of what is partial."""
        own = estimate.standard_error.gradient
        sure = own if math.isfinite(own) else None
        return cls(
            estimate.loss_mean, estimate.loss, estimate.gradient, bool(estimate.unknown), sure, float(estimate.lost)
        )

    @property
    def doubt(self) -> str:
        """Why it is not sure, in a clause; empty where it is.

        >>> ErrorFigures(0.0, 1e-3, 0.2, lost=1.0).doubt
        'a slot loses 100%'
        """
        if self.lost > UNSURE:
            return f"a slot loses {self.lost:.0%}"
        noisy = self.standard_error is not None and self.standard_error > _NOISY * self.gradient
        return "its standard error is large" if noisy else ""


def percent(own: ErrorFigures | None) -> str:
    """The error of the gradient for a table, with a question mark where it is not sure.

    >>> percent(ErrorFigures(0.0, 1e-3, 0.2, lost=1.0))
    '20.00%?'
    """
    if own is None:
        return ""
    text = f"{own.gradient:.2%}" if own.gradient < _LARGE else f"{100 * own.gradient:.2g}%"
    return text + "?" * bool(own.doubt)
