"""Which ONNX types hold the values of a format.

Some formats have a type of their own, which ``Cast`` reads. Of the others the codes are stored as integers, by which
``Gather`` looks the values up in a table.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from precc.backends.onnx.roundings.onnx_types import first_opset, width
from precc.backends.onnx.weights.storage import Codes, Floats, Integers, Storage
from precc.formats import FORMATS, ElementFormat, FixedPoint, FloatFormat, NestedInteger, PowerLaw

__all__ = ["NOT_READ", "native_storage", "storages_of"]

#: The types of floats, by the name of the format that has the same values.
_FLOAT_TYPES = {
    "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
    "float8_e4m3fn": "FLOAT8E4M3FN",
    "float8_e4m3fnuz": "FLOAT8E4M3FNUZ",
    "float8_e5m2": "FLOAT8E5M2",
    "float8_e5m2fnuz": "FLOAT8E5M2FNUZ",
    "float4_e2m1fn": "FLOAT4E2M1",
    "float8_e8m0fnu": "FLOAT8E8M0",
    "float6_e2m3fn": "FLOAT6E2M3",
    "float6_e3m2fn": "FLOAT6E3M2",
}

#: Those that onnxruntime 1.32 does not read on a CPU.
NOT_READ = ("FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2")

#: Beyond this number of bits a table of all values is too large to be of use.
_TABLE_BITS = 16


def native_storage(fmt: ElementFormat) -> Storage | None:
    """In the ONNX type that has the values of a format, and no others; None if none has.

    >>> from precc import parse_format
    >>> native_storage(parse_format("fixed8.4"))
    Integers(type='INT8', step=0.0625)
    >>> native_storage(parse_format("e4m3")).type, native_storage(parse_format("e3m4"))
    ('FLOAT8E4M3FN', None)
    """
    if isinstance(fmt, FixedPoint):
        has_all = fmt.word in (2, 4, 8, 16) and not fmt.symmetric
        return Integers(_integer_type(fmt.word, fmt.signed), fmt.quantum) if has_all else None
    if not isinstance(fmt, FloatFormat):
        return None
    same = (name for name in _FLOAT_TYPES if _has_values(FORMATS[name], fmt))
    type = next((_FLOAT_TYPES[name] for name in same), "")
    if not type:
        return None
    return Floats(type) if width(type) > 8 else Codes(type, _code_values(fmt))


def _has_values(known: object, fmt: FloatFormat) -> bool:
    return isinstance(known, FloatFormat) and known.with_overflow("saturate") == fmt.with_overflow("saturate")


def _integer_type(bits: int, signed: bool) -> str:
    return f"{'' if signed else 'U'}INT{bits}"


def storages_of(fmt: ElementFormat, opset: int) -> Sequence[Storage]:
    """Ways to store values of a format that an opset and onnxruntime can read; FLOAT, which holds all, is the last."""
    ways = [*_own_storages(fmt, opset), Floats("FLOAT16"), Floats("BFLOAT16"), Floats("FLOAT")]
    return [way for way in ways if way.opset <= opset and way.type not in NOT_READ]


def _own_storages(fmt: ElementFormat, opset: int) -> Sequence[Storage]:
    if isinstance(fmt, NestedInteger):
        fmt = fmt.stages[1]
    if isinstance(fmt, FixedPoint):
        bits = _narrowest(fmt.word, opset)
        return [Integers(_integer_type(bits, fmt.signed), fmt.quantum)] if bits else []
    if fmt.bits > _TABLE_BITS:
        return []
    native = native_storage(fmt)
    return [*([native] if native is not None else []), _table(_code_values(fmt), _narrowest(fmt.bits, opset))]


def _narrowest(bits: int, opset: int) -> int:
    """The width of the narrowest integers of an opset that have so many bits; 0 if none of 16 or fewer have."""
    return next((word for word in (2, 4, 8, 16) if word >= bits and first_opset(f"UINT{word}") <= opset), 0)


def _table(values: tuple[float, ...], bits: int) -> Storage:
    """With a code for NaN, if there is one left."""
    lacks_nan = len(values) < 2**bits and not any(math.isnan(value) for value in values)
    return Codes(f"UINT{bits}", (*values, math.nan) if lacks_nan else values)


@lru_cache(maxsize=64)
def _code_values(fmt: FloatFormat | PowerLaw) -> tuple[float, ...]:
    """The value of each code; those of a power law, whose source names none, are a sign and a number from 0."""
    if isinstance(fmt, PowerLaw):
        return (*fmt.values, *(-value for value in fmt.values))
    own = replace(fmt, bias=math.floor(fmt.bias))  # the rest of a real-valued bias is a scale
    return tuple(own.decode(code) for code in range(int(2**fmt.bits)))
