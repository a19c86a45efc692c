"""JSON that is strict: an entry that stands twice is an error, and numbers that it has not are texts."""

import json
import math
from functools import partial
from typing import Any

from precc.errors import PlanError

__all__ = ["NOT_FINITE", "json_number", "parsed_json"]

#: What stands for the numbers that JSON has not.
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def json_number(value: float) -> float | str:
    """A number as JSON can hold it.

    >>> json_number(1.5), json_number(float("-inf")), json_number(float("nan"))
    (1.5, '-Infinity', 'NaN')
    """
    if math.isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def parsed_json(text: str, what: str) -> Any:
    """What a text holds.

    Args:
        text: JSON.
        what: it is, for errors.

    Raises:
        PlanError: it is not JSON, or an object in it has an entry twice.

    >>> parsed_json('{"a": 1, "a": 2}', "the plan")
    Traceback (most recent call last):
    precc.errors.PlanError: the plan names 'a' twice
    """
    try:
        return json.loads(text, object_pairs_hook=partial(_without_duplicates, what=what))
    except PlanError:
        raise
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{what} is not JSON: {error}") from None


def _without_duplicates(pairs: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        twice = sorted({key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1})
        raise PlanError(f"{what} names {twice[0]!r} twice")
    return entries
