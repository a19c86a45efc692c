"""Errors of uniform plans: what a plan at the same bits, or the same cost, is measured against."""

import math
from collections.abc import Sequence

from precc.assignment.assigner import Assigner
from precc.assignment.candidates import scaled
from precc.assignment.limits import Limits
from precc.plan import PrecisionPlan
from precc.precision import Precision

__all__ = ["best_uniform", "formats_of_width"]

#: The fewest and the most bits of a format that is worth a comparison.
_LEAST, _MOST = 4, 32

#: An error of the gradient, or of the loss relative to it, that counts as none: what is measured against none at all
#: would not count.
_NONE = 1e-8


def formats_of_width(bits: int) -> tuple[Precision, ...]:
    """All floats of so many bits, at least 4 and at most 32, with 2 to 8 bits of exponent and 1 or more of significand,
    as candidates.

    >>> print(*formats_of_width(5))
    e2m2/tensor:float32 e3m1/tensor:float32
    """
    width = min(max(bits, _LEAST), _MOST)
    return tuple(scaled(f"e{e}m{width - 1 - e}") for e in range(2, min(8, width - 2) + 1))


def best_uniform(assigner: Assigner, precisions: Sequence[Precision]) -> Limits:
    """The least errors of loss and gradient among the plans that have one of these everywhere; of each by itself."""
    spent = [Limits.spent(assigner.analysis.predict(PrecisionPlan(own, rules=assigner.rules))) for own in precisions]
    loss = min((math.sqrt(own[0]) for own in spent), default=math.inf)
    gradient = min((math.sqrt(own[1]) for own in spent), default=math.inf)
    least = _NONE * (abs(assigner.analysis.loss) or 1.0)
    return Limits(max(loss, least), math.inf if assigner.inference else max(gradient, _NONE))
