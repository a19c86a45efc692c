"""The rows of a report in another order, or some of them."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from precc.errors import PlanError, expected_one_of
from precc.formats import parse_format
from precc.report.error_figures import ErrorFigures
from precc.report.layer_row import LayerRow
from precc.report.slot_row import SlotRow

__all__ = ["kept_rows", "sorted_rows"]


def sorted_rows(
    rows: Sequence[LayerRow], slots: Sequence[SlotRow], column: str
) -> tuple[tuple[LayerRow, ...], tuple[SlotRow, ...]]:
    """Numbers from the largest, names from A, what is not known last; slots follow their ops where they have no such.

    Raises:
        PlanError: there is no such column.
    """
    if column not in _KEYS:
        raise PlanError(f"a report is not sorted by {column!r}: {expected_one_of(_KEYS)}")
    key = _KEYS[column]
    ordered = tuple(sorted(rows, key=lambda row: _place(key(row))))
    place = {row.name: number for number, row in enumerate(ordered)}
    own = _SLOT_KEYS.get(column)
    if own is not None:
        return ordered, tuple(sorted(slots, key=lambda row: (_place(own(row)), place.get(row.slot.op, len(place)))))
    return ordered, tuple(sorted(slots, key=lambda row: place.get(row.slot.op, len(place))))


def kept_rows(
    rows: Sequence[LayerRow], slots: Sequence[SlotRow], layer: str | None, op: str | None, format: str | None
) -> tuple[tuple[LayerRow, ...], tuple[SlotRow, ...]]:
    """The ops that fit all patterns, with their slots.

    Raises:
        FormatError: an unknown format.
    """
    wanted = None if format is None else parse_format(format).name
    having = {row.slot.op for row in slots if row.format == wanted}
    kept = tuple(
        row
        for row in rows
        if (layer is None or fnmatchcase(row.layer, layer))
        and (op is None or fnmatchcase(row.op, op))
        and (wanted is None or row.name in having)
    )
    names = {row.name for row in kept}
    return kept, tuple(row for row in slots if row.slot.op in names)


def _gradient(own: ErrorFigures | None) -> float | None:
    return None if own is None else own.gradient


_KEYS: dict[str, Callable[[LayerRow], Any]] = {
    "predicted": lambda row: _gradient(row.predicted),
    "measured": lambda row: _gradient(row.measured),
    "cost": lambda row: row.cost,
    "share": lambda row: row.share,
    "multiply_adds": lambda row: row.multiply_adds,
    "condition": lambda row: row.condition,
    "amax": lambda row: row.amax,
    "layer": lambda row: row.layer,
    "op": lambda row: row.op,
}

_SLOT_KEYS: dict[str, Callable[[SlotRow], Any]] = {
    "predicted": lambda row: _gradient(row.predicted),
    "measured": lambda row: _gradient(row.measured),
    "condition": lambda row: row.condition,
    "amax": lambda row: None if row.values is None else row.values.amax,
}


def _place(value: Any) -> tuple[bool, Any]:
    unknown = value is None or value != value
    if unknown:
        return True, 0.0
    return False, value if isinstance(value, str) else -value
