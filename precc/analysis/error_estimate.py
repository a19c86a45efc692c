"""The error of loss and gradient under a plan: estimated or measured."""

import math
from dataclasses import dataclass, field

from precc.analysis.unknown_slots import UnknownSlots

__all__ = ["UNSURE", "ErrorEstimate", "StandardErrors"]

#: Share of a slot's sum of squares above which a prediction says that it is not sure.
UNSURE = 0.1


@dataclass(frozen=True, slots=True)
class StandardErrors:
    """Standard errors of the fields of an `ErrorEstimate`; NaN where they are not known.

    Of a measurement they come from its draws. Of a prediction they are those of its random probes and samples: how far
    the estimate would change with another seed, and not how far the model is from the truth.
    """

    loss_mean: float
    loss: float
    gradient: float


@dataclass(frozen=True, slots=True)
class ErrorEstimate:
    """What a plan does to a step, relative to the same step without rounding.

    Args:
        loss_mean: mean of the error of the loss; absolute.
        loss: standard deviation of the error of the loss; absolute.
        gradient: root mean square of the norm of the gradient's error, relative to the norm of the gradient: the
            2-norm, or that of the analysis's metric.
        standard_error: of these three.
        lost: of a prediction, the largest share of a slot's sum of squares that the plan loses, to 0 and beyond the
            ends of its formats; above a tenth or so errors of slots no longer add up, and the prediction is not sure.
        unknown: of a prediction, rounded slots whose errors also reach loss or gradient past an operator without a
            derivative; that part is not in it.
    """

    loss_mean: float
    loss: float
    gradient: float
    standard_error: StandardErrors
    lost: float = 0.0
    unknown: UnknownSlots = field(default_factory=UnknownSlots)

    def __str__(self) -> str:
        """In one line.

        >>> print(ErrorEstimate(1.2e-4, 6.6e-4, 0.148, StandardErrors(float("nan"), 1e-5, 0.009)))
        loss +1.2e-04 +- 6.6e-04, gradient 14.8% (+- 0.9%)
        """
        sure = self.standard_error.gradient
        known = f" (+- {100 * sure:.2g}%)" if math.isfinite(sure) and sure else ""
        unsure = f"; unsure, for a slot loses {self.lost:.0%}: measure it" if self.lost > UNSURE else ""
        found = f"loss {self.loss_mean:+.1e} +- {self.loss:.1e}, gradient {100 * self.gradient:.3g}%"
        return f"{found}{known}{unsure}{self._partial}"

    @property
    def _partial(self) -> str:
        if not self.unknown:
            return ""
        parts = [name for name, own in (("loss", self.unknown.loss), ("gradient", self.unknown.gradient)) if own]
        count = len(self.unknown.every)
        slots = f"{count} slots" if count > 1 else "a slot"
        return f"; partial in the {' and '.join(parts)}, for {slots} act past operators without derivative: measure it"
