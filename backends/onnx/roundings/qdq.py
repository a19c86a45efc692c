"""A slot's rounding by ONNX's own casts and quantisers, as TensorRT and other compilers expect it.

A float format that has an ONNX type is a pair of ``Cast``; fixed point and what is scaled is ``QuantizeLinear`` and
``DequantizeLinear``. Both give precc's values bit for bit, with the exceptions that `qdq_limits` names.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from precc.backends.onnx.roundings.cast_pair import cast_pair
from precc.backends.onnx.roundings.format_types import native_storage
from precc.backends.onnx.roundings.node_writer import NodeWriter, dims_of
from precc.backends.onnx.roundings.onnx_types import width
from precc.backends.onnx.roundings.qdq_problems import PORTABLE_MAY, qdq_problem, storage_of
from precc.backends.onnx.roundings.quantize_linear import BLOCKS, block_attributes, quantized
from precc.backends.onnx.roundings.scale_nodes import group_scales
from precc.backends.onnx.roundings.value_groups import grouped
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.storage import Integers
from precc.errors import FormatError
from precc.formats import FloatFormat, Granularity, ScaleRule
from precc.rounding import Row, row_of

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.tape import Tape

__all__ = ["add_qdq_rounding"]

#: Stands for a scale of 0: what has that scale becomes 0.
_ZERO_SCALE = 2.0**126


def add_qdq_rounding(tape: "Tape", value: "ir.Value", rounding: SlotRounding, opset: int) -> "ir.Value":
    """Nodes that round a FLOAT tensor; the tensor itself where nothing can change.

    Scales of tensors, channels, rows and blocks are found beside it by standard ops, in FLOAT.

    Args:
        tape: collects the nodes.
        value: of a known rank where it has scales; a row that has one scale is of a known length.
        rounding: of the slot.
        opset: of the default domain.

    Raises:
        BackendError: `qdq_problem`, or a tensor that has not the type or the dimensions; it names the slot.
    """
    row = rounding.row
    if problem := qdq_problem(rounding, opset) or _value_problem(value, row, opset):
        raise rounding.refused(problem, PORTABLE_MAY)
    if row.is_identity(torch.float32):
        return value
    n, storage = NodeWriter(tape, opset, f"precc/{rounding.slot}"), storage_of(rounding)
    if row.granularity is None and not isinstance(storage, Integers):
        element = rounding.precision.element
        assert isinstance(element, FloatFormat)
        return cast_pair(n, value, element, storage.type)
    step = storage.step if isinstance(storage, Integers) else 1.0
    if not row.finds_scales:
        return quantized(n, value, n.number(row.scale.value * step), storage, {})
    try:
        scale, blocks = _found_scale(n, value, rounding)
    except FormatError as error:
        raise rounding.refused(str(error)) from error
    stepped = scale if step == 1.0 else n.op("Mul", scale, n.number(step))
    return quantized(n, value, _without_zeros(n, stepped, row), storage, blocks)


def _without_zeros(n: NodeWriter, scale: "ir.Value", row: Row) -> "ir.Value":
    """Scales by which all may be divided."""
    if row.scale.chosen_rule is not ScaleRule.NEAREST:
        return scale
    zero = n.op("Equal", scale, n.number(0.0), dtype="BOOL")
    return n.op("Where", zero, n.number(_ZERO_SCALE), scale, dtype="FLOAT")


def _value_problem(value: "ir.Value", row: Row, opset: int) -> str:
    dtype = value.dtype.name if value.dtype is not None else "unknown"
    if dtype != "FLOAT":
        return f"its values are {dtype}, and roundings are written for FLOAT"
    if not row.finds_scales:
        return ""
    if value.shape is None:
        return "a tensor of unknown rank has no scales"
    if 0 in tuple(value.shape) and row.granularity is not Granularity.TENSOR:
        return "QuantizeLinear has no blocks of a tensor without values"
    axis, rank = row.scale.axis, len(value.shape)
    if isinstance(value.shape[axis] if -rank <= axis < rank else 0, int):
        return ""
    if row.granularity is Granularity.ROW:
        return f"QuantizeLinear needs the length of a row, which dimension {axis} does not say"
    if row.granularity is Granularity.CHANNEL and opset < BLOCKS:
        return f"QuantizeLinear needs the number of channels below opset {BLOCKS}, which dimension {axis} does not say"
    return ""


def _found_scale(n: NodeWriter, value: "ir.Value", rounding: SlotRounding) -> "tuple[ir.Value, dict[str, Any]]":
    """Of the shape that QuantizeLinear wants, with the attributes that say so."""
    row, scaling = rounding.row, rounding.precision.own_scaling
    assert scaling is not None
    groups = grouped(n, value, row)
    found = group_scales(n, groups, row.scale, partial(_rounded_scale, fmt=scaling.scale_format))
    dims = dims_of(value)
    blocks = block_attributes(row, dims)
    if "block_size" in blocks:  # as many dimensions as the values have
        return (found if groups.cuts else groups.spread(n, found)), blocks
    shape = [dims[blocks["axis"]]] if blocks else []
    if len(dims_of(found)) != len(shape):  # there are dimensions of 1 beside
        found = n.op("Reshape", found, n.integers(*[-1] * len(shape)), shape=shape)
    return found, blocks


def _rounded_scale(n: NodeWriter, found: "ir.Value", fmt: FloatFormat) -> "ir.Value":
    """To the format of the scales, to nearest even; what exceeds it saturates."""
    if row_of(fmt).is_identity(torch.float32):
        return found
    storage = native_storage(fmt)
    assert storage is not None
    if width(storage.type) == 8:
        return n.cast(n.cast(found, storage.type, saturate=1), "FLOAT")
    return n.op("Min", n.cast(n.cast(found, storage.type), "FLOAT"), n.number(fmt.max))
