"""Checks of options that several places make."""

import sys
from typing import Any

from precc.errors import PlanError

__all__ = ["require_number"]


def require_number(value: Any, what: str, *, zero: bool = False) -> None:
    """Refuse what is no finite number above 0, or of at least 0 where that is allowed.

    Raises:
        PlanError: it is none; the message says `what` it is.
    """
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and value <= sys.float_info.max
    if not known or not value >= 0 or (value == 0 and not zero):
        raise PlanError(f"{what} is {value!r:.60}, not a finite number {'of at least' if zero else 'above'} 0")
