"""Nodes of QONNX's `FloatQuant` and `IntQuant`: what rounds to a format of single values."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from precc.backends.onnx.roundings.largest_power import BITCAST_OPSET, LARGEST
from precc.backends.onnx.roundings.node_writer import QUANT_DOMAIN, NodeWriter
from precc.backends.onnx.roundings.rounding_modes import MODES
from precc.formats import ElementFormat, FixedPoint, FloatFormat, NestedInteger, Overflow
from precc.precision import Precision
from precc.rounding import RoundingMode

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["quantised", "quantised_element", "rounded_scale"]

#: QONNX's names of the modes.
_NAMES = {
    RoundingMode.NEAREST_EVEN: "ROUND",
    RoundingMode.NEAREST_AWAY: "HALF_UP",
    RoundingMode.TOWARD_ZERO: "DOWN",
}

#: Exponents of the smallest normal and of the largest number of float32.
_FLOAT32_EMIN, _FLOAT32_EMAX = -126, 127


def quantised_element(precision: Precision) -> ElementFormat:
    """The format of single values; of a real-valued bias the integer below, for the rest is a static scale."""
    element = precision.element
    if not isinstance(element, FloatFormat):
        return element
    element = replace(element, bias=math.floor(element.bias))
    return element if precision.scaling is None else element.with_overflow(Overflow.SATURATE)


def quantised(
    n: NodeWriter, x: "ir.Value", element: ElementFormat, mode: RoundingMode, scale: float = 1.0
) -> "ir.Value":
    """A float32 tensor rounded to values of a format, times one scale."""
    if isinstance(element, FloatFormat):
        return _float_quant(n, x, element, mode, scale)
    stages = element.stages if isinstance(element, NestedInteger) else (element,)
    for stage in stages:
        assert isinstance(stage, FixedPoint)
        x = _int_quant(n, x, stage, mode, scale)
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


def rounded_scale(n: NodeWriter, found: "ir.Value", fmt: FloatFormat) -> "ir.Value":
    """To the format of the scales, to nearest even; what exceeds it saturates."""
    if fmt.mantissa_bits < 23:
        return _float_quant(n, found, fmt.with_overflow(Overflow.SATURATE), RoundingMode.NEAREST_EVEN, 1.0)
    return n.op("Min", found, n.number(fmt.max)) if fmt.max <= LARGEST else found
