"""QuantizeLinear and DequantizeLinear: what they take from which opset on, and their nodes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.weights.storage import Storage
from precc.backends.onnx.weights.stored_values import Stored
from precc.extras import imported
from precc.formats import Granularity
from precc.rounding import Row

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["BLOCKS", "QUANTISERS", "block_attributes", "dequantized", "quantised_from", "quantized"]

#: The first opsets that have: quantisers that the reference evaluator knows; their blocks.
QUANTISERS, BLOCKS = 19, 21

#: QuantizeLinear's first opset with a type, where it is later.
_QUANTIZED = {"INT16": 21, "UINT16": 21}


def quantised_from(storage: Storage) -> int:
    """The first opset in which DequantizeLinear reads an ONNX type."""
    return max(storage.opset, _QUANTIZED.get(storage.type, QUANTISERS))


def block_attributes(row: Row, shape: Sequence[Any]) -> dict[str, Any]:
    """Which dimension of a tensor the scales of channels or blocks are along, and the size of blocks; not of tiles."""
    if not row.finds_scales or row.granularity is Granularity.TENSOR or not len(shape):
        return {}
    axis = row.scale.axis % len(shape)
    if row.granularity is Granularity.CHANNEL:
        return {"axis": axis}
    return {"axis": axis, "block_size": shape[axis] if row.granularity is Granularity.ROW else row.scale.columns}


def quantized(
    n: NodeWriter, value: "ir.Value", scale: "ir.Value", storage: Storage, blocks: dict[str, Any]
) -> "ir.Value":
    """A value as codes of a type times scales, FLOAT; blocks as of `dequantized`."""
    inputs, attributes = [value, scale], dict(blocks)
    if n.opset >= BLOCKS:
        attributes["output_dtype"] = int(imported("onnx_ir", "onnx").DataType[storage.type])
    else:
        inputs.append(_zeros(n, storage, tuple(scale.shape or ())))
    codes = n.op("QuantizeLinear", *inputs, dtype=storage.type, shape=value.shape, **attributes)
    return dequantized(n, codes, scale, blocks)


def _zeros(n: NodeWriter, storage: Storage, shape: tuple[Any, ...]) -> "ir.Value":
    """Zero points, which say the type of the codes."""
    return Stored(storage, storage.encode(torch.zeros(shape))).add_codes(n, f"zero_{len(n.tape.initializers)}")


def dequantized(n: NodeWriter, codes: "ir.Value", scale: "ir.Value", blocks: dict[str, Any]) -> "ir.Value":
    """Codes times scales, FLOAT; with ``axis`` of the scales of channels, and ``block_size`` of blocks."""
    output: dict[str, Any] = {}
    if scale.dtype is not None and scale.dtype.name != "FLOAT":
        output["output_dtype"] = int(imported("onnx_ir", "onnx").DataType.FLOAT)
    return n.op("DequantizeLinear", codes, scale, dtype="FLOAT", shape=codes.shape, **blocks, **output)
