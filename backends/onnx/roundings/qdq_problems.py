"""Why ONNX's own casts and quantisers cannot compute a rounding exactly, and from which opset on they can."""

import torch

from precc.backends.onnx.roundings.format_types import native_storage
from precc.backends.onnx.roundings.quantize_linear import BLOCKS, QUANTISERS, quantised_from
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.weights.storage import Floats, Integers, Storage
from precc.formats import ElementFormat, FloatFormat, Granularity, Overflow, ScaleRule, Scaling
from precc.rounding import RoundingMode, Row, row_of
from precc.rounding.tensor_ops import carrier_of_dtype

__all__ = ["PORTABLE_MAY", "qdq_opset", "qdq_problem", "storage_of"]

#: The way out of a problem.
PORTABLE_MAY = "flavor='portable' may express it"

#: The first opset that has Cast to BFLOAT16.
_CASTS = 13

#: Types that QuantizeLinear lacks.
_NOT_QUANTIZED = ("FLOAT16", "BFLOAT16")

#: What Cast rounds scales to.
_SCALE_TYPES = ("FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")

#: Quotients that float32 rounds, being subnormal, are nothing beside this step.
_LEAST_STEP = 2.0**-100


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
        raise rounding.refused(problem, PORTABLE_MAY)
    row, scaling = rounding.row, rounding.precision.own_scaling
    if row.is_identity(torch.float32):
        return _CASTS
    storage = storage_of(rounding)
    needed = [_CASTS, storage.opset]
    if row.granularity is not None or isinstance(storage, Integers):
        needed.append(quantised_from(storage))
    if row.granularity in (Granularity.BLOCK, Granularity.ROW):
        needed.append(BLOCKS)
    if scaling is not None and row.finds_scales:
        known = native_storage(scaling.scale_format) if scaling.rule is ScaleRule.NEAREST else None
        needed.append(known.opset if known is not None else QUANTISERS)
    return max(needed)


def storage_of(rounding: SlotRounding) -> Storage:
    """The ONNX type of the single values of a rounding that has no problem."""
    found = native_storage(rounding.precision.element)
    assert found is not None, "a rounding without a problem has an ONNX type"
    return found


def _problem(rounding: SlotRounding) -> str:
    """Why no opset does."""
    precision, row = rounding.precision, rounding.row
    if rounding.problem:
        return rounding.problem
    if row.mode is not RoundingMode.NEAREST_EVEN:
        return f"standard ops round to nearest even, not {str(precision.rounding)!r}"
    if row.is_identity(torch.float32):
        return ""
    scaling = precision.own_scaling
    return _element_problem(precision.element, row) or (_scale_problem(scaling) if scaling is not None else "")


def _element_problem(element: ElementFormat, row: Row) -> str:
    storage = native_storage(element)
    if storage is None:
        return f"ONNX has no type with the values of {element.name!r}, and no others"
    if carrier_of_dtype(torch.float32, row).dtype is not torch.float32:
        return "precc rounds it in float64, and standard ops in float32"
    if isinstance(storage, Integers):
        if _divides_exactly(storage.step, row):
            return ""
        return f"not every scale times the step of {element.name!r} is one that float32 divides by exactly"
    if row.granularity is not None:
        return f"QuantizeLinear does not round to {storage.type}" if storage.type in _NOT_QUANTIZED else ""
    overflow = element.overflow if isinstance(element, FloatFormat) else Overflow.INF
    if isinstance(storage, Floats) and overflow is not Overflow.INF:
        return f"Cast to {storage.type} overflows to infinity, not by the rule {overflow.value!r}"
    return ""


def _divides_exactly(step: float, row: Row) -> bool:
    """Whether ``x / (s * step)`` is ``(x / s) / step`` for every scale s, but for what rounds to 0 or saturates."""
    scale = row.scale
    if not row.finds_scales:
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
