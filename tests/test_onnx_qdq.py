"""Roundings by ONNX's own ops: bit for bit precc's in onnxruntime and the reference evaluator, or a named problem."""

import math
from collections.abc import Iterator

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from precc.backends.onnx.qdq import add_qdq_rounding, qdq_opset, qdq_problem
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.storage import same_bits
from precc.errors import BackendError
from precc.formats import FORMATS, FixedPoint, Scaling, parse_format
from precc.precision import Precision
from precc.rounding import quantize
from tests.onnx_graphs import by_onnxruntime, by_reference, graph_of, input_like

#: What onnxruntime does not run; in the order in which ONNX got them.
NOT_RUN = ("FLOAT4E2M1", "FLOAT6E2M3", "FLOAT6E3M2")


def slot(precision: Precision, axis: int = 1, channel: int = 1) -> SlotRounding:
    return SlotRounding("fc/product/fprop.input", precision, axis, channel)


def graph(x: Tensor, rounding: SlotRounding, opset: int) -> onnx.ModelProto:
    value = input_like(x)
    return graph_of(lambda tape: add_qdq_rounding(tape, value, rounding, opset), opset, (value,))


def every_size() -> Tensor:
    """All float32 values of bfloat16, and some on both sides of each."""
    upper = torch.arange(2**16)[:, None] << 16
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    return (upper | lower).flatten().to(torch.int32).view(torch.float32)


UNSCALED = {
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
    "int8": 13,
    "int4": 21,
}
