"""The loss scale of what evaluates a loss at one scale."""

from collections.abc import Iterable

from precc.errors import ControllerError, UnsupportedError
from precc.loss_scaling import LARGEST_SCALE, LossScaling
from precc.plan import PrecisionPlan

__all__ = ["check_static", "checked_scale", "scale_of"]

_USUAL = LossScaling().initial


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


def checked_scale(scale: float | None, plans: Iterable[PrecisionPlan]) -> float:
    """The factor under plans that say none; None is the usual one.

    Raises:
        ControllerError: it is not positive and finite in float32, or a plan says another.

    >>> checked_scale(None, [PrecisionPlan("e4m3", loss_scaling=8)])
    1024.0
    """
    if scale is None:
        return _USUAL
    if not 0 < scale < LARGEST_SCALE:
        raise ControllerError(f"loss_scale must be positive, and finite in float32; got {scale}")
    for level, plan in enumerate(plans):
        if scale_of(plan, scale) != scale:
            raise ControllerError(
                f"loss_scale={scale:g} is not the loss_scaling={plan.loss_scaling} of level {level}: leave one out"
            )
    return float(scale)
