"""Weights in the types that ONNX has for their formats: read back as precc rounds them."""

import math

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.qdq_weights import add_qdq_weight
from precc.backends.onnx.weights.same_bits import same_bits
from precc.backends.onnx.weights.stored_weights import StoredWeight
from precc.errors import BackendError
from precc.formats import FORMATS, Scaling
from precc.models.lenet5 import LeNet5
from precc.precision import Precision
from precc.rounding import quantize
from tests.onnx_graphs import a_weight, by_onnxruntime, by_reference, constant_bytes, graph_of, slot

#: At opset 24: types of the codes, and of the scales of blocks.
TYPES = {
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
    "float4_e2m1fn": "FLOAT4E2M1",
    "int16": "INT16",
    "int8": "INT8",
    "int4": "INT4",
    "mxfp8_e5m2": "FLOAT8E5M2 FLOAT8E8M0",
    "mxfp8_e4m3": "FLOAT8E4M3FN FLOAT8E8M0",
    "mxint8": "INT8 FLOAT8E8M0",
    "nvfp4": "FLOAT4E2M1 FLOAT8E4M3FN",
    "mxfp4_e2m1": "FLOAT4E2M1 FLOAT8E8M0",
}

SCALINGS = [
    Scaling("static", value=0.037),
    Scaling("tensor", scale_format="float32"),
    Scaling("channel", scale_format="bfloat16"),
    Scaling("row"),
    Scaling("block", size=24, scale_format="e4m3"),
    Scaling("block", size=7, axis=0, scale_format="e5m2", two_level=True),
    Scaling("tile", size=8),
]


def built(weight: Tensor, rounding: SlotRounding, opset: int) -> tuple[StoredWeight, onnx.ModelProto]:
    made: list[StoredWeight] = []

    def build(tape: ir.tape.Tape) -> ir.Value:
        made.append(add_qdq_weight(tape, weight, rounding, opset, "fc1.weight"))
        return made[0].value

    model = graph_of(build, opset)
    return made[0], model


def types_of(model: onnx.ModelProto) -> list[str]:
    """Of the constants that are no single numbers."""
    return [onnx.TensorProto.DataType.Name(entry.data_type) for entry in model.graph.initializer if entry.dims]


def check(weight: Tensor, precision: Precision, opset: int) -> str:
    """The type of the codes, where what is read is right."""
    rounding = slot(precision)
    found, model = built(weight, rounding, opset)
    expected = quantize(weight, rounding.row)
    assert same_bits(by_reference(model)[0], expected)
    scales_are_powers = "FLOAT8E8M0" in types_of(model) and found.type != "FLOAT8E8M0"
    if found.type in ("FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2") or scales_are_powers or opset >= 28:
        return found.type
    assert same_bits(by_onnxruntime(model)[0], expected)
    return found.type


@pytest.mark.parametrize("opset", [13, 19, 21, 23, 24, 28])
@pytest.mark.parametrize("name", FORMATS)
def test_every_named_format(name: str, opset: int) -> None:
    check(a_weight(41, 50), Precision(name), opset)


@pytest.mark.parametrize("opset", [19, 21, 25])
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
@pytest.mark.parametrize("name", ["e4m3", "int8", "fixed4.2", "e2m1", "e3m4", "float16"])
def test_scales(name: str, scaling: Scaling, opset: int) -> None:
    check(a_weight(41, 50), Precision(name, scaling=scaling), opset)


@pytest.mark.parametrize("name", FORMATS)
def test_types_and_sizes(name: str) -> None:
    """A file of what the plan says, words whole: 6 bits are 8 below opset 28."""
    weight, precision = LeNet5().fc1.weight.detach(), Precision(name)
    found, model = built(weight, slot(precision), 24)
    if name in TYPES:
        assert types_of(model) == TYPES[name].split()
        word = {19: 32, 64: 32}.get(int(precision.bits), precision.bits)
        assert 0 <= constant_bytes(model) - word * weight.numel() / 8 <= 120  # the last blocks are shorter
    else:
        assert found.type == "UINT8"


def test_six_bits() -> None:
    weight = LeNet5().fc1.weight.detach()
    _, model = built(weight, slot(Precision("mxfp6_e2m3")), 28)
    assert types_of(model) == ["FLOAT6E2M3", "FLOAT8E8M0"]
    assert constant_bytes(model) == weight.numel() * 6 / 8 + 120 * 13  # 400 columns are 12 blocks and a half
    assert check(weight, Precision("e3m2"), 28) == "FLOAT6E3M2"


def test_weights_that_are_not_finite_and_shapes() -> None:
    weight = a_weight(7, 96)
    weight[1, 3], weight[2, 40], weight[5, 95] = math.nan, math.inf, -math.inf
    assert check(weight, Precision("e4m3"), 21) == "FLOAT8E4M3FN"
    assert check(weight, Precision("e2m1"), 23) == "FLOAT16"  # it has no NaN
    assert check(weight, Precision("int8"), 21) == "FLOAT16"
    assert check(weight, Precision("nvfp4"), 23) == "FLOAT4E2M1"
    for shape in ((), (0, 3), (1,), (6, 3, 5, 5)):
        some = torch.linspace(-3.0, 400.0, math.prod(shape)).reshape(shape)
        for name in ("e4m3", "int8", "mxfp8") if len(shape) > 1 else ("e4m3", "int8"):
            check(some, Precision(name), 21)


def test_what_a_compiler_sees() -> None:
    def ops(name: str, opset: int) -> list[str]:
        return [node.op_type for node in built(a_weight(8, 96), slot(Precision(name)), opset)[1].graph.node[:-1]]

    assert ops("e4m3", 21) == ["Cast"]
    assert ops("int8", 21) == ops("mxfp8", 21) == ops("mxfp4", 24) == ["DequantizeLinear"]
    assert ops("nvfp4", 23) == ["DequantizeLinear", "DequantizeLinear"]


def test_what_is_not_rounded_at_export() -> None:
    with pytest.raises(BackendError, match="slot 'fc/product/fprop.weight': a 'stochastic' rounding draws"):
        built(a_weight(10, 10), slot(Precision("e4m3", "stochastic")), 21)
