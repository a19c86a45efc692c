"""The names of formats: a registry, short spellings, and families.

Names follow ml_dtypes, the OCP specifications (OFP8 1.0, 2023; Microscaling Formats MX 1.0, 2023), the IEEE P3109
interim report (2025) and, for its semantics, QPyTorch.
"""

import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache

from precc.errors import FormatError, expected_one_of
from precc.formats.block_format import BlockFormat, ElementFormat, Format
from precc.formats.fixed_point import FixedPoint, NestedInteger
from precc.formats.float_format import FloatFormat, Specials
from precc.formats.power_law import PowerLaw
from precc.formats.scaling import Scaling

__all__ = ["ALIASES", "FAMILIES", "FORMATS", "format_of_dtype", "parse_format"]

_FLOATS = (
    FloatFormat(name="float64", exponent_bits=11, mantissa_bits=52),
    FloatFormat(name="float32", exponent_bits=8, mantissa_bits=23),
    FloatFormat(name="tfloat32", exponent_bits=8, mantissa_bits=10),
    FloatFormat(name="bfloat16", exponent_bits=8, mantissa_bits=7),
    FloatFormat(name="float16", exponent_bits=5, mantissa_bits=10),
    FloatFormat(name="float8_e5m2", exponent_bits=5, mantissa_bits=2),
    FloatFormat(name="float8_e5m2fnuz", exponent_bits=5, mantissa_bits=2, specials=Specials.FNUZ, bias=16),
    FloatFormat(name="float8_e4m3fn", exponent_bits=4, mantissa_bits=3, specials=Specials.NAN),
    FloatFormat(name="float8_e4m3fnuz", exponent_bits=4, mantissa_bits=3, specials=Specials.FNUZ, bias=8),
    FloatFormat(name="float8_e4m3b11fnuz", exponent_bits=4, mantissa_bits=3, specials=Specials.FNUZ, bias=11),
    FloatFormat(name="float8_e3m4", exponent_bits=3, mantissa_bits=4),
    FloatFormat(
        name="float8_e8m0fnu",
        exponent_bits=8,
        mantissa_bits=0,
        specials=Specials.NAN,
        subnormals=False,
        signed=False,
        zero=False,
    ),
    FloatFormat(name="float8_ue5m3", exponent_bits=5, mantissa_bits=3, specials=Specials.NAN, signed=False),
    FloatFormat(name="float6_e3m2fn", exponent_bits=3, mantissa_bits=2, specials=Specials.NONE),
    FloatFormat(name="float6_e2m3fn", exponent_bits=2, mantissa_bits=3, specials=Specials.NONE),
    FloatFormat(name="float4_e2m1fn", exponent_bits=2, mantissa_bits=1, specials=Specials.NONE),
)

_INTEGERS = (
    FixedPoint(name="int16", word=16, fraction=0),
    FixedPoint(name="int8", word=8, fraction=0),
    FixedPoint(name="int4", word=4, fraction=0),
)

#: What people call formats that have more than one, or another, name.
_COMMON = {
    "fp8": ["e4m3", "e5m2"],
    "fp6": ["e2m3", "e3m2"],
    "fp4": ["e2m1", "nvfp4", "mxfp4"],
    "half": ["fp16"],
    "float": ["fp32"],
    "single": ["fp32"],
    "double": ["fp64"],
}

#: Short spellings. The bare OCP names mean the OCP formats: ``e4m3`` is ``float8_e4m3fn``.
ALIASES: dict[str, str] = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "tfloat32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "e5m2": "float8_e5m2",
    "e5m2fnuz": "float8_e5m2fnuz",
    "e4m3": "float8_e4m3fn",
    "e4m3fnuz": "float8_e4m3fnuz",
    "e4m3b11fnuz": "float8_e4m3b11fnuz",
    "e3m4": "float8_e3m4",
    "e8m0": "float8_e8m0fnu",
    "ue5m3": "float8_ue5m3",
    "e3m2": "float6_e3m2fn",
    "e2m3": "float6_e2m3fn",
    "e2m1": "float4_e2m1fn",
    "mxfp8": "mxfp8_e4m3",
    "mxfp6": "mxfp6_e2m3",
    "mxfp4": "mxfp4_e2m1",
}


def _blocks() -> tuple[BlockFormat, ...]:
    by_name = {fmt.name: fmt for fmt in _FLOATS}
    mx = Scaling("block", size=32, scale_format=by_name["float8_e8m0fnu"])
    nv = Scaling("block", size=16, scale_format=by_name["float8_e4m3fn"], two_level=True)
    return (
        BlockFormat(name="mxfp8_e5m2", element=by_name["float8_e5m2"], scaling=mx),
        BlockFormat(name="mxfp8_e4m3", element=by_name["float8_e4m3fn"], scaling=mx),
        BlockFormat(name="mxint8", element=FixedPoint(name="fixed8.6", word=8, fraction=6), scaling=mx),
        BlockFormat(name="mxfp6_e3m2", element=by_name["float6_e3m2fn"], scaling=mx),
        BlockFormat(name="mxfp6_e2m3", element=by_name["float6_e2m3fn"], scaling=mx),
        BlockFormat(name="nvfp4", element=by_name["float4_e2m1fn"], scaling=nv),
        BlockFormat(name="mxfp4_e2m1", element=by_name["float4_e2m1fn"], scaling=mx),
    )


#: The named formats. `FAMILIES` has those that take numbers in their names.
FORMATS: dict[str, Format] = {}


def _ieee_like(name: str, exponent_bits: str, mantissa_bits: str) -> Format:
    return FloatFormat(name=name, exponent_bits=int(exponent_bits), mantissa_bits=int(mantissa_bits))


def _qpytorch(name: str, exponent_bits: str, mantissa_bits: str) -> Format:
    return FloatFormat(
        name=name, exponent_bits=int(exponent_bits), mantissa_bits=int(mantissa_bits), specials=Specials.NONE
    )


def _p3109(name: str, precision: str, unsigned: str, finite: str) -> Format:
    exponent_bits = 8 - int(precision) + bool(unsigned)
    return FloatFormat(
        name=name,
        exponent_bits=exponent_bits,
        mantissa_bits=int(precision) - 1,
        specials=Specials.P3109_FINITE if finite else Specials.P3109_EXTENDED,
        bias=2 ** (exponent_bits - 1),
        signed=not unsigned,
    )


def _fixed(name: str, word: str, fraction: str) -> Format:
    return FixedPoint(name=name, word=int(word), fraction=int(fraction))


def _integer(name: str, word: str) -> Format:
    return FixedPoint(name=name, word=int(word), fraction=0)


def _nested(name: str, high: str, low: str) -> Format:
    return NestedInteger(name=name, high_bits=int(high), low_bits=int(low))


def _power(name: str, word: str, power: str) -> Format:
    return PowerLaw(name=name, word=int(word), power=float(power))


def _shared_exponent(word: str) -> ElementFormat:
    width = int(word)
    if width < 2:
        raise FormatError(f"integers with a shared exponent have at least 2 bits, not {width}")
    return FixedPoint(name=f"fixed{width}.{width - 2}", word=width, fraction=width - 2)


def _block_float(name: str, word: str, size: str) -> Format:
    return BlockFormat(name=name, element=_shared_exponent(word), scaling=Scaling("block", size=int(size)))


def _dynamic_fixed(name: str, word: str) -> Format:
    return BlockFormat(name=name, element=_shared_exponent(word), scaling=Scaling("tensor"))


_N = r"(0|[1-9]\d{0,8})"

#: Families of formats: how they are written, what that means, the pattern, the maker.
FAMILIES: dict[str, tuple[str, str, Callable[..., Format]]] = {
    "e<X>m<Y>": ("a float like those of IEEE 754, with infinities and NaN", rf"e{_N}m{_N}", _ieee_like),
    "qpytorch_e<X>m<Y>": (
        "a float without infinities and NaN that saturates, as QPyTorch's",
        rf"qpytorch_e{_N}m{_N}",
        _qpytorch,
    ),
    "binary8p<P>[u][f]": (
        "IEEE P3109: precision P from 1 to 8; u unsigned, f without infinities",
        r"binary8p([1-8])(u?)(f?)",
        _p3109,
    ),
    "fixed<W>.<F>": (
        "fixed point, W bits in all, F of them after the point",
        rf"fixed{_N}\.(-?(?:0|[1-9]\d{{0,8}}))",
        _fixed,
    ),
    "int<W>": ("integers of W bits", rf"int{_N}", _integer),
    "nested<H>.<L>": ("integers of L bits, rounded from H bits", rf"nested{_N}\.{_N}", _nested),
    "power<B>_<a>": ("values +-(i/n)**(1/a) in B bits", rf"power{_N}_(\d+(?:\.\d+)?)", _power),
    "bfp<W>.<N>": ("block floating point: N integers of W bits share an exponent", rf"bfp{_N}\.{_N}", _block_float),
    "dfp<W>": ("dynamic fixed point: all integers of a tensor share an exponent", rf"dfp{_N}", _dynamic_fixed),
}


@lru_cache(maxsize=1024)
def _parse_name(name: str) -> Format:
    key = name.strip().lower()
    key = ALIASES.get(key, key)
    if key in FORMATS:
        return FORMATS[key]
    for _, pattern, make in FAMILIES.values():
        parts = re.fullmatch(pattern, key)
        if parts is not None:
            fmt = make(key, *parts.groups())
            return next((named for named in FORMATS.values() if named == fmt), fmt)
    near = _COMMON.get(key) or get_close_matches(key, [*ALIASES, *FORMATS], n=3, cutoff=0.8)
    hint = f"did you mean {', '.join(map(repr, near))}? " if near else ""
    short = {fmt: alias for alias, fmt in ALIASES.items()}
    known = expected_one_of(short.get(fmt, fmt) for fmt in FORMATS)
    raise FormatError(f"unknown format {name!r}: {hint}{known}; or one of the families {', '.join(FAMILIES)}")


def parse_format(fmt: Format | str) -> Format:
    """The format that a name means; a format is returned as it is.

    Raises:
        FormatError: the name is unknown; the message lists the valid ones.

    >>> parse_format("bf16").name, parse_format("e5m10").name, parse_format("E4M3").max
    ('bfloat16', 'float16', 448.0)
    >>> parse_format("qpytorch_e4m3").max, parse_format("fixed8.4").low, parse_format("nvfp4").bits
    (480.0, -8.0, 4.5)
    """
    if isinstance(fmt, Format):
        return fmt
    if not isinstance(fmt, str):
        same = format_of_dtype(fmt)
        hint = f": write {same.name!r}" if same is not None else ""
        raise FormatError(f"a format is a Format or its name, not {type(fmt).__name__} ({fmt!r}){hint}")
    return _parse_name(fmt)


def format_of_dtype(dtype: object) -> Format | None:
    """The format that has the name of a torch dtype; None if none has, or it is no dtype.

    >>> import torch
    >>> format_of_dtype(torch.bfloat16).name, format_of_dtype(torch.complex64), format_of_dtype("bfloat16")
    ('bfloat16', None, None)
    """
    name = str(dtype)
    return FORMATS.get(name.removeprefix("torch.")) if name.startswith("torch.") else None


_ALL: tuple[Format, ...] = (*_FLOATS, *_INTEGERS, *_blocks())
FORMATS.update({fmt.name: fmt for fmt in _ALL})
