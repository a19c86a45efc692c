"""JSON read strictly: an entry that stands twice is an error, where Python would take the last."""

import json
from functools import partial
from typing import Any

from precc.errors import PlanError

__all__ = ["parsed_json"]


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
