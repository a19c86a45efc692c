"""The JSON form of a plan's provenance."""

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from precc.analysis.error_estimate import ErrorEstimate, StandardErrors
from precc.analysis.unknown_slots import UnknownSlots
from precc.cost.plan_cost import PlanCost
from precc.errors import PlanError
from precc.plan_json import refuse_unknown
from precc.provenance import Provenance

__all__ = ["provenance_from_json", "provenance_to_json"]


def provenance_to_json(own: Provenance) -> dict[str, Any]:
    """As an object; without what a plan has not that no analysis made. Numbers that are not finite are text."""
    found = {name: value for name, value in asdict(own).items() if value is not None}
    document: dict[str, Any] = _written(found)
    return document


def provenance_from_json(document: Any) -> Provenance:
    """What an object holds.

    Raises:
        PlanError: something else than `provenance_to_json` writes.
    """
    refuse_unknown(document, tuple(own.name for own in fields(Provenance)))
    entries = dict(document)
    for name in ("policy", "budget", "analysis"):
        if not isinstance(entries.get(name, ""), str):
            raise PlanError(f"the plan is malformed: its {name} is {entries[name]!r}, not text")
    error, cost = entries.get("predicted_error"), entries.get("cost")
    entries["predicted_error"] = None if error is None else _error(error)
    entries["cost"] = None if cost is None else _made(PlanCost, {**cost, "value": _number(cost["value"])})
    return Provenance(**entries)


def _error(document: Any) -> ErrorEstimate:
    refuse_unknown(document, tuple(own.name for own in fields(ErrorEstimate)))
    sure = {name: _number(value) for name, value in document["standard_error"].items()}
    unknown = {name: tuple(map(str, value)) for name, value in document.get("unknown", {}).items()}
    numbers = {name: _number(document[name]) for name in ("loss_mean", "loss", "gradient", "lost")}
    return ErrorEstimate(**numbers, standard_error=_made(StandardErrors, sure), unknown=_made(UnknownSlots, unknown))


def _made(kind: Callable[..., Any], entries: Any) -> Any:
    refuse_unknown(entries, tuple(own.name for own in fields(kind)))  # type: ignore[arg-type]  # a dataclass
    return kind(**entries)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise PlanError(f"the plan is malformed: {value!r} stands where a number was expected")
    return float(value)


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _written(own) for name, own in value.items()}
    if isinstance(value, (tuple, list)):
        return [_written(own) for own in value]
    return str(value) if isinstance(value, float) and value - value != 0 else value  # infinite or NaN
