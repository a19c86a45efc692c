"""Checks of options that several places make."""

import math
import sys
from typing import Any

from precc.errors import ControllerError, PlanError, PreccError

__all__ = ["checked_count", "checked_positive", "require_number"]


def require_number(value: Any, what: str, *, zero: bool = False) -> None:
    """Refuse what is no finite number above 0, or of at least 0 where that is allowed.

    Raises:
        PlanError: it is none; the message says `what` it is.
    """
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and value <= sys.float_info.max
    if not known or not value >= 0 or (value == 0 and not zero):
        raise PlanError(f"{what} is {value!r:.60}, not a finite number {'of at least' if zero else 'above'} 0")


def checked_count(name: str, value: Any, least: int, error: type[PreccError] = ControllerError) -> int:
    """A whole number as it is.

    Raises:
        PreccError: of the kind that is given, where it is none, or less.

    >>> checked_count("patience", 3, 1)
    3
    """
    if type(value) is not int or value < least:
        raise error(f"{name} is a whole number of at least {least}, got {value!r:.60}")
    return value


def checked_positive(name: str, value: Any, error: type[PreccError] = ControllerError) -> float:
    """A number as it is.

    Raises:
        PreccError: of the kind that is given, where it is none, not positive, or not finite.
    """
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise error(f"{name} must be positive and finite, got {value!r:.60}")
    return float(value)
