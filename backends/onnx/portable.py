"""A slot's rounding by QONNX's quantisers, which any runtime computes that knows standard ops and functions."""

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from precc.backends.onnx.node_writer import QUANT_DOMAIN, NodeWriter
from precc.backends.onnx.quant_functions import BITCAST_OPSET, LARGEST, MODES
from precc.backends.onnx.scale_nodes import group_scales, grouped, is_nearest_power
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.errors import BackendError, FormatError
from precc.formats import (
    FORMATS,
    BlockFormat,
    ElementFormat,
    FixedPoint,
    FloatFormat,
    Granularity,
    NestedInteger,
    Overflow,
    ScaleRule,
    Scaling,
)
from precc.precision import Precision
from precc.rounding import RoundingMode, Row, row_of
from precc.rounding.row import ScaleRow
from precc.rounding.tensor_ops import carrier_of

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.tape import Tape

__all__ = ["LEAST_OPSET", "add_portable_rounding", "portable_problem"]

#: The first opset whose reductions take axes as an input, and that has `BitwiseAnd`.
LEAST_OPSET = 18

#: QONNX's names of the modes.
_NAMES = {
    RoundingMode.NEAREST_EVEN: "ROUND",
    RoundingMode.NEAREST_AWAY: "HALF_UP",
    RoundingMode.TOWARD_ZERO: "DOWN",
}

#: Exponents of the smallest normal and of the largest number of float32.
_FLOAT32_EMIN, _FLOAT32_EMAX = -126, 127

#: The types of ONNX that are rounded in float32.
_DTYPES = {"FLOAT": torch.float32, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16}


def portable_problem(rounding: SlotRounding, opset: int) -> str:
    """Why standard ops of this opset cannot compute a rounding exactly; empty if they can."""
    precision, row = rounding.precision, rounding.row
    if opset < LEAST_OPSET:
        return f"portable roundings need opset {LEAST_OPSET} or later, not {opset}"
    if precision.transform is not None:
        return f"the transform {precision.transform.value!r} is not expressed in ONNX"
    if precision.rounding.mode not in MODES:
        return f"the rounding {str(precision.rounding)!r} draws numbers, or needs more than the value"
    if row.lacks_history:
        return "its scale comes from a history that has no record yet: run the net once, or give the scale"
    if row.is_identity(torch.float32):
        return ""
    return _scale_problem(_scaling(precision), row) or _element_problem(_element(precision), row)


def _element(precision: Precision) -> ElementFormat:
    """The format of single values; of a real-valued bias the integer below, for the rest is a static scale."""
    fmt = precision.format
    element = fmt.element if isinstance(fmt, BlockFormat) else fmt
    if not isinstance(element, FloatFormat):
        return element
    element = replace(element, bias=math.floor(element.bias))
    return element if precision.scaling is None else element.with_overflow(Overflow.SATURATE)


def _scaling(precision: Precision) -> Scaling | None:
    return precision.format.scaling if isinstance(precision.format, BlockFormat) else precision.scaling


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
    if scaling is None or row.granularity in (None, Granularity.STATIC):
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
    return carrier_of(torch.empty(0), row).dtype is torch.float64


def _unscaled(row: Row) -> Row:
    return replace(row, scale=ScaleRow())


def _with_any_values(row: Row) -> Row:
    """With the values of float32, so that only the scales count."""
    return replace(row, grid=row_of(FORMATS["float32"]).grid)


def add_portable_rounding(tape: "Tape", value: "ir.Value", rounding: SlotRounding, opset: int) -> "ir.Value":
    """Nodes that round a tensor, in the type of the tensor; the tensor itself where nothing can change.

    Args:
        tape: collects the nodes.
        value: FLOAT, FLOAT16 or BFLOAT16; of a known rank where it has scales.
        rounding: of the slot.
        opset: of the default domain.

    Raises:
        BackendError: `portable_problem`, another type, or a tensor that has not the dimensions; it names the slot.
    """
    n = NodeWriter(tape, opset, f"precc/{rounding.slot}")
    dtype = value.dtype.name if value.dtype is not None else "unknown"
    if dtype not in _DTYPES:
        raise BackendError(
            f"slot {rounding.slot!r}: a {dtype} tensor cannot be rounded by standard ops: {', '.join(_DTYPES)} can"
        )
    if problem := portable_problem(rounding, opset):
        raise BackendError(f"slot {rounding.slot!r}: {problem}; flavor='annotate' exports it without rounding")
    row = rounding.row
    if row.is_identity(_DTYPES[dtype]) or (value.shape is not None and 0 in value.shape):
        return value
    carried = value if dtype == "FLOAT" else n.op("Cast", value, dtype="FLOAT", to=1)
    try:
        rounded = _rounded(n, carried, rounding.precision, row)
    except FormatError as error:
        raise BackendError(f"slot {rounding.slot!r}: {error}") from error
    return rounded if dtype == "FLOAT" else n.op("Cast", rounded, dtype=dtype, to=int(value.dtype or 0))


def _rounded(n: NodeWriter, x: "ir.Value", precision: Precision, row: Row) -> "ir.Value":
    element, scaling = _element(precision), _scaling(precision)
    if scaling is None or row.granularity is Granularity.STATIC:
        return _static(n, x, element, row)
    if x.shape is None:
        raise FormatError("a tensor of unknown rank has no groups of values with a scale each")
    groups = grouped(n, x, row)
    scale = group_scales(n, groups, row.scale, partial(_rounded_scale, fmt=scaling.scale_format))
    divisor = scale
    if scaling.rule is ScaleRule.NEAREST and scaling.scale_format.zero:  # a scale of 0: infinity leaves zeros
        zero = n.op("Equal", scale, n.number(0.0), dtype="BOOL")
        divisor = n.op("Where", zero, n.number(math.inf), scale, dtype="FLOAT")
    scaled = _quantised(n, n.op("Div", groups.values, divisor), element, row, 1.0)
    return groups.restored(n, n.op("Mul", scaled, scale))


def _static(n: NodeWriter, x: "ir.Value", element: ElementFormat, row: Row) -> "ir.Value":
    """With one scale that is known, which is that of the quantiser where this gives the same bits."""
    scale = row.scale.value
    if isinstance(element, FloatFormat) or (isinstance(element, FixedPoint) and _is_one_scale(element, scale)):
        return _quantised(n, x, element, row, scale)
    if scale == 1.0:
        return _quantised(n, x, element, row, 1.0)
    number = n.number(scale)
    return n.op("Mul", _quantised(n, n.op("Div", x, number), element, row, 1.0), number)


def _is_one_scale(element: FixedPoint, scale: float) -> bool:
    """Whether ``scale * quantum`` is a normal number, and what underflows, divided by the scale, rounds to 0."""
    return element.k_min >= -100 and 2.0**-126 <= scale * element.quantum <= 2.0**127


def _quantised(n: NodeWriter, x: "ir.Value", element: ElementFormat, row: Row, scale: float) -> "ir.Value":
    if isinstance(element, FloatFormat):
        return _float_quant(n, x, element, row.mode, scale)
    stages = element.stages if isinstance(element, NestedInteger) else (element,)
    for stage in stages:
        assert isinstance(stage, FixedPoint)
        x = _int_quant(n, x, stage, row.mode, scale)
    return x


def _float_quant(n: NodeWriter, x: "ir.Value", fmt: FloatFormat, mode: RoundingMode, scale: float) -> "ir.Value":
    # the rule, not the code, is what the attributes mean to QONNX's executor
    inputs = [scale, fmt.exponent_bits, fmt.mantissa_bits, 1 - fmt.emin, fmt.max]
    by_carrier = _overflows_by_carrier(fmt, mode, n.opset)
    headroom = _FLOAT32_EMAX - fmt.emax if by_carrier else 0
    return n.op(
        "FloatQuant",
        x,
        *map(n.number, inputs),
        domain=QUANT_DOMAIN,
        has_inf=int(fmt.has_inf and fmt.overflow is not Overflow.NAN),
        has_nan=int(fmt.has_nan),
        has_subnormal=int(fmt.subnormals),
        saturation=int(fmt.overflow is Overflow.SATURATE),
        rounding_mode=_NAMES[mode],
        mode=MODES.index(mode),
        signed=int(fmt.signed),
        lowest=fmt.low,
        wide=int(fmt.max >= 2.0**104),
        negative_zero=int(fmt.has_negative_zero),
        by_carrier=int(by_carrier),
        shrink=2.0**-headroom,
        fine=int(fmt.emin - fmt.mantissa_bits + headroom < _FLOAT32_EMIN),
        shape=x.shape,
    )


def _overflows_by_carrier(fmt: FloatFormat, mode: RoundingMode, opset: int) -> bool:
    """Whether float32, scaled by a power of two, overflows to infinity where the format does.

    Comparing costs as much as all the rest. Before bits can be read, values up to the end of float32 cost more.
    """
    overflows = fmt.overflow is Overflow.INF and fmt.signed and mode is not RoundingMode.TOWARD_ZERO
    is_full = fmt.max == (2 - 2.0**-fmt.mantissa_bits) * 2.0**fmt.emax
    return overflows and is_full and (opset >= BITCAST_OPSET or fmt.emax == _FLOAT32_EMAX)


def _int_quant(n: NodeWriter, x: "ir.Value", fmt: FixedPoint, mode: RoundingMode, scale: float) -> "ir.Value":
    inputs = [scale * fmt.quantum, 0.0, fmt.word]
    return n.op(
        "IntQuant",
        x,
        *map(n.number, inputs),
        domain=QUANT_DOMAIN,
        signed=int(fmt.signed),
        narrow=int(fmt.symmetric),
        rounding_mode=_NAMES[mode],
        mode=MODES.index(mode),
        shape=x.shape,
    )


def _rounded_scale(n: NodeWriter, found: "ir.Value", fmt: FloatFormat) -> "ir.Value":
    """To the format of the scales, to nearest even; what exceeds it saturates."""
    if fmt.mantissa_bits < 23:
        return _float_quant(n, found, fmt.with_overflow(Overflow.SATURATE), RoundingMode.NEAREST_EVEN, 1.0)
    return n.op("Min", found, n.number(fmt.max)) if fmt.max <= LARGEST else found
