"""A slot's rounding by ONNX's own casts and quantisers, as TensorRT and other compilers expect it.

A float format that has an ONNX type is a pair of ``Cast``; fixed point and what is scaled is ``QuantizeLinear`` and
``DequantizeLinear``. Both give precc's values bit for bit, with the exceptions that `qdq_limits` names.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from precc.backends.onnx.format_types import native_storage
from precc.backends.onnx.node_writer import NodeWriter
from precc.backends.onnx.scale_nodes import group_scales, grouped
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.storage import Floats, Integers, Storage, Stored, cast, width
from precc.backends.onnx.stored_weights import element_of, scaling_of
from precc.errors import BackendError, FormatError
from precc.extras import imported
from precc.formats import ElementFormat, FloatFormat, Granularity, Overflow, ScaleRule, Scaling
from precc.rounding import RoundingMode, Row, quantize, row_of
from precc.rounding.tensor_ops import carrier_of

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.tape import Tape

__all__ = [
    "add_qdq_rounding",
    "block_attributes",
    "dequantized",
    "qdq_opset",
    "qdq_problem",
    "quantised_from",
]

#: The first opsets that have: Cast to BFLOAT16; quantisers that the reference evaluator knows; their blocks.
_CASTS, _QUANTISERS, _BLOCKS = 13, 19, 21

#: QuantizeLinear's first opset with a type, where it is later; types that it lacks.
_QUANTIZED = {"INT16": 21, "UINT16": 21}
_NOT_QUANTIZED = ("FLOAT16", "BFLOAT16")

#: What Cast rounds scales to.
_SCALE_TYPES = ("FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")

#: Quotients that float32 rounds, being subnormal, are nothing beside this step.
_LEAST_STEP = 2.0**-100

#: Stands for a scale of 0: what has that scale becomes 0.
_ZERO_SCALE = 2.0**126


def qdq_problem(rounding: SlotRounding, opset: int) -> str:
    """Why standard ops of an opset do not compute a rounding; empty if they do."""
    if problem := _problem(rounding):
        return problem
    needed = qdq_opset(rounding)
    return f"standard ops express {rounding.precision} from opset {needed} on, not in {opset}" if opset < needed else ""


def qdq_opset(rounding: SlotRounding) -> int:
    """The first opset of the default domain whose standard ops compute a rounding.

    Raises:
        BackendError: none does; it names the slot.
    """
    if problem := _problem(rounding):
        raise BackendError(f"slot {rounding.slot!r}: {problem}; flavor='portable' may express it")
    row, scaling = rounding.row, scaling_of(rounding.precision)
    if row.is_identity(torch.float32):
        return _CASTS
    storage = _storage(rounding)
    needed = [_CASTS, storage.opset]
    if row.granularity is not None or isinstance(storage, Integers):
        needed.append(quantised_from(storage))
    if row.granularity in (Granularity.BLOCK, Granularity.ROW):
        needed.append(_BLOCKS)
    if scaling is not None and row.granularity is not Granularity.STATIC:
        known = native_storage(scaling.scale_format) if scaling.rule is ScaleRule.NEAREST else None
        needed.append(known.opset if known is not None else _QUANTISERS)
    return max(needed)


def quantised_from(storage: Storage) -> int:
    """The first opset in which DequantizeLinear reads an ONNX type."""
    return max(storage.opset, _QUANTIZED.get(storage.type, _QUANTISERS))


def _storage(rounding: SlotRounding) -> Storage:
    found = native_storage(element_of(rounding.precision))
    assert found is not None, "a rounding without a problem has an ONNX type"
    return found


def _problem(rounding: SlotRounding) -> str:
    """Why no opset does."""
    precision, row = rounding.precision, rounding.row
    if precision.transform is not None:
        return f"no standard op is the transform {precision.transform.value!r}"
    if row.mode is not RoundingMode.NEAREST_EVEN:
        return f"standard ops round to nearest even, not {str(precision.rounding)!r}"
    if row.lacks_history:
        return "its scale comes from a history that has no record yet: run the net once, or give the scale"
    if row.is_identity(torch.float32):
        return ""
    scaling = scaling_of(precision)
    return _element_problem(element_of(precision), row) or (_scale_problem(scaling) if scaling is not None else "")


def _element_problem(element: ElementFormat, row: Row) -> str:
    storage = native_storage(element)
    if storage is None:
        return f"ONNX has no type with the values of {element.name!r}, and no others"
    if carrier_of(torch.empty(0), row).dtype is not torch.float32:
        return "precc rounds it in float64, and standard ops in float32"
    if isinstance(storage, Integers):
        exact = _divides_exactly(storage.step, row)
        return (
            ""
            if exact
            else f"not every scale times the step of {element.name!r} is one that float32 divides by exactly"
        )
    if row.granularity is not None:
        return f"QuantizeLinear does not round to {storage.type}" if storage.type in _NOT_QUANTIZED else ""
    overflow = element.overflow if isinstance(element, FloatFormat) else Overflow.INF
    if isinstance(storage, Floats) and overflow is not Overflow.INF:
        return f"Cast to {storage.type} overflows to infinity, not by the rule {overflow.value!r}"
    return ""


def _divides_exactly(step: float, row: Row) -> bool:
    """Whether ``x / (s * step)`` is ``(x / s) / step`` for every scale s, but for what rounds to 0 or saturates."""
    scale = row.scale
    if row.granularity in (None, Granularity.STATIC):
        return _LEAST_STEP <= step and 2.0**-126 <= step * scale.value <= 2.0**126
    if step == 1.0:
        return True
    smallest, largest = step * scale.low, step * min(scale.high, 2.0**129 / scale.element_high)  # of float32 values
    return not scale.two_level and _LEAST_STEP <= step and 2.0**-149 <= smallest and largest < 2.0**128


def _scale_problem(scaling: Scaling) -> str:
    fmt = scaling.scale_format
    if scaling.granularity is Granularity.TILE:
        return "QuantizeLinear has blocks along one dimension, not tiles"
    given = scaling.granularity is Granularity.STATIC or scaling.rule is not ScaleRule.NEAREST
    if given or row_of(fmt).is_identity(torch.float32):
        return ""
    known = native_storage(fmt)
    fits = known is not None and known.type in _SCALE_TYPES
    return "" if fits else f"no Cast rounds scales to {fmt.name!r} as precc does"


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
        raise BackendError(f"slot {rounding.slot!r}: {problem}; flavor='portable' may express it")
    if row.is_identity(torch.float32) or (value.shape is not None and 0 in value.shape):
        return value
    n, storage = NodeWriter(tape, opset, f"precc/{rounding.slot}"), _storage(rounding)
    if row.granularity is None and not isinstance(storage, Integers):
        return _cast_pair(n, value, element_of(rounding.precision), storage)
    step = storage.step if isinstance(storage, Integers) else 1.0
    if row.granularity in (None, Granularity.STATIC):
        return _quantized(n, value, n.number(row.scale.value * step), storage, {})
    try:
        scale, blocks = _found_scale(n, value, rounding)
    except FormatError as error:
        raise BackendError(f"slot {rounding.slot!r}: {error}") from error
    stepped = scale if step == 1.0 else n.op("Mul", scale, n.number(step))
    return _quantized(n, value, _without_zeros(n, stepped, row), storage, blocks)


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
    if row.granularity in (None, Granularity.STATIC):
        return ""
    if value.shape is None:
        return "a tensor of unknown rank has no scales"
    axis, rank = row.scale.axis, len(value.shape)
    if isinstance(value.shape[axis] if -rank <= axis < rank else 0, int):
        return ""
    if row.granularity is Granularity.ROW:
        return f"QuantizeLinear needs the length of a row, which dimension {axis} does not say"
    if row.granularity is Granularity.CHANNEL and opset < _BLOCKS:
        return f"QuantizeLinear needs the number of channels below opset {_BLOCKS}, which dimension {axis} does not say"
    return ""


def _cast_pair(n: NodeWriter, value: "ir.Value", fmt: ElementFormat, storage: Storage) -> "ir.Value":
    assert isinstance(fmt, FloatFormat)
    if not storage.type.startswith("FLOAT8"):
        return cast(n, cast(n, value, storage.type), "FLOAT")
    saturates = fmt.overflow is Overflow.SATURATE
    inside = value if saturates else _overflown(n, value, fmt)
    return cast(n, cast(n, inside, storage.type, saturate=int(saturates)), "FLOAT")


def _overflown(n: NodeWriter, value: "ir.Value", fmt: FloatFormat) -> "ir.Value":
    """With infinity or NaN for what overflows to it: onnxruntime 1.32 makes other values of the first that do.

    Its Cast to FLOAT8E5M2 makes NaN of 61440 to 65536, that to FLOAT8E4M3FN makes 448 of 480 to 496.
    """
    middle = torch.tensor(fmt.max + 2.0 ** (fmt.emax - fmt.mantissa_bits - 1))
    stays = bool(quantize(middle, row_of(fmt)) == fmt.max)
    first = torch.nextafter(middle, torch.tensor(math.inf)) if stays else middle
    beyond = n.op("GreaterOrEqual", n.op("Abs", value), n.number(float(first)), dtype="BOOL")
    above = math.inf if fmt.overflow is Overflow.INF else math.nan
    return n.op("Where", beyond, n.op("Mul", value, n.number(above)), value, dtype="FLOAT")


def _quantized(
    n: NodeWriter, value: "ir.Value", scale: "ir.Value", storage: Storage, blocks: dict[str, Any]
) -> "ir.Value":
    inputs, attributes = [value, scale], dict(blocks)
    if n.opset >= _BLOCKS:
        attributes["output_dtype"] = int(imported("onnx_ir", "onnx").DataType[storage.type])
    else:
        inputs.append(_zeros(n, storage, tuple(scale.shape or ())))
    codes = n.op("QuantizeLinear", *inputs, dtype=storage.type, shape=_dims(value), **attributes)
    return dequantized(n, codes, scale, blocks)


def _dims(value: "ir.Value") -> tuple[Any, ...] | None:
    return None if value.shape is None else tuple(value.shape)


def _zeros(n: NodeWriter, storage: Storage, shape: tuple[Any, ...]) -> "ir.Value":
    """Zero points, which say the type of the codes."""
    return Stored(storage, storage.encode(torch.zeros(shape))).add_codes(n, f"zero_{len(n.tape.initializers)}")


def dequantized(n: NodeWriter, codes: "ir.Value", scale: "ir.Value", blocks: dict[str, Any]) -> "ir.Value":
    """Codes times scales, FLOAT; with ``axis`` of the scales of channels, and ``block_size`` of blocks."""
    output: dict[str, Any] = {}
    if scale.dtype is not None and scale.dtype.name != "FLOAT":
        output["output_dtype"] = int(imported("onnx_ir", "onnx").DataType.FLOAT)
    return n.op("DequantizeLinear", codes, scale, dtype="FLOAT", shape=_dims(codes), **blocks, **output)


def _found_scale(n: NodeWriter, value: "ir.Value", rounding: SlotRounding) -> "tuple[ir.Value, dict[str, Any]]":
    """Of the shape that QuantizeLinear wants, with the attributes that say so."""
    row, scaling = rounding.row, scaling_of(rounding.precision)
    assert scaling is not None
    groups = grouped(n, value, row)
    found = group_scales(n, groups, row.scale, partial(_rounded_scale, fmt=scaling.scale_format))
    dims = _dims(value) or ()
    blocks = block_attributes(row, dims)
    if "block_size" not in blocks:
        shape = [dims[blocks["axis"]]] if blocks else []
        return n.op("Reshape", found, n.integers(*[-1] * len(blocks)), shape=shape), blocks
    if groups.cuts:  # the scales have a dimension of 1 where their blocks lie
        inner = blocks["axis"] + 1
        kept = [dim for place, dim in enumerate(_dims(found) or ()) if place != inner]
        found = n.op("Squeeze", found, n.integers(inner), shape=kept)
    return found, blocks


def block_attributes(row: Row, shape: Sequence[Any]) -> dict[str, Any]:
    """Which dimension of a tensor the scales of channels or blocks are along, and the size of blocks; not of tiles."""
    if row.granularity in (None, Granularity.STATIC, Granularity.TENSOR) or not len(shape):
        return {}
    axis = row.scale.axis % len(shape)
    if row.granularity is Granularity.CHANNEL:
        return {"axis": axis}
    return {"axis": axis, "block_size": shape[axis] if row.granularity is Granularity.ROW else row.scale.columns}


def _rounded_scale(n: NodeWriter, found: "ir.Value", fmt: FloatFormat) -> "ir.Value":
    """To the format of the scales, to nearest even; what exceeds it saturates."""
    if row_of(fmt).is_identity(torch.float32):
        return found
    storage = native_storage(fmt)
    assert storage is not None
    if width(storage.type) == 8:
        return cast(n, cast(n, found, storage.type, saturate=1), "FLOAT")
    return n.op("Min", cast(n, cast(n, found, storage.type), "FLOAT"), n.number(fmt.max))
