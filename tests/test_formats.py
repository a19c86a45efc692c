"""Formats as data: derived facts against the standards, names, and bad input."""

from typing import Any

import gfloat
import ml_dtypes
import numpy as np
import pytest
import torch
from gfloat.formats import format_info_p3109

from precc.errors import FormatError
from precc.formats import (
    ALIASES,
    FORMATS,
    BlockFormat,
    FixedPoint,
    FloatFormat,
    NestedInteger,
    Scaling,
    Specials,
    parse_format,
)

ML_DTYPES = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float6_e3m2fn": ml_dtypes.float6_e3m2fn,
    "float6_e2m3fn": ml_dtypes.float6_e2m3fn,
    "float4_e2m1fn": ml_dtypes.float4_e2m1fn,
    "float8_e3m4": ml_dtypes.float8_e3m4,
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
    fmt = parse_format("e3m5")
    assert isinstance(fmt, FloatFormat)
    assert fmt.has_inf
    assert fmt.max == 15.75
    assert repr(fmt) == "e3m5 (9 bits, bias 3, max 15.75)"


def test_the_bare_ocp_name_is_the_ocp_format() -> None:
    assert parse_format("e4m3") != FloatFormat(name="ieee", exponent_bits=4, mantissa_bits=3)
    assert parse_format("e4m3").max == 448
    assert FloatFormat(name="ieee", exponent_bits=4, mantissa_bits=3).max == 240


@pytest.mark.parametrize(
    "name",
    [
        *("", "fp8", "e4", "m3", "e0m3", "e12m2", "e8m53", "float8", "e4m3e", "e04m03", "fixed0.0", "fixed54.1"),
        *(
            "fixed8",
            "fixed8.2000",
            "int0",
            "mx",
            "bfp8",
            "bfp1.16",
            "bfp8.0",
            "dfp1",
            "nested4.8",
            "nested8.0",
            "power1_1",
        ),
        *("power4_0.01", "power4_100", "qpytorch_e4", "binary8p0", "binary8p8", "binary8p9", "e99999999999m1"),
    ],
)
def test_unknown_names_are_errors_that_say_what_is_valid(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_format(name)
    valid = (
        "expected one of 'fp64'",
        "exponent bits",
        "no finite number",
        "bits",
        "power is from",
        "size of at least 1",
    )
    assert any(part in str(caught.value) for part in valid)


def test_a_name_that_is_nearly_right_is_told() -> None:
    with pytest.raises(FormatError, match="did you mean 'e4m3fnuz', 'e4m3'"):
        parse_format("e4m3fn")
    with pytest.raises(FormatError, match="'dfloat': expected one of"):
        parse_format("dfloat")
    with pytest.raises(FormatError, match=r"dtype \(torch.bfloat16\): write 'bfloat16'"):
        parse_format(torch.bfloat16)  # type: ignore[arg-type]


@pytest.mark.parametrize("thing", [None, 8, torch.float16, ["e4m3"]])
def test_a_format_is_a_name(thing: object) -> None:
    with pytest.raises(FormatError, match="a format is a Format or its name"):
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
    with pytest.raises(FormatError, match="to exponent 1024 go beyond float64"):
        FloatFormat(name="own", exponent_bits=11, mantissa_bits=52, specials=Specials.NONE)
    for bias in (-2000, 2000, 1040, -970):
        with pytest.raises(FormatError, match="beyond float64"):
            FloatFormat(name="own", exponent_bits=4, mantissa_bits=3, bias=bias)
    for wrong, message in (
        ({"bias": float("nan")}, "exponents allow"),
        ({"bias": 10**400}, "exponents allow"),
        ({"bias": "7"}, "exponents allow"),
        ({"exponent_bits": 1, "bias": 0, "subnormals": False}, "no finite number but zero"),
        ({"subnormals": 1}, "not True or False"),
        ({"signed": False, "specials": Specials.FNUZ}, "no code of -0"),
        ({"zero": False}, "unsigned and without subnormals"),
        ({"exponent_bits": 1, "mantissa_bits": 0}, "no finite number but zero"),
    ):
        with pytest.raises(FormatError, match=message):
            FloatFormat(**{"name": "own", "exponent_bits": 4, "mantissa_bits": 3, **wrong})  # type: ignore[arg-type]


def test_what_makes_no_other_format() -> None:
    for word, fraction in ((0, 0), (54, 0), (8, 2000), (8, -2000), (8.0, 1), (8, "4")):
        with pytest.raises(FormatError, match="'own'"):
            FixedPoint(name="own", word=word, fraction=fraction)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="no most negative value"):
        FixedPoint(name="own", word=8, fraction=0, signed=False, symmetric=True)
    for high, low in ((8, 9), (54, 2), (4, 0), (8, 2.0)):
        with pytest.raises(FormatError, match="low bits"):
            NestedInteger(name="own", high_bits=high, low_bits=low)  # type: ignore[arg-type]
    element, scaling = parse_format("e4m3"), Scaling("tensor")
    with pytest.raises(FormatError, match="single values"):
        BlockFormat(name="own", element=parse_format("mxfp8"), scaling=scaling)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="is a Scaling"):
        BlockFormat(name="own", element=element, scaling="tensor")  # type: ignore[arg-type]
    real = FloatFormat(name="real", exponent_bits=2, mantissa_bits=1, bias=0.5)
    with pytest.raises(FormatError, match="real-valued bias"):
        BlockFormat(name="own", element=real, scaling=scaling)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("blocks",), "unknown granularity 'blocks'"),
        (("block",), "size of at least 1"),
        (("block", 0), "size of at least 1"),
        (("block", (4, 4)), "size of at least 1"),
        (("block", 2**31), "size of at least 1"),
        (("tile", (4, 0)), "size of at least 1"),
        (("tile", (4, 4, 4)), "size of at least 1"),
        (("tensor", 4), "has no size"),
        (("tensor", None, {"rule": "up"}), "unknown rule 'up'"),
        (("tensor", None, {"scale_format": "e4m3", "rule": "floor"}), "powers of two"),
        (("tensor", None, {"scale_format": "int8"}), "a scale is a float"),
        (("tensor", None, {"two_level": True}), "goes with the rule 'nearest'"),
        (("tensor", None, {"axis": 1.0}), "axis is the number"),
        (("tensor", None, {"value": 2.0}), "goes with 'static'"),
        (("static",), "'static' with a value"),
        (("static", None, {"value": 0.0}), "a positive number"),
        (("static", None, {"value": float("inf")}), "a positive number"),
    ],
)
def test_what_makes_no_scaling(arguments: tuple[Any, ...], message: str) -> None:
    granularity, size, options = (*arguments, None, {})[:3] if len(arguments) < 3 else arguments
    with pytest.raises(FormatError, match=message):
        Scaling(granularity, size=size, **(options or {}))


CODES = {
    **ML_DTYPES,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
}


@pytest.mark.parametrize("name", [name for name in CODES if FORMATS[name].bits <= 8])
def test_every_code_decodes_as_in_ml_dtypes(name: str) -> None:
    fmt = FORMATS[name]
    assert isinstance(fmt, FloatFormat)
    codes = np.arange(2**fmt.bits, dtype=np.uint8)
    theirs = codes.view(CODES[name]).astype(np.float64)
    ours = np.array([fmt.decode(int(code)) for code in codes])
    assert np.array_equal(ours, theirs, equal_nan=True)
    assert np.array_equal(np.signbit(ours[ours == 0]), np.signbit(theirs[theirs == 0]))
    assert fmt.finite_codes == np.isfinite(theirs).sum()


@pytest.mark.parametrize("name", [f"binary8p{p}{u}{f}" for p in range(1, 9) for u in ("", "u") for f in ("", "f")])
def test_every_code_of_p3109_decodes_as_in_gfloat(name: str) -> None:
    precision, unsigned, finite = int(name[8]), "u" in name[9:], "f" in name[9:]
    if precision == 8 and not unsigned:
        return  # a sign and eight bits of significand are nine
    info = format_info_p3109(
        8,
        precision,
        gfloat.Signedness.Unsigned if unsigned else gfloat.Signedness.Signed,
        gfloat.Domain.Finite if finite else gfloat.Domain.Extended,
    )
    fmt = parse_format(name)
    assert isinstance(fmt, FloatFormat)
    theirs = [gfloat.decode_float(info, code).fval for code in range(256)]
    assert np.array_equal([fmt.decode(code) for code in range(256)], theirs, equal_nan=True)


def test_fixed_point_codes_are_twos_complement() -> None:
    fmt = parse_format("fixed8.4")
    assert isinstance(fmt, FixedPoint)
    codes = np.arange(256, dtype=np.uint8)
    assert [fmt.decode(int(code)) for code in codes] == (codes.view(np.int8) / 16).tolist()
    with pytest.raises(FormatError, match="none of the 256 codes"):
        fmt.decode(256)


def test_the_ocp_tables() -> None:
    """OFP8 1.0, table 2, and MX 1.0, tables 1 to 7: largest, smallest normal and smallest subnormal values, bits."""
    table = {
        "e4m3": (448, 2**-6, 2**-9),
        "e5m2": (57344, 2**-14, 2**-16),
        "e3m2": (28, 2**-2, 2**-4),
        "e2m3": (7.5, 1, 2**-3),
        "e2m1": (6, 1, 2**-1),
    }
    for name, facts in table.items():
        fmt = parse_format(name)
        assert isinstance(fmt, FloatFormat)
        assert (fmt.max, fmt.smallest_normal, fmt.smallest_subnormal) == facts
    assert parse_format("e8m0").low == 2.0**-127  # type: ignore[union-attr]
    assert parse_format("e8m0").max == 2.0**127  # type: ignore[union-attr]
    for name, element, size in (
        ("mxfp8", "e4m3", 32),
        ("mxfp6", "e2m3", 32),
        ("mxfp4", "e2m1", 32),
        ("nvfp4", "e2m1", 16),
    ):
        block = parse_format(name)
        assert isinstance(block, BlockFormat)
        assert block.element == parse_format(element)
        assert block.scaling.size == (1, size)
    assert [parse_format(name).bits for name in ("mxfp8", "mxint8", "mxfp6", "mxfp4", "nvfp4")] == [
        *(8.25, 8.25, 6.25, 4.25, 4.5)
    ]


def test_formats_are_values() -> None:
    own = FloatFormat(name="mine", exponent_bits=4, mantissa_bits=3, specials=Specials.NAN)
    assert own == parse_format("e4m3")
    assert hash(own) == hash(parse_format("e4m3"))
    with pytest.raises(AttributeError):
        own.mantissa_bits = 2  # type: ignore[misc]
    assert all(hash(fmt) == hash(parse_format(name)) for name, fmt in FORMATS.items())


@pytest.mark.parametrize(
    ("name", "meant"), [("fp8", "'e4m3', 'e5m2'"), ("half", "'fp16'"), ("FP4", "'e2m1', 'nvfp4', 'mxfp4'")]
)
def test_names_that_people_give_formats_are_told_by_ours(name: str, meant: str) -> None:
    with pytest.raises(FormatError, match=f"did you mean {meant}\\?"):
        parse_format(name)


def test_dtypes_without_a_format_are_not_told_as_names() -> None:
    with pytest.raises(FormatError, match=r"\(torch.complex64\)$"):
        parse_format(torch.complex64)  # type: ignore[arg-type]
