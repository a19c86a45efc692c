"""A plan, or none, in the state of a controller."""

from typing import Any

from precc.errors import ControllerError, PlanError
from precc.plan import PrecisionPlan

__all__ = ["stored_plan"]


def stored_plan(text: Any, who: str) -> PrecisionPlan | None:
    """What ``plan.to_json()`` gave, or None.

    Raises:
        ControllerError: it is neither.
    """
    if text is None:
        return None
    try:
        if isinstance(text, str):
            return PrecisionPlan.from_json(text)
        why = f"it is {text!r:.60}"
    except PlanError as error:
        why = str(error)
    raise ControllerError(f"the state of {who} has a plan that is none: {why}")
