"""The JSON form of precisions: read strictly, written so that a round trip is exact."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from typing import Any

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import parse_accumulator
from precc.accumulation.product_arithmetic import ProductArithmetic
from precc.accumulation.sums import Sums
from precc.accumulation.two_passes import TwoPasses
from precc.errors import FormatError, PlanError, expected_one_of
from precc.formats import (
    ALIASES,
    FORMATS,
    BlockFormat,
    FixedPoint,
    FloatFormat,
    Format,
    NestedInteger,
    PowerLaw,
    Scaling,
    parse_format,
)
from precc.precision import Precision
from precc.rounding import Rounding, parse_rounding

__all__ = [
    "accumulator_from_json",
    "malformed_as_plan_error",
    "precision_from_json",
    "precision_to_json",
    "refuse_unknown",
    "sums_from_json",
    "sums_to_json",
]

#: The entry of a product in two passes, where an accumulator could be.
_TWO_PASSES = "two_passes"

_KINDS: dict[str, type[Format]] = {
    "float": FloatFormat,
    "fixed_point": FixedPoint,
    "nested_integer": NestedInteger,
    "power_law": PowerLaw,
    "block": BlockFormat,
}


@contextmanager
def malformed_as_plan_error(what: str) -> Iterator[None]:
    """Turn what goes wrong while a document is read into a PlanError, with the cause."""
    try:
        yield
    except PlanError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise PlanError(f"{what} is malformed: {type(error).__name__}: {error}") from error


def refuse_unknown(document: Any, known: tuple[str, ...]) -> None:
    """Raise PlanError where something else than an object with these entries stands."""
    if not isinstance(document, dict):
        raise PlanError(f"the plan is malformed: {document!r} stands where an object with {known} was expected")
    unknown = sorted(set(document) - set(known))
    if unknown:
        raise PlanError(f"the plan has an unknown entry {unknown[0]!r}: {expected_one_of(known)}")


def precision_to_json(precision: Precision) -> dict[str, Any]:
    """A precision as an object."""
    document = {"format": _format_to_json(precision.format), "rounding": str(precision.rounding)}
    if precision.scaling is not None:
        document["scaling"] = _fields_to_json(precision.scaling)
    if precision.transform is not None:
        document["transform"] = precision.transform.value
    return document


def precision_from_json(document: Any) -> Precision:
    """A precision from an object, or from the name of a format.

    Raises:
        PlanError, FormatError: it is none.
    """
    if isinstance(document, str):
        return Precision.of(document)
    refuse_unknown(document, ("format", "rounding", "scaling", "transform"))
    scaling = document.get("scaling")
    return Precision(
        _format_from_json(document["format"]),
        parse_rounding(document["rounding"]),
        None if scaling is None else _scaling_from_json(scaling),
        document.get("transform"),
    )


def sums_to_json(sums: Sums | None) -> dict[str, Any] | None:
    """An accumulator as an object, or two passes; None is the tensors' own arithmetic."""
    if not isinstance(sums, TwoPasses):
        return None if sums is None else _fields_to_json(sums)
    both = {name: _arithmetic_to_json(getattr(sums, name)) for name in ("low", "high")}
    chosen = {"tau": _infinite_as_text(sums.tau)} if sums.channels is None else {"channels": list(sums.channels)}
    return {_TWO_PASSES: {**both, **chosen, "activation": sums.activation, "numerator": sums.numerator.value}}


def sums_from_json(document: Any) -> Sums | None:
    """What an object means that `sums_to_json` wrote, or the name of an accumulator or format.

    Raises:
        PlanError, FormatError: it is none.
    """
    if not isinstance(document, dict) or _TWO_PASSES not in document:
        return accumulator_from_json(document)
    refuse_unknown(document, (_TWO_PASSES,))
    own = document[_TWO_PASSES]
    refuse_unknown(own, ("low", "high", "tau", "channels", "activation", "numerator"))
    if missing := [name for name in ("low", "high") if name not in own]:
        raise PlanError(f"the plan is malformed: two passes without {missing[0]!r}")
    low, high = (_arithmetic_from_json(own[name]) for name in ("low", "high"))
    tau, channels = own.get("tau"), own.get("channels")
    return TwoPasses(
        low,
        high,
        tau=math.inf if tau == "inf" else tau,
        channels=None if channels is None else tuple(channels),
        **{name: own[name] for name in ("activation", "numerator") if name in own},
    )


def _arithmetic_to_json(own: ProductArithmetic) -> dict[str, Any]:
    return {"operands": precision_to_json(own.operands), "accumulator": _fields_to_json(own.accumulator)}


def _arithmetic_from_json(document: Any) -> ProductArithmetic:
    if isinstance(document, str):
        return ProductArithmetic.of(document)
    refuse_unknown(document, ("operands", "accumulator"))
    accumulator = accumulator_from_json(document["accumulator"])
    if accumulator is None:
        raise PlanError("the plan is malformed: a pass has no accumulator")
    return ProductArithmetic(precision_from_json(document["operands"]), accumulator)


def _infinite_as_text(number: float | None) -> float | str | None:
    return "inf" if number == math.inf else number


def accumulator_from_json(document: Any) -> Accumulator | None:
    """An accumulator from an object, from its name, or from the name of a format.

    Raises:
        PlanError, FormatError: it is none.
    """
    if document is None or isinstance(document, str):
        return None if document is None else parse_accumulator(document)
    refuse_unknown(document, tuple(entry.name for entry in fields(Accumulator)))
    entries = dict(document)
    for name in ("format", "product"):
        if entries.get(name) is not None:
            entries[name] = _format_from_json(entries[name])
    if entries.get("operands") is not None:
        operands = entries["operands"]
        if not isinstance(operands, list) or len(operands) != 2:
            raise PlanError(f"the plan is malformed: an accumulator has the operands {operands!r}, not two formats")
        entries["operands"] = tuple(_format_from_json(fmt) for fmt in operands)
    entries["inner"] = accumulator_from_json(entries.get("inner"))
    return Accumulator(**entries)


def _fields_to_json(value: Any) -> dict[str, Any]:
    return {entry.name: _value_to_json(getattr(value, entry.name)) for entry in fields(value)}


def _value_to_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_value_to_json(entry) for entry in value]
    if isinstance(value, Rounding):
        return str(value)
    if isinstance(value, Format):
        return _format_to_json(value)
    if isinstance(value, (Accumulator, Scaling)):
        return _fields_to_json(value)
    return value.value if isinstance(value, Enum) else value


def _format_to_json(fmt: Format) -> str | dict[str, Any]:
    try:
        if parse_format(fmt.name) == fmt:
            return fmt.name
    except FormatError:
        pass  # a format of the user's own: its name alone does not say what it is
    _refuse_other_meaning(fmt)
    kind = next(name for name, kind in _KINDS.items() if type(fmt) is kind)
    return {"kind": kind, **_fields_to_json(fmt)}


def _format_from_json(document: Any) -> Format:
    if not isinstance(document, dict):
        return parse_format(document)
    entries = dict(document)
    kind = _KINDS.get(entries.pop("kind", "float"))
    if kind is None:
        raise PlanError(f"the plan has a format of kind {document['kind']!r}: {expected_one_of(_KINDS)}")
    refuse_unknown(entries, tuple(entry.name for entry in fields(kind)))
    if "element" in entries:
        entries["element"] = _format_from_json(entries["element"])
    if "scaling" in entries:
        entries["scaling"] = _scaling_from_json(entries["scaling"])
    if not isinstance(entries.get("name"), str):
        raise PlanError(f"the plan is malformed: a format has the name {entries.get('name')!r}")
    make: Callable[..., Format] = kind
    fmt = make(**entries)
    _refuse_other_meaning(fmt)
    return fmt


def _refuse_other_meaning(fmt: Format) -> None:
    named = FORMATS.get(ALIASES.get(fmt.name, fmt.name))
    if isinstance(named, FloatFormat) and isinstance(fmt, FloatFormat):
        named = named.with_overflow(fmt.overflow)
    if named is not None and named != fmt:
        raise PlanError(f"the plan calls a format of its own {fmt.name!r}, which means another ({named}): rename it")


def _scaling_from_json(document: Any) -> Scaling:
    refuse_unknown(document, tuple(entry.name for entry in fields(Scaling)))
    entries = dict(document)
    granularity = entries.pop("granularity")
    size_entry = entries.pop("size", [1, 1])
    if not isinstance(size_entry, list) or len(size_entry) != 2:
        raise PlanError(f"the plan is malformed: the size of a group is {size_entry!r}, not [rows, columns]")
    rows, columns = size_entry
    size = {"block": columns, "tile": (rows, columns)}.get(granularity)
    value = entries.pop("value", None)
    scale_format = _format_from_json(entries.pop("scale_format", "e8m0"))
    if not isinstance(scale_format, FloatFormat):
        raise PlanError(f"the plan is malformed: a scale cannot have the format {scale_format.name!r}")
    static = value if granularity == "static" else None
    scaling = Scaling(granularity, size=size, value=static, scale_format=scale_format, **entries)
    for name, own in _fields_to_json(scaling).items():
        if name in document and name != "scale_format" and own != document[name]:
            raise PlanError(f"the plan has a scaling by {granularity} with {name} {document[name]!r}; expected {own!r}")
    return scaling
