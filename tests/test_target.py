"""Targets: which pairs, scales and sums each machine has, and what the others are told."""

import itertools
import pickle
import re
from collections.abc import Sequence
from typing import Any

import pytest

from precc import Accumulator, FloatFormat, Scaling
from precc.accumulation.named import ACCUMULATORS, parse_accumulator
from precc.assignment.candidates import ACCUMULATOR_CANDIDATES, CANDIDATES
from precc.cost.work import ProductWork
from precc.errors import FormatError, PlanError
from precc.formats import FORMATS
from precc.precision import Precision
from precc.slots import Slot
from precc.target import TARGETS, Target, parse_target

NATIVE = ("sm_80", "sm_89", "sm_90", "sm_100")
FP8 = ("float8_e4m3fn", "float8_e5m2")
NARROW = ("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", *FP8)
MX = ("mxfp4_e2m1", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2")
PLAIN = ("float64", "float32", "float16", "bfloat16")


def square(names: Sequence[str]) -> set[tuple[str, str]]:
    return set(itertools.product(names, repeat=2))


LEGAL = {"sm_80": {(name, name) for name in PLAIN}}
LEGAL["sm_89"] = LEGAL["sm_80"] | square(FP8)
LEGAL["sm_90"] = LEGAL["sm_89"] | {("tfloat32", "tfloat32")}
LEGAL["sm_100"] = LEGAL["sm_90"] | square(NARROW) | square(MX) | {("nvfp4", "nvfp4")}


def e4m3(scaling: Scaling | str | None = None) -> Precision:
    return Precision("e4m3", scaling=scaling)


def test_the_registry() -> None:
    assert set(TARGETS) == {"cpu-emulated", *NATIVE}
    assert [(own.alignment, own.layout) for own in TARGETS.values()] == [
        (1, "any"),
        (16, "any"),
        (16, "k-major"),
        (16, "k-major"),
        (16, "any"),
    ]
    for name, target in TARGETS.items():
        assert target.name == name
        assert parse_target(name) is parse_target(target) is target
        assert pickle.loads(pickle.dumps(target)) == target
    assert len(set(TARGETS.values())) == len(TARGETS)


@pytest.mark.parametrize("name", NATIVE)
def test_every_pair_of_named_formats(name: str) -> None:
    target = TARGETS[name]
    pairs = square(tuple(FORMATS))
    problems = {pair: target.pair_problem(*map(Precision, pair)) for pair in pairs}
    assert {pair for pair, problem in problems.items() if not problem} == LEGAL[name]
    assert all(problem.startswith(f"{name} multiplies ") for problem in problems.values() if problem)


@pytest.mark.parametrize("name", NATIVE)
def test_every_pair_of_candidates(name: str) -> None:
    for first, second in itertools.product(CANDIDATES, repeat=2):
        problem = TARGETS[name].pair_problem(first, second)
        assert bool(problem) is ((first.format.name, second.format.name) not in LEGAL[name])


def test_emulation_has_everything() -> None:
    target = TARGETS["cpu-emulated"]
    odd = Precision("e4m5", "stochastic", "row", "hadamard")
    precisions = [*map(Precision, FORMATS), *CANDIDATES, odd, Precision("power8_0.5", scaling="tensor")]
    for first, second in itertools.product(precisions, repeat=2):
        assert target.pair_problem(first, second) == ""
        assert not any(target.accumulator_problem(own, first, second) for own in ACCUMULATOR_CANDIDATES)


def test_what_is_said_of_pairs() -> None:
    problem = TARGETS["sm_80"].pair_problem(Precision("bf16"), e4m3())
    assert problem == "sm_80 multiplies bfloat16 by bfloat16, not by float8_e4m3fn"
    assert TARGETS["sm_80"].pair_problem(e4m3(), e4m3()) == "sm_80 multiplies no float8_e4m3fn"
    assert TARGETS["sm_89"].pair_problem(e4m3(), Precision("fp16")) == (
        "sm_89 multiplies float8_e4m3fn by float8_e4m3fn, float8_e5m2, not by float16"
    )
    assert TARGETS["sm_100"].pair_problem(Precision("nvfp4"), Precision("mxfp4")) == (
        "sm_100 multiplies nvfp4 by nvfp4, not by mxfp4_e2m1"
    )


def test_formats_are_their_grids() -> None:
    target = TARGETS["sm_89"]
    mine = Precision(FloatFormat(name="mine", exponent_bits=5, mantissa_bits=2))
    saturating = Precision(FloatFormat(name="", exponent_bits=5, mantissa_bits=2, overflow="saturate"))  # type: ignore[arg-type]  # parsed there
    for own in (mine, saturating, Precision("e5m2")):
        assert target.pair_problem(own, e4m3()) == target.pair_problem(e4m3(), own) == ""
    assert target.pair_problem(Precision("e5m2fnuz"), e4m3()) == "sm_89 multiplies no float8_e5m2fnuz"
    assert target.pair_problem(Precision("e4m3b11fnuz"), e4m3())


def test_elements_scaled_by_blocks_are_block_formats() -> None:
    blocks = e4m3(Scaling("block", size=32))
    assert TARGETS["sm_100"].pair_problem(blocks, Precision("mxfp6")) == ""
    assert TARGETS["sm_100"].pair_problem(blocks, e4m3()).endswith("not by float8_e4m3fn")
    assert TARGETS["sm_90"].pair_problem(blocks, blocks) == "sm_90 multiplies no float8_e4m3fn/block32"
    for other in (Scaling("block", size=16), Scaling("tile", size=(128, 128)), Scaling("block", size=32, axis=0)):
        assert TARGETS["sm_100"].pair_problem(e4m3(other), e4m3(other)).startswith("sm_100 multiplies no ")


@pytest.mark.parametrize("fmt", ["e4m3", "bf16"])
@pytest.mark.parametrize(
    ("scaling", "first"),
    [
        ("tensor", "sm_80"),
        (Scaling("tensor", scale_format="float32", history=4), "sm_80"),
        (Scaling("static", value=2.0), "sm_80"),
        ("row", "sm_90"),
        ("channel", "sm_90"),
    ],
)
def test_scales(fmt: str, scaling: Scaling | str, first: str) -> None:
    own, plain = Precision(fmt, scaling=scaling), Precision(fmt)
    for name in NATIVE[1:] if fmt == "e4m3" else NATIVE:
        legal = NATIVE.index(name) >= NATIVE.index(first)
        for pair in ((own, plain), (plain, own)):
            problem = TARGETS[name].pair_problem(*pair)
            assert problem == "" if legal else problem.startswith(f"{own}: {name} scales by static, tensor, not by ")


def test_what_is_said_of_scales_roundings_and_transforms() -> None:
    sm_89, plain = TARGETS["sm_89"], e4m3()
    assert sm_89.pair_problem(plain, e4m3("row")) == ("float8_e4m3fn/row: sm_89 scales by static, tensor, not by row")
    unscaled = Target("bare", pairs=[("e4m3", "e4m3")])
    assert unscaled.pair_problem(e4m3("tensor"), plain).endswith("bare scales by nothing, not by tensor")
    for rounding in ("stochastic", "stochastic:8", "toward_zero", "nearest_away"):
        problem = sm_89.pair_problem(plain, Precision("e4m3", rounding))
        assert problem.endswith(f": sm_89 rounds operands to nearest even; {rounding} is emulation")
        assert sm_89.pair_problem(Precision("e4m3", rounding), plain) == problem
    for transform in ("hadamard", "shift_and_squeeze"):
        problem = sm_89.pair_problem(Precision("e5m2", transform=transform), plain)
        assert problem.endswith(f": sm_89 has no transforms of operands; {transform} is emulation")


@pytest.mark.parametrize("name", NATIVE)
def test_every_sum_of_every_pair(name: str) -> None:
    target = TARGETS[name]
    choices = {**ACCUMULATORS, **{str(own): own for own in ACCUMULATOR_CANDIDATES}}
    for (first, second), (which, own) in itertools.product(LEGAL[name], choices.items()):
        legal = own is None or (which == first == second == "float16")
        if name == "sm_90" and own is not None and own.operand_formats is not None:
            legal = tuple(fmt.name for fmt in own.operand_formats) == (first, second)
        assert (target.accumulator_problem(own, Precision(first), Precision(second)) == "") is legal


def test_scaled_operands_are_summed_like_others() -> None:
    own = ACCUMULATORS["hopper_fp8_e4m3_e5m2"]
    pair = (e4m3("row"), Precision("e5m2", scaling="tensor"))
    assert TARGETS["sm_90"].accumulator_problem(own, *pair) == ""
    assert TARGETS["sm_90"].accumulator_problem(own.transposed, *pair)


def test_what_is_said_of_sums() -> None:
    half, bf16 = parse_accumulator("fp16"), Precision("bf16")
    assert TARGETS["sm_80"].accumulator_problem(half, bf16, bf16) == (
        "sm_80 sums in float16 only products float16 x float16, not bfloat16 x bfloat16"
    )
    assert TARGETS["sm_80"].accumulator_problem(Accumulator(format="bf16"), bf16, bf16) == (
        "sm_80 sums in bfloat16 only in emulation"
    )
    problem = TARGETS["sm_90"].accumulator_problem(ACCUMULATORS["hopper_fp8"], bf16, bf16)
    assert problem.endswith("only products float8_e4m3fn x float8_e4m3fn, not bfloat16 x bfloat16")


def test_targets_of_ones_own() -> None:
    mine = Target("mine", pairs=[("int8", "E4M3")], accumulators=[("bf16", "int8", "e4m3")])
    assert mine.pair_problem(Precision("int8"), e4m3()) == ""
    assert mine.pair_problem(e4m3(), Precision("int8")) == "mine multiplies no float8_e4m3fn"
    assert mine.accumulator_problem(Accumulator(format="bf16"), Precision("int8"), e4m3()) == ""
    assert parse_target(mine) is mine
    assert mine == Target("mine", pairs=[("int8", "float8_e4m3fn")], accumulators=[("bfloat16", "int8", "e4m3")])
    with pytest.raises(FormatError, match="unknown format 'e4m'"):
        Target("wrong", pairs=[("e4m", "e4m3")])
    with pytest.raises(FormatError, match="unknown accumulator 'hopper'"):
        Target("wrong", accumulators=[("hopper", "e4m3", "e4m3")])


@pytest.mark.parametrize("name", ["sm90", "", None, 90, ["sm_90"]])
def test_unknown_targets(name: str) -> None:
    names = "expected one of 'cpu-emulated', 'sm_80', 'sm_89', 'sm_90', 'sm_100'"
    with pytest.raises(PlanError, match=re.escape(f"unknown target {name!r}: {names}; or a precc.target.Target")):
        parse_target(name)


def test_rows_of_narrow_formats_are_aligned() -> None:
    slots = tuple(Slot.parse(f"fc/product/fprop.{operand}") for operand in ("input", "weight"))
    e4m3, half = Precision("e4m3"), Precision("fp16")
    for terms, own, legal in ((32, e4m3, True), (25, e4m3, False), (25, half, True)):
        work = ProductWork(slots, (terms, terms), terms, 1)
        problem = TARGETS["sm_90"].product_problem(work, own, own)
        assert ("rows of 16 bytes, not of 25 values" in problem) is not legal
        assert TARGETS["cpu-emulated"].product_problem(work, own, own) == ""
    assert "multiplies" in TARGETS["sm_90"].product_problem(work, e4m3, half)


def test_rows_of_the_second_operand_are_aligned_too() -> None:
    wide, narrow = Precision("bf16"), Precision("e4m3")
    own = Target("own", pairs=[("bf16", "e4m3"), ("e4m3", "bf16")], alignment=16)
    for terms, problem in ((24, "rows of 16 bytes"), (32, "")):
        slots = tuple(map(Slot.parse, ("fc/product/fprop.input", "fc/product/fprop.weight")))
        work = ProductWork(slots, (terms * 4, terms * 4), terms * 16, 16)
        for pair in ((wide, narrow), (narrow, wide)):
            found = own.product_problem(work, *pair)
            assert problem in found
            assert bool(found) is bool(problem)


@pytest.mark.parametrize(
    "options",
    [{"alignment": 0}, {"alignment": 1.5}, {"layout": "x"}, {"scalings": ["all"]}, {"alignment": True}],
)
def test_targets_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises((PlanError, FormatError)):
        Target("own", pairs=[("bf16", "bf16")], **options)


def test_a_target_may_emulate() -> None:
    own = TARGETS["sm_90"].emulating()
    assert own.name == "sm_90"
    assert own.pair_problem(Precision("e2m1", "stochastic"), Precision("e5m4")) == ""
