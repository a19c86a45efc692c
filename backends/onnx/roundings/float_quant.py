"""The body of `FloatQuant`."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from precc.backends.onnx.roundings.function_writer import Uses, attribute_of, function_of, same
from precc.backends.onnx.roundings.largest_power import BITCAST_OPSET, largest_power
from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.roundings.rounding_modes import MODES, to_integer, without_negative_zero
from precc.rounding import RoundingMode

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["float_quant"]

_LARGEST_POWER = 2.0**127

_INPUTS = ("x", "scale", "exponent_bitwidth", "mantissa_bitwidth", "exponent_bias", "max_val")
_ATTRIBUTES = {
    "has_inf": "INT",
    "has_nan": "INT",
    "has_subnormal": "INT",
    "saturation": "INT",
    "rounding_mode": "STRING",
    "mode": "INT",
    "signed": "INT",
    "lowest": "FLOAT",
    "wide": "INT",
    "negative_zero": "INT",
    "by_carrier": "INT",
    "shrink": "FLOAT",
    "fine": "INT",
}


def float_quant(uses: Uses, opset: int) -> "ir.Function":
    """Right for all nodes that have these attributes."""

    def body(n: NodeWriter, given: "dict[str, ir.Value]") -> "ir.Value":
        two = n.number(2.0)
        shrink = attribute_of(n, "shrink", "float")
        smallest = n.op("Div", n.op("Pow", two, n.op("Sub", n.number(1.0), given["exponent_bias"])), shrink)
        scale = n.op("Mul", given["scale"], shrink)
        x = n.op("Div", given["x"], scale)
        power = n.op("Clip", _power(n, uses, x), smallest, n.number(_LARGEST_POWER))
        unit = n.op("Pow", two, n.op("Neg", given["mantissa_bitwidth"]))
        steps = {0: partial(_in_quanta, uses=uses, x=x, power=power, unit=unit)}
        steps[1] = partial(_in_powers, uses=uses, x=x, power=power, unit=unit)
        rounded = _limited(n, uses, x, uses.choose(n, "fine", steps), given["max_val"])
        zeros = {0: partial(without_negative_zero, x=rounded), 1: partial(same, x=rounded)}
        return n.op("Mul", uses.choose(n, "negative_zero", zeros), scale)

    return function_of("FloatQuant", _INPUTS, _ATTRIBUTES, opset, body)


def _in_quanta(n: NodeWriter, uses: Uses, x: "ir.Value", power: "ir.Value", unit: "ir.Value") -> "ir.Value":
    """To whole multiples of the quantum, ``power * unit``."""
    quantum = n.op("Mul", power, unit)
    return n.op("Mul", to_integer(n, uses, n.op("Div", x, quantum)), quantum)


def _in_powers(n: NodeWriter, uses: Uses, x: "ir.Value", power: "ir.Value", unit: "ir.Value") -> "ir.Value":
    """Likewise, but for the quantum itself: it may be subnormal, with which processors are slow."""
    significand = n.op("Div", n.op("Div", x, power), unit)
    return n.op("Mul", n.op("Mul", to_integer(n, uses, significand), unit), power)


def _power(n: NodeWriter, uses: Uses, x: "ir.Value") -> "ir.Value":
    if n.opset >= BITCAST_OPSET:
        return largest_power(n, x)
    return uses.choose(n, "wide", {wide: partial(largest_power, x=x, wide=bool(wide)) for wide in (0, 1)})


def _product(n: NodeWriter, x: "ir.Value", y: "ir.Value") -> "ir.Value":
    return n.op("Mul", x, y)


def _limited(n: NodeWriter, uses: Uses, x: "ir.Value", rounded: "ir.Value", highest: "ir.Value") -> "ir.Value":
    """What lies beyond the largest finite values: `x` before, `rounded` after rounding."""

    def saturated(n: NodeWriter) -> "ir.Value":
        return n.op("Clip", rounded, attribute_of(n, "lowest", "float"), highest)

    def nearest(n: NodeWriter) -> "ir.Value":
        return uses.choose(n, "signed", {0: unsigned, 1: signed})

    def signed(n: NodeWriter) -> "ir.Value":  # by 0 divided; `Where` is three times as slow
        fits = n.cast(n.op("Equal", saturated(n), rounded, dtype="BOOL"), "FLOAT")
        dividends = {0: partial(_product, x=rounded, y=fits), 1: partial(same, x=rounded)}
        return n.op("Div", uses.choose(n, "has_inf", dividends), fits)

    def unsigned(n: NodeWriter) -> "ir.Value":
        above, below = _overflows(n)
        lowest = attribute_of(n, "lowest", "float")
        cut = n.op("Where", n.op("Greater", rounded, highest, dtype="BOOL"), above, rounded, dtype="FLOAT")
        return n.op("Where", n.op("Less", cut, lowest, dtype="BOOL"), below, cut, dtype="FLOAT")

    def toward_zero(n: NodeWriter) -> "ir.Value":  # finite numbers stop at the ends
        above, below = _overflows(n)
        positive = n.op("Greater", x, n.number(0.0), dtype="BOOL")
        infinite = n.op("Where", positive, above, below, dtype="FLOAT")
        return n.op("Where", n.op("IsInf", x, dtype="BOOL"), infinite, saturated(n), dtype="FLOAT")

    def overflowing(n: NodeWriter) -> "ir.Value":
        to_zero = MODES.index(RoundingMode.TOWARD_ZERO)
        cases = {mode: nearest for mode in range(len(MODES))}
        return uses.choose(n, "mode", {**cases, to_zero: toward_zero})

    def compared(n: NodeWriter) -> "ir.Value":
        return uses.choose(n, "saturation", {0: overflowing, 1: saturated})

    return uses.choose(n, "by_carrier", {0: compared, 1: partial(same, x=rounded)})


def _overflows(n: NodeWriter) -> "tuple[ir.Value, ir.Value]":
    """What overflows above becomes, and below; an unsigned format has no negative infinity."""
    infinite = n.cast(attribute_of(n, "has_inf", "int"), "BOOL")
    above = n.op("Where", infinite, n.number(np.inf), n.number(np.nan), dtype="FLOAT")
    signed = n.cast(attribute_of(n, "signed", "int"), "BOOL")
    return above, n.op("Where", signed, n.op("Neg", above), n.number(np.nan), dtype="FLOAT")
