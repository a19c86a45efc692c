"""The JSON form of a report: strict, with what is no finite number as text."""

import json
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from precc.errors import DataError, PreccError
from precc.history import TEXT_COLUMNS, History
from precc.plan import PrecisionPlan
from precc.slots import Slot
from precc.strict_json import NOT_FINITE, json_number, parsed_json

__all__ = ["arguments_of", "text_of"]

#: Version of the JSON form; a reader refuses any other.
_VERSION = 1

_HEAD = "precc_report"
#: Whole numbers from which on are no counts.
_BEYOND = 2**63


def text_of(report: Any) -> str:
    """A report as text."""
    document = {_HEAD: _VERSION, **_written(report)}
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def arguments_of(text: str | bytes, kind: type[Any], where: str = "the report") -> dict[str, Any]:
    """The arguments of a `PrecisionReport` that a text holds.

    Args:
        text: JSON, UTF-8.
        kind: of the report.
        where: the text is from, for errors.

    Raises:
        DataError: not JSON, not a report, of another version, or malformed; the message names the entry.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode()
        document = parsed_json(decoded, where)
    except (UnicodeDecodeError, PreccError) as error:
        raise DataError(f"{where!r} is no report, which is JSON: {error}") from error
    if not isinstance(document, dict) or _HEAD not in document:
        raise DataError(f"{where!r} is no report: it has no {_HEAD!r} version")
    version = document.pop(_HEAD)
    if type(version) is not int or version != _VERSION:
        raise DataError(f"{where!r} is of version {version!r}; this precc reads version {_VERSION}")
    return _arguments(kind, document, where)


def _written(value: Any) -> Any:
    if type(value) in (str, int, bool, type(None)):
        return value  # of most
    if isinstance(value, Slot):
        return value.name
    if isinstance(value, PrecisionPlan):
        return json.loads(value.to_json())
    if isinstance(value, History):
        return _written(value.to_json())
    if is_dataclass(value):
        return {own.name: _written(getattr(value, own.name)) for own in fields(value)}
    if isinstance(value, dict):
        return {name: _written(own) for name, own in value.items()}
    if isinstance(value, (tuple, list)):
        return [_written(own) for own in value]
    return json_number(value) if isinstance(value, float) else value


def _arguments(kind: type[Any], document: Any, where: str) -> dict[str, Any]:
    """Of a dataclass, by its fields."""
    _require(isinstance(document, dict), where, document, f"a {kind.__name__}")
    known = {own.name: own for own in fields(kind)}
    strange = [name for name in document if name not in known]
    if strange:
        raise DataError(f"{where} has an unknown entry {strange[0]!r:.60}")
    needed = [name for name, own in known.items() if own.default is MISSING and own.default_factory is MISSING]
    lacking = [name for name in needed if name not in document]
    if lacking:
        raise DataError(f"{where} has no entry {lacking[0]!r}")
    types = _types(kind)  # type: ignore[arg-type]  # a class is hashable
    return {name: _read(types[name], own, f"{where}.{name}") for name, own in document.items()}


@lru_cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        if value is None and type(None) in arguments:
            return None
        return _read(next(own for own in arguments if own is not type(None)), value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if kind in _READERS:
        return _own(kind, value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return kind(**_arguments(kind, value, where))
    return _plain(kind, value, where)


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _require(isinstance(value, list), where, value, "a list")
    kinds = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
    _require(len(kinds) == len(value), where, value, f"a list of {len(kinds)}")
    return tuple(_read(own, part, f"{where}[{k}]") for k, (own, part) in enumerate(zip(kinds, value, strict=True)))


def _own(kind: Any, value: Any, where: str) -> Any:
    """What has a form of its own."""
    try:
        return _READERS[kind](value)
    except (PreccError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float:
        return _float(value, where)
    _require(type(value) is kind, where, value, f"of the type {kind.__name__}")
    _require(kind is not int or abs(value) < _BEYOND, where, value, "a number of 63 bits")
    return value


def _float(value: Any, where: str) -> float:
    known = type(value) is float or (type(value) is int and abs(value) < _BEYOND)
    _require(known or (isinstance(value, str) and value in NOT_FINITE), where, value, "a number")
    return NOT_FINITE[value] if isinstance(value, str) else float(value)


def _require(holds: bool, where: str, value: Any, what: str) -> None:
    if not holds:
        raise DataError(f"{where} is {value!r:.60}, where {what} was expected")


def _history(value: Any) -> History:
    rows = [{name: _number(name, own) for name, own in row.items()} for row in value["rows"]]
    return History.from_json({**value, "rows": rows})


def _number(name: str, value: Any) -> Any:
    """What may be no finite number, as it was."""
    return value if name in TEXT_COLUMNS else NOT_FINITE.get(value, value)


_READERS: dict[Any, Any] = {
    Slot: Slot.parse,
    PrecisionPlan: lambda value: PrecisionPlan.from_json(json.dumps(value)),
    History: _history,
}
