"""Weights stored rounded in the types that ONNX has for them, read by ``Cast`` or ``DequantizeLinear``.

As compilers such as TensorRT expect it, types included that onnxruntime cannot read on a CPU: FLOAT4E2M1, FLOAT6E2M3,
FLOAT6E3M2, and scales in FLOAT8E8M0.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from precc.backends.onnx.node_writer import NodeWriter
from precc.backends.onnx.qdq import dequantized
from precc.backends.onnx.scaled_values import ScaledValues
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.storage import Floats, Integers, Storage, Stored, native_storage, same_bits, smallest
from precc.backends.onnx.stored_weights import (
    StoredWeight,
    add_stored_weight,
    constant_bytes,
    element_of,
    rounded_weight,
    scaling_of,
)
from precc.formats import Granularity
from precc.rounding import Row

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.tape import Tape

__all__ = ["add_qdq_weight"]

#: The first opsets with blocks, and with scales in FLOAT8E8M0.
_BLOCKS, _E8M0 = 21, 24


def add_qdq_weight(tape: "Tape", weight: Tensor, rounding: SlotRounding, opset: int, name: str) -> StoredWeight:
    """Store a weight rounded, in the ONNX type of its format; where there is none, as `add_stored_weight` does.

    Scales are FLOAT, but powers of two are FLOAT8E8M0 from opset 24 on, and those that have two levels (NVFP4) are
    FLOAT8E4M3FN or the like, with a DequantizeLinear of their own.

    Args:
        tape: collects nodes and constants.
        weight: as the product reads it.
        rounding: of its slot.
        opset: of the default domain.
        name: what the names of constants begin with.

    Raises:
        BackendError: this is not rounded at export, or the values are not those of float32.
    """
    rounded = rounded_weight(weight, rounding)
    storage = native_storage(element_of(rounding.precision))
    row = rounding.row
    if storage is None or storage.opset > opset or not weight.numel() or row.granularity is Granularity.TILE:
        return add_stored_weight(tape, weight, rounding, opset, name)
    blocked = row.granularity in (Granularity.ROW, Granularity.BLOCK)
    if 
