"""Where ONNX's own quantisers cannot give, or their runtimes do not give, what precc gives.

Types without NaN (INT8 and other integers, FLOAT4E2M1, FLOAT6E2M3, FLOAT6E3M2) lose it, while precc keeps it. And
onnx's reference evaluator converts to int32 before it saturates to a narrower integer; onnxruntime saturates first.
"""

import math

import torch

from precc.backends.onnx.roundings.format_types import native_storage
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.storage import Integers
from precc.formats import FloatFormat

__all__ = ["keeps_nan", "reference_limit"]


def keeps_nan(rounding: SlotRounding) -> bool:
    """Whether NaN stays NaN: in the code, or by a scale that is found with it and is NaN too."""
    element = rounding.precision.element
    return rounding.row.finds_scales or (isinstance(element, FloatFormat) and (element.has_nan or element.bits > 8))


def reference_limit(rounding: SlotRounding) -> float:
    """The magnitude from which on onnx's reference evaluator wraps around what it should saturate; or infinity."""
    row, storage = rounding.row, native_storage(rounding.precision.element)
    if not isinstance(storage, Integers) or row.scale.two_level:
        return math.inf
    largest = row.scale.high if row.finds_scales else row.scale.value
    limit = 2.0**31 * storage.step * largest
    return limit if limit <= torch.finfo(torch.float32).max else math.inf
