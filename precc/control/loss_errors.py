"""Errors of the loss that an analysis predicts, and plans within an error."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from precc.analysis.analysis import Analysis
from precc.analysis.error_estimate import ErrorEstimate
from precc.errors import AnalysisError, ControllerError, InfeasibleError
from precc.plan import PrecisionPlan
from precc.policies.error_budget import ErrorBudget
from precc.rule import Rule

__all__ = ["checked_z", "epsilon_of", "plan_within"]


def checked_z(z: float) -> float:
    """The z of ``|mean| + z * sigma`` as it is.

    Raises:
        ControllerError: it is negative, or not finite.
    """
    if not 0 <= z < math.inf:
        raise ControllerError(f"z, of |mean| + z * sigma, must be finite and not negative, got {z}")
    return z


def epsilon_of(estimate: ErrorEstimate, z: float) -> float:
    """``|mean| + z * sigma`` of the error of the loss.

    Raises:
        AnalysisError: slots act on the loss past operators without a derivative, and their part is not known.

    >>> from precc.analysis.error_estimate import StandardErrors
    >>> epsilon_of(ErrorEstimate(-0.1, 0.2, 0.0, StandardErrors(0.0, 0.0, 0.0)), z=2.0)
    0.5
    """
    if estimate.unknown.loss:
        slots = sorted(estimate.unknown.loss)
        raise AnalysisError(
            f"the error of the loss is not known for {slots[0]!r} and {len(slots) - 1} more, which act past operators "
            'without a derivative: use epsilon="measured"'
        )
    return abs(estimate.loss_mean) + z * estimate.loss


def plan_within(
    analysis: Analysis,
    epsilon: float,
    *,
    z: float,
    gradient: float,
    candidates: Sequence[Any] | None = None,
    rules: Sequence[Rule] = (),
) -> PrecisionPlan | None:
    """The cheapest plan with at most this ``|mean| + z * sigma`` of the error of the loss; None: only full precision.

    As that is at most ``sqrt(1 + z**2)`` times the root mean square, a limit on the latter will do.

    Args:
        analysis: of the step.
        epsilon: absolute.
        z: see `epsilon_of`.
        gradient: largest relative error of the gradient, which the loss does not see.
        candidates: as in `precc.ErrorBudget`; None: those of that.
        rules: that will hold over the plan.
    """
    limits = ErrorBudget(loss=epsilon / math.sqrt(1.0 + z**2), gradient=gradient)
    policy = limits if candidates is None else replace(limits, candidates=candidates)
    try:
        return policy.assign(analysis, rules=rules)
    except InfeasibleError:
        return None
