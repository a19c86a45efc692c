"""The choices of a report, as a page solves them, and how each is written in rules and in the JSON of a plan."""

import json
from collections.abc import Iterable
from typing import Any

from precc.assignment.candidates import CANDIDATES
from precc.errors import FormatError
from precc.plan import PrecisionPlan
from precc.plan_json import precision_to_json
from precc.precision import Precision
from precc.report.choice_table import ChoiceTable
from precc.report.page.format_list import FormatList, format_of_label
from precc.report.page.packed import packed
from precc.report.short_names import short_formats
from precc.rounding import NEAREST_EVEN

__all__ = ["choice_payload", "plan_payload"]

#: The largest number up to which JavaScript has every integer.
_EXACT = 2**53


def choice_payload(table: ChoiceTable, plan: PrecisionPlan, formats: FormatList) -> dict[str, Any]:
    """The table, exact, as arrays [groups, choices]; a choice whose label is of no known precision has no text."""
    known = _by_label(plan.default, *plan.slots.values(), *CANDIDATES)
    chosen = [_precision(label, known) for label in table.labels]
    return {
        "labels": list(table.labels),
        "short": [short_formats(label) for label in table.labels],
        "formats": [formats.number(format_of_label(label)) for label in table.labels],
        "bits": list(table.bits),
        "unit": table.unit,
        "rules": [None if own is None else _arguments(own) for own in chosen],
        "json": [None if own is None else precision_to_json(own) for own in chosen],
        "slots": [list(group.slots) for group in table.groups],
        "chosen": [-1 if group.chosen is None else group.chosen for group in table.groups],
        "costs": packed([group.costs for group in table.groups], "f8"),
        "loss": packed([group.loss for group in table.groups], "f8"),
        "gradient": packed([group.gradient for group in table.groups], "f8"),
    }


def plan_payload(plan: PrecisionPlan) -> dict[str, Any]:
    """The plan's document, without where it comes from, and without work that JavaScript would round."""
    document: dict[str, Any] = json.loads(plan.to_json())
    del document["provenance"]
    document["multiply_adds"] = {name: own for name, own in document["multiply_adds"].items() if own <= _EXACT}
    return document


def _by_label(*precisions: Precision) -> dict[str, Precision]:
    return {str(own): own for own in reversed(precisions)}


def _precision(label: str, known: dict[str, Precision]) -> Precision | None:
    if label in known:
        return known[label]
    try:
        return Precision.of(label)
    except FormatError:  # of the user's own, of which a label alone does not say what it is
        return None


def _arguments(own: Precision) -> str:
    return ", ".join(_said(own))


def _said(own: Precision) -> Iterable[str]:
    yield f"format={own.format.name!r}"
    if own.rounding != NEAREST_EVEN:
        yield f"rounding={str(own.rounding)!r}"
    if own.scaling is not None:
        yield f"scaling=precc.{own.scaling!r}"
    if own.transform is not None:
        yield f"transform={own.transform.value!r}"
