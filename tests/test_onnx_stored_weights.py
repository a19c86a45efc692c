"""Weights that lie rounded in an ONNX file: what is read is precc's rounding, bit for bit, and the file is small."""

import math
from collections.abc import Iterator

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.same_bits import same_bits
from precc.backends.onnx.weights.stored_weights import StoredWeight, add_stored_weight, storage_problem
from precc.errors import BackendError
from precc.formats import FORMATS, FloatFormat, Scaling
from precc.models.lenet5 import LeNet5
from precc.precision import Precision
from precc.rounding import quantize
from tests.onnx_graphs import a_weight, by_onnxruntime, by_reference, constant_bytes, graph_of, slot

#: Between them types appear: floats of 8 bits, integers of 4, E8M0, integers of 2.
OPSETS = (13, 19, 21, 24, 25, 28)


def built(weight: Tensor, rounding: SlotRounding, opset: int) -> tuple[StoredWeight, onnx.ModelProto]:
    """What is stored, and a model that reads it."""
    made: list[StoredWeight] = []

    def build(tape: ir.tape.Tape) -> ir.Value:
        made.append(add_stored_weight(tape, weight, rounding, opset, "fc.weight"))
        return made[0].value

    model = graph_of(build, opset)
    return made[0], model


def stored(weight: Tensor, rounding: SlotRounding, opset: int) -> tuple[StoredWeight, Tensor, Tensor]:
    """What is stored, and what onnxruntime and the reference evaluator read."""
    found, model = built(weight, rounding, opset)
    return found, by_onnxruntime(model)[0], by_reference(model)[0]


_FAMILIES = """e3m2 e4m0 e5m5 e4m7 qpytorch_e5m10 binary8p3 binary8p4f binary8p1 binary8p3u int2 int3 fixed8.4 fixed12.5
fixed16.8 fixed16.140 fixed20.3 nested8.4 power3_0.5 power8_0.5 bfp8.16 dfp8"""


def _scaled() -> Iterator[Precision]:
    for scaling in (
        Scaling("static", value=0.037),
        Scaling("tensor"),
        Scaling("tensor", scale_format="float32"),
        Scaling("channel", scale_format="bfloat16"),
        Scaling("row", scale_format="e4m3", two_level=True),
        Scaling("block", size=24, scale_format="ue5m3"),
        Scaling("block", size=5, axis=0, rule="ceil"),
        Scaling("tile", size=(16, 24), scale_format="float16"),
    ):
        for fmt in ("e4m3", "e2m1", "int4", "e3m4"):
            yield Precision(fmt, scaling=scaling)
    yield Precision("e5m2", "toward_zero", "row")
    yield Precision("power4_0.5", scaling=Scaling("tensor", scale_format="float32"))


def _families() -> Iterator[Precision]:
    yield from map(Precision, _FAMILIES.split())
    # a bias that is no integer is a scale
    yield Precision(FloatFormat(name="e4m3b7.5", exponent_bits=4, mantissa_bits=3, bias=7.5))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("precision", [*map(Precision, FORMATS), *_families(), *_scaled()], ids=str)
def test_what_is_read_is_the_rounded_weight(precision: Precision, opset: int) -> None:
    weight, rounding = a_weight(41, 50), slot(precision)
    found, run, evaluated = stored(weight, rounding, opset)
    expected = quantize(weight, rounding.row)
    assert found.value.dtype is ir.DataType.FLOAT
    assert same_bits(run, expected)
    assert same_bits(evaluated, expected)


@pytest.mark.parametrize("name", ["e4m3", "e5m2", "e2m1", "e2m3", "int8", "mxfp8", "nvfp4", "mxint8", "float16"])
def test_weights_that_are_not_finite(name: str) -> None:
    weight, rounding = a_weight(7, 96), slot(Precision(name))
    weight[1, 3], weight[2, 40], weight[5, 95] = math.nan, math.inf, -math.inf
    _, run, evaluated = stored(weight, rounding, 24)
    assert same_bits(run, quantize(weight, rounding.row))
    assert same_bits(evaluated, quantize(weight, rounding.row))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (6, 3, 5, 5), (5, 4, 3, 2, 2)])
@pytest.mark.parametrize("name", ["e4m3", "nvfp4", "mxfp4", "e2m3"])
def test_any_shape(shape: tuple[int, ...], name: str) -> None:
    weight = torch.linspace(-3.0, 400.0, math.prod(shape)).reshape(shape)
    rounding = slot(Precision(name), axis=min(1, max(len(shape) - 1, 0)))
    _, run, evaluated = stored(weight, rounding, 21)
    assert run.shape == evaluated.shape == weight.shape
    assert same_bits(run, quantize(weight, rounding.row))
    assert same_bits(evaluated, run)


def test_other_floats_than_float32() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        weight = a_weight(16, 64).clamp(-1e4, 1e4).to(dtype)
        for name in ("e4m3", "mxfp4", "e3m4"):
            rounding = slot(Precision(name))
            _, run, _ = stored(weight, rounding, 21)
            assert same_bits(run, quantize(weight, rounding.row).float())
    with pytest.raises(BackendError, match="float64 weight has values that float32 lacks: export a float32 net"):
        stored(torch.full((2,), 1 / 3, dtype=torch.float64), slot(Precision("float64")), 21)


def test_a_format_of_16_bits_that_no_type_holds_has_a_table_where_that_is_smaller() -> None:
    rounding = slot(Precision("e7m8"))
    assert stored(a_weight(100, 100), rounding, 21)[0].type == "FLOAT"
    weight = a_weight(400, 400)
    found, model = built(weight, rounding, 21)
    assert (found.type, constant_bytes(model)) == ("UINT16", 2 * weight.numel() + 4 * 2**16)
    assert same_bits(by_onnxruntime(model)[0], quantize(weight, rounding.row))


#: ONNX types, at opset 24, of a weight of LeNet-5's first linear layer, 120 x 400 values; at 17 where it differs.
_TYPES = {
    "float64": "FLOAT",
    "float32": "FLOAT",
    "tfloat32": "FLOAT",
    "bfloat16": "BFLOAT16",
    "float16": "FLOAT16",
    "float8_e5m2": "FLOAT8E5M2",
    "float8_e5m2fnuz": "FLOAT8E5M2FNUZ",
    "float8_e4m3fn": "FLOAT8E4M3FN",
    "float8_e4m3fnuz": "FLOAT8E4M3FNUZ",
    "float8_e8m0fnu": "FLOAT8E8M0",
    "float4_e2m1fn": "UINT4",
    "int16": "INT16",
    "int8": "INT8",
    "int4": "INT4",
    "mxfp8_e5m2": "FLOAT8E5M2",
    "mxfp8_e4m3": "FLOAT8E4M3FN",
    "mxint8": "INT8",
    "nvfp4": "UINT4",
    "mxfp4_e2m1": "UINT4",
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_as_small_as_the_plan_says(name: str) -> None:
    """Beside whole words (6 bits in 8, 19 in 32) there is a table of 1 kB at most, and 100 bytes of shapes."""
    weight, precision = LeNet5().fc1.weight.detach(), Precision(name)
    found, model = built(weight, slot(precision), 24)
    size = constant_bytes(model)
    assert found.type == _TYPES.get(name, "UINT8")
    word = {6: 8, 19: 32, 64: 32}.get(int(precision.bits), int(precision.bits))
    planned = (word + precision.bits % 1) * weight.numel() / 8
    assert planned <= size <= planned + 1200
    assert size < 0.54 * 4 * weight.numel() or word == 32
    before_types = built(weight, slot(precision), 17)[0]
    assert before_types.type == found.type or before_types.type in ("UINT8", "INT8")


def test_what_is_not_rounded_at_export() -> None:
    assert storage_problem(slot(Precision("e4m3", "nearest_away"))) == ""
    drawn = slot(Precision("e4m3", "stochastic"))
    assert storage_problem(drawn).startswith("a 'stochastic' rounding draws at run time")
    assert "no ONNX op is the transform 'hadamard'" in storage_problem(slot(Precision("e2m1", transform="hadamard")))
    delayed = Scaling("tensor", scale_format="float32", history=4)
    assert "no record yet" in storage_problem(slot(Precision("e4m3", scaling=delayed)))
    with pytest.raises(BackendError, match="slot 'fc/product/fprop.weight': a 'stochastic' rounding draws at run time"):
        stored(a_weight(16, 16), drawn, 21)
