"""The JSON form of a whole plan."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from precc.errors import PlanError
from precc.loss_scaling import LossScaling
from precc.plan_json import (
    malformed_as_plan_error,
    precision_from_json,
    precision_to_json,
    refuse_unknown,
    sums_from_json,
    sums_to_json,
)
from precc.provenance_json import provenance_from_json, provenance_to_json
from precc.rule_json import rules_from_json, rules_to_json
from precc.slots import UPDATES
from precc.strict_json import parsed_json
from precc.update_formats import UpdateFormats

if TYPE_CHECKING:
    from precc.plan import PrecisionPlan

__all__ = ["PLAN_VERSION", "arguments_of", "text_of"]

#: Version of the JSON form; a reader refuses any other.
PLAN_VERSION = 1

_ENTRIES = (
    "precc_plan",
    "default",
    "slots",
    "default_accumulator",
    "accumulators",
    "rules",
    "multiply_adds",
    "provenance",
    "default_result",
    "default_update",
    "loss_scaling",
)


def text_of(plan: "PrecisionPlan") -> str:
    """A plan as text; without entries for rules, results, updates and loss scaling if it has none."""
    document = {
        "precc_plan": PLAN_VERSION,
        "default": precision_to_json(plan.default),
        "slots": {name: precision_to_json(own) for name, own in sorted(plan.slots.items())},
        "default_accumulator": sums_to_json(plan.default_accumulator),
        "accumulators": {name: sums_to_json(own) for name, own in sorted(plan.accumulators.items())},
        **({} if plan.default_result is None else {"default_result": precision_to_json(plan.default_result)}),
        **({"default_update": _updates_to_json(plan.default_update)} if plan.default_update else {}),
        **({} if plan.loss_scaling is None else {"loss_scaling": asdict(plan.loss_scaling)}),
        **({"rules": rules_to_json(plan.rules)} if plan.rules else {}),
        "multiply_adds": dict(sorted(plan.multiply_adds.items())),
        "provenance": provenance_to_json(plan.provenance),
    }
    return json.dumps(document, indent=1) + "\n"


def arguments_of(text: str) -> dict[str, Any]:
    """The arguments of `PrecisionPlan` that a text holds.

    Raises:
        PlanError: not JSON, not a plan, of another version, or malformed.
    """
    document = _document_of(text)
    with malformed_as_plan_error("the plan"):
        refuse_unknown(document, _ENTRIES)
        for name in ("default", "slots"):
            if name not in document:
                raise PlanError(f"the plan has no entry {name!r}")
        for name in ("slots", "accumulators", "multiply_adds"):
            if not isinstance(document.get(name, {}), dict):
                raise PlanError(f"the plan is malformed: {name!r} is {document[name]!r:.60}, not an object by slot")
        sums: Mapping[str, Any] = document.get("accumulators", {})
        stored = document.get("default_result")
        return {
            "default": precision_from_json(document["default"]),
            "slots": {str(name): precision_from_json(own) for name, own in document["slots"].items()},
            "multiply_adds": dict(document.get("multiply_adds", {}).items()),
            "provenance": provenance_from_json(document.get("provenance", {})),
            "default_accumulator": sums_from_json(document.get("default_accumulator")),
            "accumulators": {name: sums_from_json(own) for name, own in sums.items()},
            "rules": rules_from_json(document.get("rules", [])),
            "default_result": None if stored is None else precision_from_json(stored),
            "default_update": _updates_from_json(document.get("default_update")),
            "loss_scaling": _scaling_from_json(document.get("loss_scaling")),
        }


def _updates_to_json(updates: UpdateFormats) -> dict[str, Any]:
    return {what: precision_to_json(own) for what, own in updates}


def _updates_from_json(document: Any) -> UpdateFormats | None:
    if document is None:
        return None
    refuse_unknown(document, UPDATES)
    return UpdateFormats(**{what: precision_from_json(own) for what, own in document.items()})


def _scaling_from_json(document: Any) -> LossScaling | None:
    if document is None:
        return None
    refuse_unknown(document, tuple(LossScaling.__slots__))
    return LossScaling(**document)


def _document_of(text: str) -> dict[str, Any]:
    document = parsed_json(text, "the plan")
    if not isinstance(document, dict) or "precc_plan" not in document:
        raise PlanError("the JSON is not a plan: it has no 'precc_plan' version")
    version = document["precc_plan"]
    if type(version) is not int or version != PLAN_VERSION:
        raise PlanError(f"the plan is of version {version!r}; this precc reads version {PLAN_VERSION}")
    return document
