"""The body of `IntQuant`."""

from typing import TYPE_CHECKING

from precc.backends.onnx.roundings.function_writer import Uses, attribute_of, function_of
from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.roundings.rounding_modes import to_integer, without_negative_zero

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["int_quant"]

_INPUTS = ("x", "scale", "zeropt", "bitwidth")
_ATTRIBUTES = {"signed": "INT", "narrow": "INT", "rounding_mode": "STRING", "mode": "INT"}


def int_quant(uses: Uses, opset: int) -> "ir.Function":
    """Right for all nodes that have these attributes."""

    def body(n: NodeWriter, given: "dict[str, ir.Value]") -> "ir.Value":
        lowest, highest = _integer_ends(n, given["bitwidth"])
        x = n.op("Add", n.op("Div", given["x"], given["scale"]), given["zeropt"])
        limited = n.op("Clip", to_integer(n, uses, x), lowest, highest)
        code = without_negative_zero(n, n.op("Sub", limited, given["zeropt"]))
        return n.op("Mul", code, given["scale"])

    return function_of("IntQuant", _INPUTS, _ATTRIBUTES, opset, body)


def _integer_ends(n: NodeWriter, bitwidth: "ir.Value") -> "tuple[ir.Value, ir.Value]":
    """The least and the largest integer of a word; where float32 has not the largest, the next one inward."""
    signed = n.cast(attribute_of(n, "signed", "int"), "FLOAT")
    narrow = n.cast(attribute_of(n, "narrow", "int"), "FLOAT")
    beyond = n.op("Pow", n.number(2.0), n.op("Sub", bitwidth, signed))
    step = n.op("Max", n.number(1.0), n.op("Mul", beyond, n.number(2.0**-24)))
    lowest = n.op("Mul", n.op("Sub", n.op("Mul", narrow, step), beyond), signed)
    return lowest, n.op("Sub", beyond, step)
