"""Why QONNX's quantisers, with bodies of standard ops in float32, cannot compute a rounding exactly."""

import math
from dataclasses import replace

import torch

from precc.backends.onnx.roundings.largest_power import LARGEST
from precc.backends.onnx.roundings.quantiser_nodes import quantised_element
from precc.backends.onnx.roundings.rounding_modes import MODES
from precc.backends.onnx.roundings.scale_nodes import is_nearest_power
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.formats import FORMATS, ElementFormat, FixedPoint, FloatFormat, NestedInteger, ScaleRule, Scaling
from precc.rounding import RoundingMode, Row, row_of
from precc.rounding.row import ScaleRow
from precc.rounding.tensor_ops import carrier_of_dtype

__all__ = ["LEAST_OPSET", "portable_problem"]

#: The first opset whose reductions take axes as an input, and that has `BitwiseAnd`.
LEAST_OPSET = 18


def portable_problem(rounding: SlotRounding, opset: int) -> str:
    """Why standard ops of this opset cannot compute a rounding exactly; empty if they can."""
    precision, row = rounding.precision, rounding.row
    if opset < LEAST_OPSET:
        return f"portable roundings need opset {LEAST_OPSET} or later, not {opset}"
    if rounding.problem:
        return rounding.problem
    if precision.rounding.mode not in MODES:
        return f"the rounding {str(precision.rounding)!r} draws numbers, or needs more than the value"
    if row.is_identity(torch.float32):
        return ""
    return _scale_problem(precision.own_scaling, row) or _element_problem(quantised_element(precision), row)


def _element_problem(element: ElementFormat, row: Row) -> str:
    if isinstance(element, FloatFormat):
        return _float_problem(element, row)
    if isinstance(element, FixedPoint):
        return _fixed_problem(element, row)
    if isinstance(element, NestedInteger):
        return next(filter(None, (_fixed_problem(stage, row) for stage in element.stages)), "")
    return f"{element.name!r} is a power-law grid, which QONNX's quantisers do not have"


def _float_problem(element: FloatFormat, row: Row) -> str:
    if row.grid.ties and not element.mantissa_bits and row.mode is RoundingMode.NEAREST_EVEN:
        return f"ties of {element.name!r} go to even codes, which needs more than the value"
    if element.emin < -127 or row.grid.k_min < -149 or row.grid.high > LARGEST:
        return f"{element.name!r} has values that float32 has not"
    if row.grid.k_min > element.emin - element.mantissa_bits:
        return f"{element.name!r} has no subnormal numbers, which QONNX's quantiser has"
    if row.granularity is not None and _needs_float64(_unscaled(row)):
        return f"{element.name!r} is scaled in float64"
    return ""


def _fixed_problem(element: FixedPoint, row: Row) -> str:
    if element.word == 1 and element.signed:
        return f"QONNX takes a signed integer of one bit, as of {element.name!r}, for -1 or 1"
    if element.fraction > 149 or _needs_float64(_unscaled(row)):
        return f"{element.name!r} has values that float32 has not"
    return ""


def _scale_problem(scaling: Scaling | None, row: Row) -> str:
    if scaling is None or not row.finds_scales:
        return "the scale is no normal number of float32" if _needs_float64(_with_any_values(row)) else ""
    fmt = scaling.scale_format
    if is_nearest_power(row.scale):
        few = not math.ldexp(math.frexp(row.scale.element_high)[0], 20) % 1 and row.grid.k_min >= -100
        needs_float64 = scaling.two_level or not few
    else:
        needs_float64 = _needs_float64(_with_any_values(row)) or (scaling.two_level and fmt.max > LARGEST)
    if needs_float64:
        return f"scales of {fmt.name!r} by the rule {scaling.rule.value!r} need float64"
    if scaling.rule is ScaleRule.NEAREST and not fmt.subnormals and fmt.mantissa_bits:
        return f"{fmt.name!r}, of the scales, has no subnormal numbers, which QONNX's quantiser has"
    return ""


def _needs_float64(row: Row) -> bool:
    return carrier_of_dtype(torch.float32, row).dtype is torch.float64


def _unscaled(row: Row) -> Row:
    return replace(row, scale=ScaleRow())


def _with_any_values(row: Row) -> Row:
    """With the values of float32, so that only the scales count."""
    return replace(row, grid=row_of(FORMATS["float32"]).grid)
