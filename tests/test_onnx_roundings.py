"""Portable roundings, bit for bit what precc computes.

References: precc.rounding.quantize, in onnxruntime, onnx.reference and, where QONNX means the same, its executor.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from precc import FORMATS, Scaling
from precc.backends.onnx.roundings.largest_power import largest_power
from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.roundings.portable import add_portable_rounding
from precc.backends.onnx.roundings.portable_problems import LEAST_OPSET, portable_problem
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.errors import BackendError
from precc.formats import FixedPoint, FloatFormat, Format, Overflow, Specials
from precc.precision import Precision
from precc.rounding import RoundingMode, quantize
from tests.few_always import few_always
from tests.onnx_graphs import by_onnxruntime, by_qonnx, by_reference, slot, whole

OPSETS = (LEAST_OPSET, 26)
MODES = ("nearest_even", "nearest_away", "toward_zero")
LEVELS = (0, 1, 2, 3, 99)  # of optimisation, in onnxruntime
FAMILIES = """e4m2 e3m1 e8m3 e5m0 e2m5 e6m20 qpytorch_e4m3 qpytorch_e3m9 fixed8.4 fixed8.-3 fixed32.16 fixed8.120
int2 int30 nested8.4 nested30.8 bfp6.16 dfp8 binary8p1u binary8p3 binary8p3f binary8p4u binary8p5f binary8p8uf"""
E4M3, E5M2, BFLOAT16 = (
    FloatFormat(name="e4m3", exponent_bits=4, mantissa_bits=3, specials=Specials.NAN),
    FloatFormat(name="e5m2", exponent_bits=5, mantissa_bits=2),
    FloatFormat(name="bfloat16", exponent_bits=8, mantissa_bits=7),
)
OWN: list[Format] = [
    FloatFormat(name="real_bias", exponent_bits=3, mantissa_bits=2, bias=2.6, specials=Specials.NONE),
    FloatFormat(name="large_values", exponent_bits=3, mantissa_bits=3, bias=-20, specials=Specials.NONE),
    FixedPoint(name="symmetric", word=6, fraction=3, symmetric=True),
    FixedPoint(name="unsigned", word=7, fraction=2, signed=False),
    E4M3.with_overflow("nan"),
    E5M2.with_overflow("nan"),
    E5M2.with_overflow("saturate"),
    BFLOAT16.with_overflow("saturate"),
]
ROUNDABLE: list[Format | str] = [*FORMATS.values(), *FAMILIES.split(), *OWN]

Array = NDArray[np.float32]


rounding = partial(slot, axis=0, operand="input")


def model_of(
    roundings: Sequence[SlotRounding], shape: Sequence[int | str], opset: int, cast: str = "FLOAT"
) -> onnx.ModelProto:
    """One output for each rounding of x; rounded in another type if that is said, and cast from and to FLOAT."""
    tape, x = Tape(), ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    n, outputs = NodeWriter(tape, opset, "test"), []
    for place in roundings:
        value = n.cast(x, cast) if cast != "FLOAT" else n.op("Identity", x)
        value = add_portable_rounding(tape, value, place, opset)
        outputs.append(n.cast(value, "FLOAT"))
    assert all(value.dtype and value.shape is not None for node in tape.nodes for value in node.outputs)
    assert len({value.name for value in tape.initializers}) == len(tape.initializers)
    return whole(tape, [x], outputs, opset)


def run(model: onnx.ModelProto, x: Array, level: int = 99) -> list[Array]:
    """By onnxruntime."""
    return [own.numpy() for own in by_onnxruntime(model, {"x": torch.from_numpy(x)}, level)]


def evaluated(model: onnx.ModelProto, x: Array) -> list[Array]:
    """By the reference evaluator."""
    return [own.numpy() for own in by_reference(model, {"x": torch.from_numpy(x)})]


def expected(place: SlotRounding, x: Array) -> Array:
    result: Array = quantize(torch.from_numpy(x.copy()), place.row).numpy()
    return result


def wrong(ours: Array, theirs: Array) -> NDArray[np.bool_]:
    different: NDArray[np.bool_] = ours.view(np.int32) != theirs.view(np.int32)
    return different & ~(np.isnan(ours) & np.isnan(theirs))


def assert_same(place: SlotRounding, x: Array, ours: Array) -> None:
    theirs = expected(place, x)
    assert ours.shape == theirs.shape
    bad = wrong(ours, theirs)
    assert not bad.any(), (str(place.precision), int(bad.sum()), x[bad][:4], ours[bad][:4], theirs[bad][:4])


@cache
def values(place: SlotRounding, count: int = 65536) -> Array:
    """So many distinct patterns of float32: what is special, ties of the format and their neighbours, and the rest.

    The rest is spread evenly over all patterns, NaN among them: of small counts too it has every exponent of both
    signs, for which there are more of them then.
    """
    exact = _exact(place)[: count // 2]
    rng, strata = np.random.default_rng(1), max(count, 512)
    start = np.arange(strata, dtype=np.uint64) * (2**32 // strata)
    even = np.setdiff1d((start + rng.integers(0, 2**32 // strata, strata, dtype=np.uint64)).astype(np.uint32), exact)
    wanted = min(max(count - len(exact), 512), len(even))
    chosen = even[np.linspace(0, len(even) - 1, wanted).astype(np.int64)]
    return np.concatenate([exact, chosen]).view(np.float32)


def _exact(place: SlotRounding) -> NDArray[np.uint32]:
    """Distinct patterns: special values first, then, mixed, ties of the format and of its smallest quanta, and both
    neighbours of each.
    """
    grid, rng = place.row.grid, np.random.default_rng(0)
    dropped = 23 - min(grid.mantissa_bits, 22)
    bits = rng.integers(0, 2**32, 8192, dtype=np.uint32)
    ties = (bits >> dropped << dropped | 1 << (dropped - 1)).astype(np.uint32).view(np.float32)
    special = [0, 1, 1.5, 2, 2**-126, 2**-149, math.inf, math.nan, grid.high, grid.low, 3.4028235e38]
    with np.errstate(all="ignore"):
        halves = np.ldexp(rng.integers(-600, 600, 2048) / 2, grid.k_min).astype(np.float32)
        ends = np.array([*special, 2 * grid.high, 1.5 * grid.high], dtype=np.float32)
        first, rest = np.concatenate([ends, -ends]), np.concatenate([halves, ties])
        near = [np.nextafter(own, np.float32(side)) for own in (first, rest) for side in (math.inf, -math.inf)]
    first = np.concatenate([first, *near[:2]])
    mixed = np.concatenate([rest, *near[2:]])[rng.permutation(3 * len(rest))]
    patterns = np.concatenate([first, mixed]).view(np.uint32)
    return patterns[np.sort(np.unique(patterns, return_index=True)[1])]


@pytest.mark.parametrize("count", [256, 4096, 65536])
def test_values_are_distinct_and_have_every_exponent_of_both_signs(count: int) -> None:
    for name in FORMATS:
        bits = values(place_of(name), count).view(np.uint32)
        assert len(np.unique(bits)) == len(bits) >= count
        assert len(bits) == count or count == 256
        assert len(np.unique(bits >> 23)) == 512
        large = np.abs(values(place_of(name), count)) > 0.7
        assert abs(np.mean(np.signbit(values(place_of(name), count)[large])) - 0.5) < 0.1


def values_of_all(places: Sequence[SlotRounding], count: int) -> Array:
    """Of some roundings together, each pattern once."""
    return np.unique(np.concatenate([values(place, count) for place in places]).view(np.uint32)).view(np.float32)


def place_of(fmt: Format | str, mode: str = "nearest_even") -> SlotRounding:
    return rounding(Precision(fmt, mode))


@pytest.mark.parametrize("opset", few_always(OPSETS, [26]))
def test_every_format_in_every_mode(opset: int) -> None:
    left = []
    for fmt, mode in itertools.product(ROUNDABLE, MODES):
        place = place_of(fmt, mode)
        if portable_problem(place, opset):
            left.append((fmt, mode))
            continue
        x = values(place)
        (ours,) = run(model_of([place], [len(x)], opset), x)
        assert_same(place, x, ours)
    assert left == [("binary8p1u", "nearest_even")]


MIXED = [
    rounding(Precision(fmt, mode))
    for fmt, mode in zip(ROUNDABLE, itertools.cycle(MODES), strict=False)
    if not portable_problem(rounding(Precision(fmt, mode)), 26)
]


@pytest.mark.parametrize("opset", few_always([*OPSETS, 28], [28]))
def test_all_kinds_in_one_model_at_every_level_of_optimisation(opset: int) -> None:
    x = values_of_all(MIXED, 512)
    model = model_of(MIXED, [len(x)], opset)
    for level in LEVELS:
        for place, ours in zip(MIXED, run(model, x, level), strict=True):
            assert_same(place, x, ours)


@pytest.mark.parametrize("opset", OPSETS)
def test_reference_evaluator(opset: int) -> None:
    x = values_of_all(MIXED, 256)
    for place, ours in zip(MIXED, evaluated(model_of(MIXED, [len(x)], opset), x), strict=True):
        assert_same(place, x, ours)
    for place in [place_of(fmt, mode) for fmt in ("e4m3", "e5m2", "ue5m3", "int8") for mode in MODES]:
        x = values(place, 4096)
        assert_same(place, x, evaluated(model_of([place], [len(x)], opset), x)[0])


def test_constant_choices_are_made_when_the_model_is_loaded(tmp_path: Path) -> None:
    model = model_of(MIXED, [8], 26)
    assert "If" in {node.op_type for function in model.functions for node in function.node}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "loaded.onnx"), 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert "If" not in {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node}
    (function,) = model_of([place_of("e4m3"), place_of("e2m3")], [8], 26).functions
    assert "If" not in {node.op_type for node in function.node}


SCALINGS = [
    *(Scaling("static", value=value) for value in (0.1, 3e-5, 1e30, 1.0)),
    *(
        Scaling(granularity, size=size, **options)
        for granularity, size in [
            *((name, None) for name in ("tensor", "channel", "row")),
            *(("block", size) for size in (1, 4, 16, 64)),
            *(("tile", size) for size in ((2, 3), (4, 1), (1, 5))),
        ]
        for options in (
            {},
            {"rule": "ceil"},
            {"rule": "nearest"},
            {"scale_format": "float32"},
            {"scale_format": "e4m3"},
            {"scale_format": "e4m3", "two_level": True},
            {"scale_format": "float16", "two_level": True},
            {"scale_format": "bfloat16"},
            {"scale_format": "ue5m3"},
            {"scale_format": "e5m0"},
            {"scale_format": "e5m0", "rule": "nearest"},
            {"scale_format": "binary8p4u"},
        )
    ),
]
ELEMENTS = "e4m3 e2m1 int8 fixed8.6 fixed8.12 nested8.4 bfloat16 e5m2 float16 e3m2 fixed8.-3 qpytorch_e3m9".split()
SHAPES = [(5, 37), (8, 32), (3, 4, 16), (2, 3, 4, 5)]


def groups(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Rows of very different sizes, with zeros, subnormals, and here and there what is not finite."""
    exponents = rng.integers(-145, 125, size=shape[:1] + (1,) * (len(shape) - 1))
    with np.errstate(all="ignore"):
        x = np.ldexp(rng.standard_normal(shape), exponents).astype(np.float32)
    x[rng.random(shape) < 0.2] *= np.float32(rng.choice([0, 2.0**-20]))
    if rng.random() < 0.4:
        x[rng.random(shape) < 0.03] = rng.choice([math.inf, -math.inf, math.nan, -math.nan])
    return x


def scaled_cases(seed: int) -> list[tuple[Precision, int]]:
    cases = [Precision(*case) for case in itertools.product(ELEMENTS, MODES, SCALINGS)]
    return [(cases[index], index) for index in np.random.default_rng(seed).choice(len(cases), 200, replace=False)]


@pytest.mark.parametrize("opset", few_always(OPSETS, [26]))
def test_scalings(opset: int) -> None:
    """Of static and symbolic shapes, with ragged blocks, along every dimension."""
    for precision, number in scaled_cases(opset):
        rng, shape = np.random.default_rng(number), SHAPES[number % len(SHAPES)]
        place = rounding(precision, axis=int(rng.integers(len(shape))), channel=int(rng.integers(len(shape))))
        if problem := portable_problem(place, opset):
            assert "'nearest' need float64" in problem
            assert precision.format.name == "bfloat16"
            continue
        symbolic = rng.integers(3)  # none, the batch, all
        dims = [f"d{d}" if d < symbolic or symbolic == 2 else length for d, length in enumerate(shape)]
        model, x = model_of([place], dims, opset), groups(shape, rng)
        assert_same(place, x, run(model, x, LEVELS[number % 5])[0])
        if number % 8 == 0:
            assert_same(place, x, evaluated(model, x)[0])


def test_scales_are_found_without_dimensions_of_one() -> None:
    """With them onnxruntime takes up to twice the time."""
    for name in ("mxfp8", "nvfp4"):
        model = model_of([rounding(Precision(name), axis=1)], [4, 64], 26)
        shapes = {own.name: own.type.tensor_type.shape.dim for own in model.graph.value_info}
        ends = {
            node.op_type: shapes[node.output[0]][-1].dim_value
            for node in model.graph.node[:-1]
            if shapes[node.output[0]]
        }
        assert {op for op, end in ends.items() if end == 1} == {"Unsqueeze"}


@pytest.mark.parametrize("opset", OPSETS)
def test_tensors_without_values_or_dimensions(opset: int) -> None:
    shapes: list[tuple[tuple[int, ...], list[int | str]]] = [((), []), ((2, 0), [2, 0]), ((0, 33), [0, 33])]
    shapes += [((0, 33), ["b", 33]), ((0, 33), ["b", "c"]), ((3, 0), ["b", "c"])]
    for name, (shape, dims) in itertools.product(("e4m3", "mxfp8", "nvfp4", "dfp8", "tile", "channel"), shapes):
        fmt = FORMATS["float8_e5m2"]
        scaling = {"tile": Scaling("tile", size=2), "channel": Scaling("channel")}.get(name)
        place = rounding(Precision(name if scaling is None else fmt, scaling=scaling), axis=max(len(shape) - 1, 0))
        if shape or name != "tile":
            x, model = np.full(shape, 1.06, dtype=np.float32), model_of([place], dims, opset)
            assert "FloatQuant" in {node.op_type for node in model.graph.node} or name == "dfp8"
            assert_same(place, x, run(model, x)[0])
            assert_same(place, x, evaluated(model, x)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_tensors_are_rounded_in_float32(dtype: torch.dtype) -> None:
    """All their values; the result is once more rounded to the type of the tensor."""
    held = torch.arange(65536).to(torch.int32).to(torch.int16).view(dtype)
    names = ("e4m3", "mxfp8", "nvfp4", "e5m0", "int8", "bfloat16", "float16", "fixed32.8")
    places = [place_of(name) for name in names]
    model = model_of(places, [len(held)], 20, str(dtype).removeprefix("torch.").upper())
    for place, ours in zip(places, run(model, held.float().numpy()), strict=True):
        theirs = quantize(held, place.row).float().numpy()
        assert not wrong(ours, theirs).any(), str(place.precision)


@pytest.mark.parametrize("opset", OPSETS)
def test_largest_power_of_two(opset: int) -> None:
    """Of both ends and the middle of every binade, from the smallest normal number on."""
    powers = np.ldexp(np.float64(1), np.arange(-126, 128)).astype(np.float32)
    x = np.concatenate([np.nextafter(powers[1:], np.float32(0)), powers, 1.5 * powers])
    tape, value = Tape(), ir.Value(name="x", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.FLOAT))
    n = NodeWriter(tape, opset, "test")
    outputs = [largest_power(n, value), largest_power(n, value, wide=False)]
    wide, narrow = run(whole(tape, [value], outputs, opset), np.concatenate([x, -x]))
    exact = np.ldexp(np.float64(1), np.frexp(np.concatenate([x, x]))[1] - 1)
    assert (wide == exact).all()
    assert (narrow[exact < 2.0**104] == exact[exact < 2.0**104]).all()


class TestWhatCannotBeExpressed:
    @pytest.mark.parametrize(
        ("precision", "problem"),
        [
            (Precision("e4m3", "stochastic"), "'stochastic' draws numbers"),
            (Precision("e4m3", transform="hadamard"), "the transform 'hadamard'"),
            (Precision("power4_0.5"), "power-law"),
            (Precision("binary8p1"), "ties of 'binary8p1'"),
            (Precision("int1"), "one bit"),
            (Precision("e11m2"), "values that float32 has not"),
            (Precision("fixed8.-110"), "values that float32 has not"),
            (Precision("e4m3", scaling=Scaling("static", value=2.0**-130)), "no normal number of float32"),
            (Precision("bfloat16", scaling=Scaling("tensor", rule="nearest")), "need float64"),
            (Precision("e4m3", scaling=Scaling("tensor", scale_format="e11m2")), "need float64"),
            (Precision("e4m3", scaling=Scaling("tensor", history=4)), "history"),
            (
                Precision(FloatFormat(name="coarse", exponent_bits=4, mantissa_bits=3, subnormals=False)),
                "'coarse' has no subnormal numbers",
            ),
        ],
        ids=str,
    )
    def test_problems(self, precision: Precision, problem: str) -> None:
        place = rounding(precision)
        assert problem in portable_problem(place, 26)
        with pytest.raises(BackendError, match="slot 'fc/product/fprop.input'"):
            model_of([place], [4], 26)

    def test_opset(self) -> None:
        assert f"opset {LEAST_OPSET} or later, not 17" in portable_problem(place_of("e4m3"), 17)

    def test_tensors(self) -> None:
        with pytest.raises(BackendError, match="slot 'fc/product/fprop.input': a DOUBLE tensor"):
            model_of([place_of("e4m3")], [4], 26, "DOUBLE")
        with pytest.raises(BackendError, match=r"slot .*: scaling 'row': a tensor of shape \[4\] has no axis 2"):
            model_of([rounding(Precision("e4m3", scaling="row"), axis=2)], [4], 26)


def without(op_type: str, model: onnx.ModelProto) -> None:
    """Takes the first such node of a body away; its first input stands for it."""
    (function,) = model.functions
    node = next(node for node in function.node if node.op_type == op_type)
    node.op_type = "Identity"
    del node.input[1:], node.attribute[:]


def with_less(name: str, model: onnx.ModelProto) -> None:
    """One less in an input of the quantiser."""
    (node,), (function,) = model.graph.node[1:-1], model.functions
    given = node.input[list(function.input).index(name)]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == given)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) - np.float32(1), given))


DEFECTS: list[tuple[str, Callable[[onnx.ModelProto], None]]] = [
    ("e4m3", partial(with_less, "mantissa_bitwidth")),
    ("e4m3", partial(with_less, "exponent_bias")),
    ("e4m3", partial(with_less, "max_val")),
    ("e4m3fnuz", partial(without, "Sum")),
    ("float16", partial(without, "Clip")),
    ("int8", partial(with_less, "bitwidth")),
    ("int8", partial(without, "Sum")),
    ("int8", partial(without, "Round")),
]


@pytest.mark.parametrize(("fmt", "plant"), DEFECTS)
def test_planted_defects_are_seen(fmt: str, plant: Callable[[onnx.ModelProto], None]) -> None:
    place = place_of(fmt)
    x = values(place)
    model = model_of([place], [len(x)], 26)
    plant(model)
    assert wrong(run(model, x)[0], expected(place, x)).any()


def meant_by_qonnx(place: SlotRounding, x: Array) -> NDArray[np.bool_]:
    """Where QONNX 1.0 defines the same: not of infinities, which become NaN, nor as said here."""
    fmt, mode, magnitude = place.precision.format, place.precision.rounding.mode, np.abs(x)
    same: NDArray[np.bool_] = ~np.isinf(x)
    if mode is not RoundingMode.NEAREST_EVEN:  # next to a power of two the logarithm is wrong
        with np.errstate(invalid="ignore"):  # of NaN, on some processors
            above = magnitude.astype(np.float64) * (1 + 2.0**-20)
            same &= np.frexp(magnitude)[1] == np.frexp(above)[1]
    if isinstance(fmt, FloatFormat):
        if not fmt.signed:  # all its floats are signed
            same &= x >= 0
        if fmt.emin <= -126:  # it adds 2**-126 before it takes the logarithm, and is inexact at the largest powers
            same &= (magnitude >= 2.0**-100) & (magnitude < 2.0**126)
        if mode is RoundingMode.TOWARD_ZERO and fmt.overflow is not Overflow.SATURATE:  # finite values overflow
            same &= magnitude <= fmt.max
    return same


QONNX_FORMATS = """e4m3 e5m2 e4m3fnuz e3m4 float16 bfloat16 e8m0 ue5m3 e3m2 e2m3 e2m1 binary8p3 int16 int8 int4
fixed8.4 nested8.4 mxfp8_e5m2 mxfp8 mxint8 mxfp4 nvfp4 dfp8"""


@pytest.mark.parametrize("opset", OPSETS)
def test_qonnx_executor(opset: int) -> None:
    """But for the sign of zero, which it keeps, or takes where a zero point of 0 is added."""
    for fmt, mode in itertools.product(QONNX_FORMATS.split(), MODES):
        place = place_of(fmt, mode)
        x = values(place, 16384)
        same, theirs = meant_by_qonnx(place, x), expected(place, x)
        assert same.mean() > 0.35  # half of all values are negative
        ours = by_qonnx(model_of([place], [len(x)], opset), torch.from_numpy(x)).numpy()
        bad = same & (ours != theirs) & ~(np.isnan(ours) & np.isnan(theirs))
        assert not bad.any(), (fmt, mode, int(bad.sum()), x[bad][:4], ours[bad][:4], theirs[bad][:4])
