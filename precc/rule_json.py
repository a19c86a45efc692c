"""The JSON form of rules: what a rule does not set has no entry."""

from typing import Any

from precc.errors import PlanError
from precc.plan_json import (
    accumulator_from_json,
    malformed_as_plan_error,
    precision_from_json,
    precision_to_json,
    refuse_unknown,
    sums_to_json,
)
from precc.precision import Precision
from precc.rule import Rule

__all__ = ["rules_from_json", "rules_to_json"]

_PATTERNS = ("path", "role", "family", "operand")
_PRECISION = ("format", "rounding", "scaling", "transform")
_ENTRIES = (*_PATTERNS, "keep", *_PRECISION, "accumulator", "required", "inside")


def rules_to_json(rules: tuple[Rule, ...]) -> list[dict[str, Any]]:
    """Rules as objects, in their order."""
    return [_rule_to_json(rule) for rule in rules]


def rules_from_json(documents: Any) -> tuple[Rule, ...]:
    """Rules from a list of objects.

    Raises:
        PlanError: they are none.
    """
    if not isinstance(documents, list):
        raise PlanError(f"rules are malformed: {documents!r} stands where a list of rules was expected")
    with malformed_as_plan_error("a rule"):
        return tuple(_rule_from_json(document) for document in documents)


def _rule_to_json(rule: Rule) -> dict[str, Any]:
    document = {name: getattr(rule, name) for name in _PATTERNS if getattr(rule, name) is not None}
    if rule.precision is not None:
        chosen = precision_to_json(rule.precision)
        document |= chosen if rule.keep is None else {"keep": chosen["format"]}
    if rule.accumulator is not None:
        document["accumulator"] = sums_to_json(rule.accumulator)
    return document | {name: False for name in ("required", "inside") if not getattr(rule, name)}


def _rule_from_json(document: Any) -> Rule:
    refuse_unknown(document, _ENTRIES)
    entries = dict(document)
    if "keep" in entries:
        entries["keep"] = _precision(format=entries["keep"]).format
    if "format" in entries:
        own = _precision(**{name: entries[name] for name in _PRECISION if name in entries})
        entries |= {name: getattr(own, name) for name in _PRECISION}
    if "accumulator" in entries:
        entries["accumulator"] = accumulator_from_json(entries["accumulator"])
    return Rule(**entries)


def _precision(**entries: Any) -> Precision:
    return precision_from_json({"rounding": "nearest_even", **entries})
