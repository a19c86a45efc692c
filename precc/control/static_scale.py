"""The loss scale of what evaluates a loss at one scale."""

from collections.abc import Iterable

from precc.errors import UnsupportedError
from precc.plan import PrecisionPlan

__all__ = ["check_static", "scale_of"]


def scale_of(plan: PrecisionPlan | None, otherwise: float) -> float:
    """The factor that a plan says; the other one if it says none.

    >>> scale_of(PrecisionPlan("e4m3", loss_scaling=8), otherwise=1024.0), scale_of(None, otherwise=1.0)
    (8.0, 1.0)
    """
    return otherwise if plan is None or plan.loss_scaling is None else plan.loss_scaling.initial


def check_static(plans: Iterable[PrecisionPlan], who: str) -> None:
    """Refuse plans whose loss scaling is dynamic.

    Raises:
        UnsupportedError: that of one is.
    """
    for plan in plans:
        if plan.loss_scaling is not None and plan.loss_scaling.dynamic:
            raise UnsupportedError(
                f"{who} evaluates a loss at one scale: loss scaling of its plans is not dynamic. Give a number, as in "
                "loss_scaling=1024"
            )
