"""Roundings by ONNX's own ops: precc's bit for bit in onnxruntime and the reference evaluator, or a named problem."""

import math
import re
from functools import partial

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.roundings.qdq import add_qdq_rounding
from precc.backends.onnx.roundings.qdq_limits import keeps_nan, reference_limit
from precc.backends.onnx.roundings.qdq_problems import qdq_opset, qdq_problem
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.same_bits import same_bits
from precc.errors import BackendError
from precc.formats import FORMATS, FixedPoint, FloatFormat, Scaling, parse_format
from precc.precision import Precision
from precc.rounding import quantize
from tests.onnx_graphs import by_onnxruntime, by_reference, graph_of, input_like
from tests.onnx_graphs import slot as of_slot

#: The first opset of each named format; the others are problems.
OPSETS = {
    "float64": 13,
    "float32": 13,
    "bfloat16": 13,
    "float16": 13,
    "float8_e5m2": 19,
    "float8_e5m2fnuz": 19,
    "float8_e4m3fn": 19,
    "float8_e4m3fnuz": 19,
    "float6_e3m2fn": 28,
    "float6_e2m3fn": 28,
    "float4_e2m1fn": 23,
    "int16": 21,
    "int8": 19,
    "int4": 21,
    "mxfp8_e5m2": 21,
    "mxfp8_e4m3": 21,
    "mxint8": 21,
    "mxfp6_e3m2": 28,
    "mxfp6_e2m3": 28,
    "nvfp4": 23,
    "mxfp4_e2m1": 23,
}

FLOAT16 = FloatFormat(name="float16", exponent_bits=5, mantissa_bits=10)

SCALINGS = [
    Scaling("static", value=0.037),
    Scaling("tensor"),
    Scaling("tensor", scale_format="float32"),
    Scaling("channel", scale_format="bfloat16"),
    Scaling("channel", scale_format="e4m3", axis=-2),
    Scaling("row", scale_format="float16"),
    Scaling("block", size=16),
    Scaling("block", size=7, rule="ceil", axis=0),
    Scaling("block", size=64, scale_format="float32"),
    Scaling("block", size=16, scale_format="e4m3", two_level=True),
]


slot = partial(of_slot, channel=1, operand="input")


def graph(x: Tensor, rounding: SlotRounding, opset: int, *symbolic: int) -> onnx.ModelProto:
    value = input_like(x, *symbolic)
    return graph_of(lambda tape: add_qdq_rounding(tape, value, rounding, opset), opset, (value,))


def runs(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime has all ops of a model: those on floats of 4 and 6 bits, and quantisers of opset 28, not."""
    types = {value.type.tensor_type.elem_type for value in model.graph.value_info}
    lacks = {onnx.TensorProto.FLOAT4E2M1, onnx.TensorProto.FLOAT6E2M3, onnx.TensorProto.FLOAT6E3M2}
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    return not types & lacks and not (quantised and model.opset_import[0].version >= 28)


def check(x: Tensor, precision: Precision, opset: int, evaluated: Tensor | None = None) -> None:
    """That both give precc's rounding; `evaluated` are the values that the reference evaluator is asked for."""
    model, rounding = graph(x, slot(precision), opset), slot(precision)
    if runs(model):
        assert same_bits(by_onnxruntime(model, {"x": x})[0], quantize(x, rounding.row))
    else:
        with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
            by_onnxruntime(model, {"x": x})[0]
    asked = x if evaluated is None else evaluated
    model = model if evaluated is None else graph(asked, rounding, opset)
    assert same_bits(by_reference(model, {"x": asked})[0], quantize(asked, rounding.row))


def every_size() -> Tensor:
    """All values of bfloat16, and some of float32 on both sides of each."""
    upper = torch.arange(2**16)[:, None] << 16
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    return (upper | lower).flatten().to(torch.int32).view(torch.float32)


def some_of_every_size(*shape: int) -> Tensor:
    """With zeros of both signs, and blocks of zeros."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator) * torch.exp2(torch.randn(shape, generator=generator) * 6)
    x.view(-1)[:70], x.view(-1)[:20] = 0.0, -0.0
    return x


@pytest.mark.parametrize("name", FORMATS)
def test_every_named_format_is_exact_or_a_named_problem(name: str) -> None:
    rounding = slot(Precision(name))
    if name not in OPSETS:
        assert qdq_problem(rounding, 28)
        with pytest.raises(BackendError, match="slot 'fc/product/fprop.input': .*; flavor='portable' may express it"):
            qdq_opset(rounding)
        return
    first = qdq_opset(rounding)
    assert first == OPSETS[name]
    assert qdq_problem(rounding, first) == ""
    assert (
        f"express {name} from opset {first} on, not in {first - 1}" in qdq_problem(rounding, first - 1) or first == 13
    )
    whole = rounding.row.granularity is None
    x = every_size() if whole else some_of_every_size(12, 40, 3)
    x = x if keeps_nan(rounding) or not whole else x[~x.isnan()]
    evaluated = x if math.isinf(limit := reference_limit(rounding)) else x[x.abs() < limit]
    for opset in sorted({first, max(first, 25), 28}):
        check(x, rounding.precision, opset, evaluated)


@pytest.mark.parametrize("opset", [19, 25])
@pytest.mark.parametrize(
    ("name", "overflow"),
    [("e4m3", "nan"), ("e5m2", "saturate"), ("e5m2", "nan"), ("e4m3fnuz", "nan"), ("e5m2fnuz", "nan")],
)
def test_every_overflow(name: str, overflow: str, opset: int) -> None:
    fmt = parse_format(name)
    assert isinstance(fmt, FloatFormat)
    check(every_size(), Precision(fmt.with_overflow(overflow)), opset)


@pytest.mark.parametrize("name", ["fixed8.4", "fixed4.-3", "fixed16.9", "int2", "unsigned"])
def test_fixed_point(name: str) -> None:
    unsigned = FixedPoint(name="unsigned", word=8, fraction=3, signed=False)
    precision = Precision(unsigned if name == "unsigned" else name)
    x = every_size()
    x = x[~x.isnan()]
    check(x, precision, 25, x[x.abs() < reference_limit(slot(precision))])


@pytest.mark.parametrize("opset", [19, 21, 25])
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
@pytest.mark.parametrize("name", ["e4m3", "e5m2", "int8", "fixed8.3", "int4", "e2m1"])
def test_scales(name: str, scaling: Scaling, opset: int) -> None:
    rounding = slot(Precision(name, scaling=scaling))
    x = some_of_every_size(12, 40, 3)
    if problem := qdq_problem(rounding, opset):
        assert re.search("from opset (21|23) on|the step of 'fixed8.3' is", problem)
        return
    check(x, rounding.precision, opset)
    x[3, 5, 1], x[7, 2, 0], x[9, 39, 2] = math.nan, math.inf, 1e38
    x = x if keeps_nan(rounding) else x.nan_to_num(nan=0.0, posinf=math.inf)
    limit = reference_limit(rounding)
    check(x, rounding.precision, opset, x if math.isinf(limit) else x.clamp(-limit * 0.99, limit * 0.99))


@pytest.mark.parametrize("scaling", [Scaling("tensor"), Scaling("channel"), Scaling("block", size=16)], ids=str)
def test_open_dimensions(scaling: Scaling) -> None:
    x, rounding = some_of_every_size(6, 40, 3), slot(Precision("e4m3", scaling=scaling))
    model = graph(x[:2], rounding, 21, 0, 1)
    for values in (x, x[:1, :23]):
        assert same_bits(by_onnxruntime(model, {"x": values})[0], quantize(values, rounding.row))
        assert same_bits(by_reference(model, {"x": values})[0], quantize(values, rounding.row))


def test_no_dimensions_and_no_values() -> None:
    for x in (torch.tensor(-3.3), torch.zeros(0, 4), torch.zeros(1, 1)):
        for precision in (Precision("e4m3"), Precision("int8"), Precision("e4m3", scaling="tensor")):
            check(x, precision, 21)
            assert len(graph(x, slot(precision), 21).graph.node) > 1


def test_what_stands_in_the_graph() -> None:
    def ops(precision: Precision, opset: int) -> list[str]:
        return [node.op_type for node in graph(torch.ones(4, 8), slot(precision), opset).graph.node[:-1]]

    assert ops(Precision("e4m3"), 21) == ["Cast", "Cast"]
    assert ops(Precision("float16"), 21) == ["Cast", "Cast"]
    assert ops(Precision("float32"), 21) == []
    static = Precision("e4m3", scaling=Scaling("static", value=0.5))
    assert ops(static, 19) == ops(static, 21) == ops(Precision("int8"), 21) == ["QuantizeLinear", "DequantizeLinear"]
    (scale,) = graph(torch.ones(4), slot(static), 21).graph.initializer
    assert onnx.numpy_helper.to_array(scale) == 0.5
    assert not scale.dims


def test_where_standard_ops_differ() -> None:
    """A newer onnx or onnxruntime that makes this fail makes `qdq_limits` superfluous."""
    nan, integers = torch.tensor([math.nan]), slot(Precision("fixed8.4"))
    assert not keeps_nan(integers)
    assert by_onnxruntime(graph(nan, integers, 21), {"x": nan})[0].tolist() == [-8.0]
    assert not keeps_nan(slot(Precision("e2m1")))
    assert by_reference(graph(nan, slot(Precision("e2m1")), 23), {"x": nan})[0].tolist() == [0.0]
    assert all(
        map(keeps_nan, map(slot, (Precision("e4m3"), Precision("bf16"), Precision("nvfp4"), Precision("mxint8"))))
    )
    large = torch.tensor([reference_limit(integers)])
    assert large.tolist() == [2.0**27]
    assert by_reference(graph(large, integers, 21), {"x": large})[0].tolist() == [-8.0]
    assert by_onnxruntime(graph(large, integers, 21), {"x": large})[0].tolist() == [7.9375]


@pytest.mark.parametrize(("type", "overflown"), [("FLOAT8E5M2", 61440.0), ("FLOAT8E4M3FN", 480.0)])
def test_casts_of_onnxruntime_that_are_guarded(type: str, overflown: float) -> None:
    """Alone they lose an infinity, or a NaN: where that is no more so, `qdq` needs no nodes before its Cast."""
    x = torch.tensor([overflown])

    def pair(tape: ir.tape.Tape, value: ir.Value) -> ir.Value:
        n = NodeWriter(tape, 21, "guarded")
        return n.cast(n.cast(value, type, saturate=0), "FLOAT")

    value = input_like(x)
    model = graph_of(lambda tape: pair(tape, value), 21, (value,))
    assert not same_bits(by_onnxruntime(model, {"x": x})[0], by_reference(model, {"x": x})[0])


@pytest.mark.parametrize(
    ("precision", "problem"),
    [
        (Precision("e4m3", "toward_zero"), "round to nearest even, not 'toward_zero'"),
        (Precision("e4m3", "stochastic"), "round to nearest even, not 'stochastic'"),
        (Precision("e2m1", transform="hadamard"), "no ONNX op is the transform 'hadamard'"),
        (Precision("e4m3", scaling=Scaling("tensor", history=3)), "history that has no record yet"),
        (Precision("e3m4"), "ONNX has no type with the values of 'float8_e3m4', and no others"),
        (Precision("int3"), "ONNX has no type"),
        (Precision("power4_0.5"), "ONNX has no type"),
        (Precision("nested8.4"), "ONNX has no type"),
        (Precision(FixedPoint(name="narrow8", word=8, fraction=0, symmetric=True)), "ONNX has no type"),
        (Precision("e8m0"), "precc rounds it in float64, and standard ops in float32"),
        (
            Precision("fixed8.140"),
            "not every scale times the step of 'fixed8.140' is one that float32 divides by exactly",
        ),
        (Precision("fixed8.4", scaling=Scaling("tensor", scale_format="float32")), "the step of 'fixed8.4'"),
        (Precision("fixed8.4", scaling=Scaling("block", size=8, scale_format="e4m3", two_level=True)), "the step of"),
        (Precision("int8", scaling=Scaling("static", value=1e-38)), "rounds it in float64|the step of"),
        (Precision("float16", scaling="tensor"), "QuantizeLinear does not round to FLOAT16"),
        (
            Precision(FLOAT16.with_overflow("saturate")),
            "Cast to FLOAT16 overflows to infinity, not by the rule 'saturate'",
        ),
        (Precision("e4m3", scaling=Scaling("tile", size=4)), "blocks along one dimension, not tiles"),
        (Precision("e4m3", scaling=Scaling("row", scale_format="ue5m3")), "no Cast rounds scales to 'float8_ue5m3'"),
        (Precision("e4m3", scaling=Scaling("row", rule="nearest")), "rounds it in float64"),
    ],
    ids=str,
)
def test_problems(precision: Precision, problem: str) -> None:
    with pytest.raises(BackendError, match=problem):
        add_qdq_rounding(ir.tape.Tape(), input_like(torch.ones(2, 2)), slot(precision), 28)


def test_tensors_that_do_not_fit() -> None:
    def refused(value: ir.Value, precision: Precision, opset: int, match: str) -> None:
        with pytest.raises(BackendError, match=f"slot 'fc/product/fprop.input': .*{match}"):
            add_qdq_rounding(ir.tape.Tape(), value, slot(precision), opset)

    x = torch.ones(2, 8)
    half = ir.Value(name="x", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT16))
    refused(half, Precision("e4m3"), 21, "its values are FLOAT16")
    refused(input_like(x, 1), Precision("e4m3", scaling="row"), 21, "length of a row, which dimension 1 does not say")
    refused(input_like(x, 1), Precision("e4m3", scaling="channel"), 19, "number of channels below opset 21")
    refused(input_like(x[0]), Precision("e4m3", scaling="row"), 21, "has no axis 1")
    unknown = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    refused(input_like(x[:0]), Precision("mxfp8"), 21, "no blocks of a tensor without values")
    refused(unknown, Precision("e4m3", scaling="tensor"), 21, "unknown rank")
    assert add_qdq_rounding(ir.tape.Tape(), unknown, slot(Precision("e4m3")), 21).dtype is ir.DataType.FLOAT


@pytest.mark.parametrize("precision", ["mxint8", "fixed8.3/channel", "fixed4.-3/row", "int8/tensor", "e4m3/tensor"])
def test_the_smallest_and_the_largest_blocks(precision: str) -> None:
    """Of subnormal numbers, and of those near the end of float32."""
    name, _, granularity = precision.partition("/")
    nearest = {"channel": "bfloat16", "tensor": "float32"}
    scaling = Scaling(granularity, scale_format=nearest.get(granularity, "e8m0")) if granularity else None
    x = some_of_every_size(2, 40)
    for size in (2.0**-149, 2.0**-130, 2.0**-120, 2.0**126):
        check(x / x.abs().max() * size, Precision(name, scaling=scaling), 21)
