"""The JSON form of what an exported file says of itself: read strictly, a round trip is exact."""

import json
from typing import Any

from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.flavors import FLAVORS
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.errors import PlanError, expected_one_of
from precc.plan import PrecisionPlan
from precc.plan_json import malformed_as_plan_error, precision_from_json, precision_to_json
from precc.slots import Slot
from precc.strict_json import parsed_json

__all__ = ["DOCUMENT_FORMAT", "DOCUMENT_VERSION", "document_from_json", "document_to_json"]

#: What the entry ``format`` says.
DOCUMENT_FORMAT = "precc.onnx"

#: Version of the JSON form; a reader refuses any other.
DOCUMENT_VERSION = 1

_ENTRIES = ("format", "version", "flavor", "opset", "plan", "places")
_PLACE = ("precision", "axis", "channel", "node", "result", "source", "rounded", "stored", "facts")
_PRECISION = ("format", "rounding", "scaling", "transform")
_OPTIONAL = ("stored", "facts")
_TEXTS = ("node", "source", "rounded", "stored")


def document_to_json(document: OnnxDocument) -> str:
    """A document as text; facts that are not finite are text in it."""
    entries = {
        "format": DOCUMENT_FORMAT,
        "version": DOCUMENT_VERSION,
        "flavor": document.flavor,
        "opset": document.opset,
        "plan": json.loads(document.plan.to_json()),
        "places": {slot: _place_to_json(place) for slot, place in document.places.items()},
    }
    return json.dumps(entries, indent=1, allow_nan=False) + "\n"


def document_from_json(text: str) -> OnnxDocument:
    """The document that a text holds.

    Raises:
        PlanError: not JSON, not such a document, of another version, or malformed.
    """
    entries = _entries_of(text)
    with malformed_as_plan_error("the document"):
        if not isinstance(entries["flavor"], str) or entries["flavor"] not in FLAVORS:
            raise PlanError(f"the document has the flavor {entries['flavor']!r}: {expected_one_of(FLAVORS)}")
        places = entries["places"]
        if not isinstance(places, dict):
            raise PlanError(f"the document is malformed: 'places' is {places!r:.60}, not an object by slot")
        return OnnxDocument(
            flavor=entries["flavor"],
            opset=_whole(entries["opset"], "'opset'"),
            plan=PrecisionPlan.from_json(json.dumps(entries["plan"])),
            places={slot: _place_from_json(slot, place) for slot, place in places.items()},
        )


def _place_to_json(place: SlotPlace) -> dict[str, Any]:
    rounding = place.rounding
    return {
        "precision": precision_to_json(rounding.precision),
        "axis": rounding.axis,
        "channel": rounding.channel,
        "node": place.node,
        "result": place.result,
        "source": place.source,
        "rounded": place.rounded,
        **({"stored": place.stored} if place.stored else {}),
        **({"facts": {name: _written(value) for name, value in place.facts.items()}} if place.facts else {}),
    }


def _place_from_json(slot: str, entries: Any) -> SlotPlace:
    with malformed_as_plan_error(f"the place of {slot!r}"):
        Slot.parse(slot)  # or it says why it names none
    _require(entries, _PLACE, _OPTIONAL, f"the place of {slot!r}")
    texts = {name: entries.get(name, "") if name == "stored" else entries[name] for name in _TEXTS}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise PlanError(f"the document is malformed: {name!r} of {slot!r} is {value!r}, not text")
    if type(entries["result"]) is not bool:
        raise PlanError(f"the document is malformed: 'result' of {slot!r} is {entries['result']!r}, not true or false")
    facts = entries.get("facts", {})
    if not isinstance(facts, dict):
        raise PlanError(f"the document is malformed: 'facts' of {slot!r} is {facts!r:.60}, not an object by name")
    if isinstance(entries["precision"], dict):
        _require(entries["precision"], _PRECISION, _PRECISION[2:], f"the precision of {slot!r}")
    with malformed_as_plan_error(f"the precision of {slot!r}"):
        precision = precision_from_json(entries["precision"])
    axes = {name: _whole(entries[name], f"{name!r} of {slot!r}") for name in ("axis", "channel")}
    return SlotPlace(
        rounding=SlotRounding(slot=slot, precision=precision, **axes),
        result=entries["result"],
        facts={name: _number(value, f"{name!r} of {slot!r}") for name, value in facts.items()},
        **texts,
    )


def _written(value: float) -> float | str:
    return value if abs(value) < float("inf") else str(value)


def _number(value: Any, what: str) -> float:
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise PlanError(f"the document is malformed: {what} is {value!r:.60}, not a number")


def _whole(value: Any, what: str) -> int:
    if type(value) is not int:
        raise PlanError(f"the document is malformed: {what} is {value!r:.60}, not a whole number")
    return value


def _require(entries: Any, known: tuple[str, ...], optional: tuple[str, ...], what: str) -> None:
    """Refuse what is no object, has other entries, or lacks one."""
    if not isinstance(entries, dict):
        raise PlanError(f"{what} is malformed: {entries!r:.60}, not an object")
    if unknown := sorted(set(entries) - set(known)):
        raise PlanError(f"{what} has an unknown entry {unknown[0]!r}: {expected_one_of(known)}")
    if missing := [name for name in known if name not in entries and name not in optional]:
        raise PlanError(f"{what} has no entry {missing[0]!r}")


def _entries_of(text: str) -> dict[str, Any]:
    entries = parsed_json(text, "the document of the ONNX file")
    if not isinstance(entries, dict) or entries.get("format") != DOCUMENT_FORMAT:
        raise PlanError(f"the JSON is not the document of an ONNX file: it has no 'format' {DOCUMENT_FORMAT!r}")
    version = entries.get("version")
    if type(version) is not int or version != DOCUMENT_VERSION:
        raise PlanError(f"the document is of version {version!r}; this precc reads version {DOCUMENT_VERSION}")
    _require(entries, _ENTRIES, (), "the document")
    return entries
