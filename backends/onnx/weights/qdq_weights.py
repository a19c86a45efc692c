"""Weights stored rounded in the types that ONNX has for them, read by ``Cast`` or ``DequantizeLinear``.

As compilers such as TensorRT expect it, in types too that onnxruntime cannot read on a CPU: FLOAT4E2M1, FLOAT6E2M3 and
FLOAT6E3M2, and FLOAT8E8M0 for scales.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from precc.backends.onnx.roundings.format_types import native_storage
from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.roundings.onnx_types import width
from precc.backends.onnx.roundings.quantize_linear import BLOCKS, block_attributes, dequantized, quantised_from
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.same_bits import same_bits
from precc.backends.onnx.weights.scaled_values import ScaledValues
from precc.backends.onnx.weights.storage import Codes, Floats, Integers, Storage
from precc.backends.onnx.weights.stored_values import Stored
from precc.backends.onnx.weights.stored_weights import StoredWeight, add_stored_weight, rounded_weight
from precc.formats import Granularity, Scaling

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.tape import Tape

__all__ = ["add_qdq_weight"]


def add_qdq_weight(tape: "Tape", weight: Tensor, rounding: SlotRounding, opset: int, name: str) -> StoredWeight:
    """Store a weight rounded, in the ONNX type of its format; where that is not exact, as `add_stored_weight` does.

    Scales are FLOAT; but powers of two are FLOAT8E8M0 from opset 24 on, and those of a format of 8 bits, as NVFP4's,
    are of its type and have a DequantizeLinear of their own.

    Args:
        tape: collects nodes and constants.
        weight: as the product reads it.
        rounding: of its slot.
        opset: of the default domain, at least 13.
        name: what the names of constants begin with.

    Raises:
        BackendError: this is not rounded at export, or the values are not those of float32.
    """
    rounded = rounded_weight(weight, rounding)
    n = NodeWriter(tape, opset, name)
    storage = native_storage(rounding.precision.element)
    value = None
    if storage is not None and storage.opset <= opset and weight.numel():
        if rounding.row.granularity is None:
            value = _plain(n, rounded, storage)
        elif quantised_from(storage) <= opset and not isinstance(storage, Floats):
            value = _scaled(n, weight, rounded, rounding, storage)
    if value is None or storage is None:
        return add_stored_weight(tape, weight, rounding, opset, name)
    return StoredWeight(value, storage.type)


def _plain(n: NodeWriter, rounded: Tensor, storage: Storage) -> "ir.Value | None":
    stored = Stored.exactly(rounded, storage)
    if stored is None or (isinstance(storage, Integers) and n.opset < quantised_from(storage)):
        return None
    if isinstance(storage, Integers):
        return dequantized(n, stored.add_codes(n, "codes"), n.number(storage.step), {})
    return stored.add(n, "codes")


def _scaled(
    n: NodeWriter, weight: Tensor, rounded: Tensor, rounding: SlotRounding, storage: Storage
) -> "ir.Value | None":
    row = rounding.row
    blocks = block_attributes(row, weight.shape)
    if row.granularity is Granularity.TILE or ("block_size" in blocks and n.opset < BLOCKS):
        return None
    parts = ScaledValues.of(weight.detach().cpu(), row)
    if isinstance(storage, Integers):  # their step is part of the scale
        parts = replace(parts, elements=parts.elements / storage.step, scales=parts.scales * storage.step)
        storage = Integers(storage.type)
    stored = Stored.exactly(parts.elements, storage)
    if stored is None or not same_bits(parts.values, rounded):
        return None
    shape = tuple(parts.scales.shape) if "block_size" in blocks else (-1,) if blocks else ()
    return dequantized(n, stored.add_codes(n, "codes"), _scale(n, parts, rounding, shape), blocks)


def _scale(n: NodeWriter, parts: ScaledValues, rounding: SlotRounding, shape: tuple[int, ...]) -> "ir.Value":
    """As DequantizeLinear takes it."""
    scales = parts.scales.reshape(shape)
    stored = _in_eight_bits(scales, rounding.precision.own_scaling)
    if stored is None or quantised_from(stored.storage) > n.opset:
        return n.constant((scales * parts.tensor_scale).numpy())
    codes = stored.add_codes(n, "scales")
    if stored.storage.type == "FLOAT8E8M0":
        return codes
    return dequantized(n, codes, n.constant(parts.tensor_scale.numpy()), {})


def _in_eight_bits(scales: Tensor, scaling: Scaling | None) -> Stored | None:
    """None where their format has no type of 8 bits, or they are not of the format."""
    storage = native_storage(scaling.scale_format) if scaling is not None else None
    if not isinstance(storage, Codes) or width(storage.type) < 8:
        return None
    if storage.type == "FLOAT8E8M0" and scaling is not None and scaling.two_level:
        return None  # it has no DequantizeLinear of its own, to which the scale of the tensor could go
    return Stored.exactly(scales, storage)
