"""Formats as data: derived facts against the standards, names, and bad input."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch

from precc.errors import FormatError
from precc.formats import ALIASES, FORMATS, FloatFormat, Specials, parse_format

ML_DTYPES = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float6_e3m2fn": ml_dtypes.float6_e3m2fn,
    "float6_e2m3fn": ml_dtypes.float6_e2m3fn,
    "float4_e2m1fn": ml_dtypes.float4_e2m1fn,
    "e3m4": ml_dtypes.float8_e3m4,
}


@pytest.mark.parametrize("name", ML_DTYPES)
def test_derived_facts_are_those_of_ml_dtypes(name: str) -> None:
    fmt, info = parse_format(name), ml_dtypes.finfo(ML_DTYPES[name])
    assert fmt.bits == info.bits
    assert fmt.max == float(info.max)
    assert fmt.smallest_normal == float(info.smallest_normal)
    assert fmt.smallest_subnormal == float(info.smallest_subnormal)
    assert 2 * fmt.unit_roundoff == float(info.eps)


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
def test_derived_facts_are_those_of_torch(name: str) -> None:
    fmt, info = FORMATS[name], torch.finfo(getattr(torch, name))
    assert (fmt.max, fmt.smallest_normal, 2 * fmt.unit_roundoff) == (info.max, info.smallest_normal, info.eps)


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_name_formats(alias: str) -> None:
    assert parse_format(alias) is FORMATS[ALIASES[alias]]


def test_one_spelling_for_one_format() -> None:
    assert parse_format("e5m10").name == "float16"
    assert parse_format("e8m7").name == "bfloat16"
    assert parse_format("E8M10").name == "tfloat32"
    assert parse_format("e4m5").name == "e4m5"


def test_any_exmy_is_ieee_like() -> None:
    fmt = parse_format("e3m4")
    assert fmt.has_inf
    assert fmt.max == 15.5
    assert repr(fmt) == "e3m4 (8 bits, bias 3, max 15.5)"


def test_the_bare_ocp_name_is_the_ocp_format() -> None:
    assert parse_format("e4m3") != FloatFormat(name="ieee", exponent_bits=4, mantissa_bits=3)
    assert parse_format("e4m3").max == 448
    assert FloatFormat(name="ieee", exponent_bits=4, mantissa_bits=3).max == 240


@pytest.mark.parametrize("name", ["", "fp8", "e4", "m3", "e0m3", "e1m2", "e9m2", "e8m24", "float8", "e4m3e", "e04m03"])
def test_unknown_names_are_errors_that_say_what_is_valid(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_format(name)
    assert "float8_e4m3fn" in str(caught.value) or "exponent bits" in str(caught.value)


@pytest.mark.parametrize("thing", [None, 8, torch.float16, ["e4m3"]])
def test_a_format_is_a_name(thing: object) -> None:
    with pytest.raises(FormatError, match="a format is a FloatFormat or its name"):
        parse_format(thing)  # type: ignore[arg-type]


def test_overflow_rules_need_their_code() -> None:
    assert parse_format("e4m3").with_overflow("nan").overflow.value == "nan"
    with pytest.raises(FormatError, match="no infinity"):
        parse_format("e4m3").with_overflow("inf")
    with pytest.raises(FormatError, match="no NaN"):
        parse_format("e2m1").with_overflow("nan")
    with pytest.raises(FormatError, match="'saturate', 'inf', 'nan'"):
        parse_format("e5m2").with_overflow("wrap")


def test_what_makes_no_format() -> None:
    assert FloatFormat(name="own", exponent_bits=4, mantissa_bits=3, specials="nan") == parse_format("e4m3")  # type: ignore[arg-type]
    for wrong in ({"mantissa_bits": 2.5}, {"exponent_bits": "4"}, {"exponent_bits": True}):
        with pytest.raises(FormatError, match="must be integers"):
            FloatFormat(**{"name": "own", "exponent_bits": 4, "mantissa_bits": 3, **wrong})  # type: ignore[arg-type]
    for specials in (Specials.NONE, Specials.NAN):
        with pytest.raises(FormatError, match="exponents up to 128"):
            FloatFormat(name="own", exponent_bits=8, mantissa_bits=3, specials=specials)
    with pytest.raises(FormatError, match="exponents up to 1024"):
        FloatFormat(name="own", exponent_bits=11, mantissa_bits=52, specials=Specials.NONE)


def test_formats_are_values() -> None:
    own = FloatFormat(name="mine", exponent_bits=4, mantissa_bits=3, specials=Specials.NAN)
    assert own == parse_format("e4m3")
    assert hash(own) == hash(parse_format("e4m3"))
    with pytest.raises(AttributeError):
        own.mantissa_bits = 2  # type: ignore[misc]
    assert all(math.isfinite(fmt.max) for fmt in FORMATS.values())
