"""Documents of records as the classes say: each entry has its type, and an error names the one that has not."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from precc.errors import AnalysisError, PreccError, expected_one_of
from precc.formats import Granularity
from precc.plan_json import precision_from_json
from precc.precision import Precision
from precc.slots import Slot

__all__ = ["SHORT", "read_as", "require"]

#: Fields that are written as float32 and read as float64: estimates, whose first digits count.
SHORT = {
    "AccumulatorSample": ("loss", "gradient", "weights"),
    "FlipSample": ("ratios", "squares"),
    "LossSums": ("slopes", "curvatures", "lost", "moments", "squares"),
    "SlotAdjoints": ("loss", "gradient"),
    "ValueSample": ("weights",),
}

_PLAIN: dict[Any, tuple[Callable[[Any], bool], str]] = {
    str: (lambda value: isinstance(value, str), "a text"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (lambda value: type(value) is int and abs(value) < 2**53, "a whole number"),
    float: (lambda value: type(value) is float or (type(value) is int and abs(value) < 2**53), "a number"),
    Tensor: (lambda value: _is_plain_tensor(value), "a tensor of real numbers"),
}

#: What is written by its name or as JSON: the entry of its document, and what reads it.
_NAMED: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    Slot: ("name", Slot.parse),
    Precision: ("json", precision_from_json),
    Granularity: ("value", Granularity),
}


def require(holds: bool, where: str, value: Any, what: str) -> None:
    """Raise AnalysisError, which says where what should stand, and what does."""
    if not holds:
        shown = f"a tensor of {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.60}"
        raise AnalysisError(f"{where} is {shown}, not {what}")


def read_as(hint: Any, value: Any, where: str) -> Any:
    """What a document means where something of this type stands.

    Raises:
        AnalysisError: it is none of that type; the message names the entry.
    """
    if hint in _PLAIN:
        holds, what = _PLAIN[hint]
        require(holds(value), where, value, what)
        return value
    if hint in _NAMED:
        return _named(hint, value, where)
    if is_dataclass(hint):
        return _record(hint, value, where)
    origin, parts = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return None if value is None else read_as(parts[0], value, where)
    return _pairs(parts, value, where) if origin is Mapping else _list(parts, value, where)


def _list(parts: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    require(isinstance(value, list), where, value, "a list")
    of = (parts[0],) * len(value) if parts[-1] is Ellipsis else parts
    require(len(value) == len(of), where, value, f"a list of {len(of)}")
    return tuple(read_as(part, own, f"{where}[{k}]") for k, (part, own) in enumerate(zip(of, value, strict=True)))


def _pairs(parts: tuple[Any, ...], value: Any, where: str) -> dict[Any, Any]:
    key, own = parts
    pairs = _entry(value, "pairs", "pairs", where)
    require(isinstance(pairs, list), where, pairs, "a list of pairs")
    found = {}
    for k, pair in enumerate(pairs):
        require(isinstance(pair, list) and len(pair) == 2, f"{where}[{k}]", pair, "a pair")
        name = read_as(key, pair[0], f"{where}[{k}][0]")
        require(name not in found, f"{where}[{k}][0]", pair[0], "another one than those before")
        found[name] = read_as(own, pair[1], f"{where}[{name!r}]" if key is str else f"{where}[{k}][1]")
    return found


def _named(kind: Any, value: Any, where: str) -> Any:
    entry, read = _NAMED[kind]
    text = _entry(value, kind.__name__, entry, where)
    require(isinstance(text, (str, dict) if kind is Precision else str), where, text, f"what a {kind.__name__} is")
    try:
        return read(text)
    except (PreccError, ValueError, KeyError, TypeError) as error:
        raise AnalysisError(f"{where}.{entry}: {error}") from error


def _entry(value: Any, kind: str, entry: str, where: str) -> Any:
    is_one = isinstance(value, dict) and value.get("") == kind and entry in value
    require(is_one, where, value, f"a {kind}" if kind != "pairs" else "a table")
    return value[entry]


def _record(kind: Any, value: Any, where: str) -> Any:
    is_one = isinstance(value, dict) and value.get("") == kind.__name__
    require(is_one, where, value, f"a {kind.__name__}")
    known = {own.name: own for own in fields(kind) if own.init}
    for name in value:
        if name and name not in known:
            raise AnalysisError(f"{where} has an unknown entry {name!r:.60}: {expected_one_of(known)}")
    for name, own in known.items():
        if name not in value and own.default is MISSING and own.default_factory is MISSING:
            raise AnalysisError(f"{where} has no entry {name!r}")
    types, short = _types(kind), SHORT.get(kind.__name__, ())
    found = {name: read_as(types[name], value[name], f"{where}.{name}") for name in known if name in value}
    return kind(**{name: own.double() if name in short and own is not None else own for name, own in found.items()})


@lru_cache
def _types(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_plain_tensor(value: Any) -> bool:
    known = isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"
    return known and not (value.is_complex() or value.is_quantized or value.dtype is torch.bool)
