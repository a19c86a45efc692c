"""The JSON form of the figures of a device, read strictly."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

from precc.devices.timed_work import PairRate, TimedWork
from precc.errors import PlanError, expected_one_of

__all__ = ["arguments_of", "text_of"]

_VERSION = 1
_KINDS: dict[str, type[Any]] = {"rates": PairRate, "measurements": TimedWork}
_TEXTS = ("name", "kind", "target", "date")
_TABLES = ("versions", "missing")
_NUMBERS = ("bandwidth", "launch", "bandwidth_error")


def text_of(figures: Any) -> str:
    """A document of `DeviceFigures`, one measurement a line."""
    document = {"precc_device": _VERSION, **asdict(figures)}
    rows = {name: [json.dumps(row) for row in document[name]] for name in _KINDS}
    plain = {name: json.dumps(value) for name, value in document.items() if name not in rows}
    lists = {name: "[\n  " + ",\n  ".join(own) + "\n ]" if own else "[]" for name, own in rows.items()}
    entries = {name: {**plain, **lists}[name] for name in document}
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {value}" for name, value in entries.items()) + "\n}\n"


def arguments_of(text: str) -> dict[str, Any]:
    """The arguments of `DeviceFigures`.

    Raises:
        PlanError: the text is no such document; the message names the entry.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"no JSON: {error}") from error
    if not isinstance(document, dict) or "precc_device" not in document:
        raise PlanError("the entry 'precc_device' is missing, by which `precc calibrate` marks its files")
    if (version := document.pop("precc_device")) != _VERSION:
        raise PlanError(f"its version is {version!r}, not {_VERSION}: measure again with `precc calibrate`")
    _check_entries(document, (*_TEXTS, *_NUMBERS, *_TABLES, *_KINDS), "the file")
    for name in _TEXTS:
        _require(isinstance(document[name], str), name, document[name], "a text")
    for name in _TABLES:
        _require(_is_table(document[name]), name, document[name], "an object of texts")
    rows = {name: _rows(document[name], kind, name) for name, kind in _KINDS.items()}
    return {**document, **rows}


def _rows(document: Any, kind: type[Any], where: str) -> tuple[Any, ...]:
    _require(isinstance(document, list), where, document, "a list")
    return tuple(_row(own, kind, f"{where}[{k}]") for k, own in enumerate(document))


def _row(document: Any, kind: type[Any], where: str) -> Any:
    _require(isinstance(document, dict), where, document, "an object")
    _check_entries(document, tuple(own.name for own in fields(kind)), where)
    for name in {"first", "second", "name", "kind"} & set(document):
        _require(isinstance(document[name], str), f"{where}.{name}", document[name], "a text")
    own = dict(document)
    if "shape" in own:
        sizes = own["shape"]
        is_shape = isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes)
        _require(is_shape, f"{where}.shape", sizes, "a list of sizes")
        own["shape"] = tuple(sizes)
    make: Callable[..., Any] = kind
    try:
        return make(**own)
    except PlanError as error:
        raise PlanError(f"{where}: {error}") from None


def _check_entries(document: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in sorted(set(document) - set(known)):
        raise PlanError(f"{where} has an unknown entry {name!r}: {expected_one_of(known)}")
    for name in sorted(set(known) - set(document)):
        raise PlanError(f"{where} has no entry {name!r}")


def _require(holds: bool, where: str, value: Any, what: str) -> None:
    if not holds:
        raise PlanError(f"the entry {where} is {value!r:.60}, not {what}")


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(own, str) for own in value.values())
