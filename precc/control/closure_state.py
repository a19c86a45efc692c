"""Checks of what a closure optimizer is to go on from."""

from collections.abc import Mapping, Sequence
from typing import Any

from precc.errors import PlanError
from precc.plan import PrecisionPlan

__all__ = ["checked_closure_state"]


def checked_closure_state(
    own: Any, entries: Sequence[str], levels: Sequence[PrecisionPlan], name: str, entry: str
) -> Mapping[str, Any]:
    """An entry of a state_dict that can be loaded.

    Args:
        own: it.
        entries: that it must have, and no others.
        levels: plans of the optimizer.
        name: of its class.
        entry: key of the entry.

    Raises:
        PlanError: it is of another optimizer, of other levels, or damaged.
    """
    if not isinstance(own, Mapping) or set(own) != set(entries):
        raise PlanError(f"the state_dict is not one of {name}: it has no whole {entry!r} entry")
    if [PrecisionPlan.from_json(text) for text in own["levels"]] != list(levels):
        raise PlanError(f"the state_dict is of a {name} with other levels: pass the same levels first")
    counts = own["events"].values() if isinstance(own["events"], Mapping) else [None]
    whole = all(type(count) is int and count >= 0 for count in (own["level"], own["steps"], *counts))
    if not whole or own["level"] >= max(1, len(levels)):
        shown = {key: own[key] for key in ("level", "steps", "events")}
        raise PlanError(f"the state_dict has a level, steps or events that cannot be: {shown}")
    return own
