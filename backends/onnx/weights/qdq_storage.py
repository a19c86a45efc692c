"""Which rounded weights ONNX's own types hold, so that Cast or DequantizeLinear reads them."""

import torch
from torch import Tensor

from precc.backends.onnx.roundings.format_types import native_storage
from precc.backends.onnx.roundings.quantize_linear import quantised_from
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.storage import Floats, Integers
from precc.formats import Granularity

__all__ = ["qdq_storage_problem"]

#: The first opset whose DequantizeLinear has blocks.
_BLOCKS = 21


def qdq_storage_problem(weight: Tensor, rounding: SlotRounding, opset: int) -> str:
    """Why no type of an opset holds a weight, rounded; empty if one does."""
    row, element = rounding.row, rounding.precision.element
    storage = native_storage(element)
    if row.is_identity(torch.float32):
        return ""
    if storage is None:
        return f"ONNX has no type with the values of {element.name!r}, and no others, for a weight"
    if row.granularity is Granularity.TILE:
        return "DequantizeLinear has no scales of tiles"
    if row.granularity is not None and isinstance(storage, Floats):
        return f"DequantizeLinear does not read {storage.type}"
    quantised = row.granularity is not None or isinstance(storage, Integers)
    blocks = _BLOCKS if row.granularity in (Granularity.BLOCK, Granularity.ROW) else 0
    needed = max(quantised_from(storage) if quantised else storage.opset, blocks)
    if opset < needed:
        return f"weights of {rounding.precision} are stored from opset {needed} on, not in {opset}"
    if isinstance(storage, Integers) and bool(weight.isnan().any()):
        return f"the weight has NaN, which {storage.type} has not"
    return ""
