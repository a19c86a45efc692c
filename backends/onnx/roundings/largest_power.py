"""The power of two at or below a magnitude, by standard ops."""

from typing import TYPE_CHECKING

import numpy as np

from precc.backends.onnx.roundings.node_writer import NodeWriter

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["BITCAST_OPSET", "LARGEST", "largest_power", "power_in"]

#: The first opset in which the bits of a float can be read.
BITCAST_OPSET = 26

#: The largest number of float32.
LARGEST = float(np.finfo(np.float32).max)

#: The bits of its exponent.
_EXPONENT = 0x7F800000

#: What can be multiplied by ``2**23 + 1``, and what larger numbers are multiplied by before.
_LARGE, _SHRUNK = 2.0**104, 2.0**-30


def largest_power(n: NodeWriter, x: "ir.Value", wide: bool = True) -> "ir.Value":
    """The largest power of two up to ``|x|``, exactly; a power of two, infinity or NaN where `x` is not finite.

    For subnormal `x` it is anything up to ``2**-126``; from ``2**104`` on that power, unless it is to be `wide`.
    """
    if n.opset >= BITCAST_OPSET:
        return power_in(n, n.bit_cast(x, "INT32"))
    magnitude = n.op("Abs", x)
    if not wide:
        return _unit_in_the_first_place(n, n.op("Min", magnitude, n.number(_LARGE)))
    magnitude = n.op("Min", magnitude, n.number(LARGEST))
    large = n.op("GreaterOrEqual", magnitude, n.number(1.0), dtype="BOOL")
    factor = n.op("Where", large, n.number(_SHRUNK), n.number(1.0), dtype="FLOAT")
    return n.op("Div", _unit_in_the_first_place(n, n.op("Mul", magnitude, factor)), factor)


def power_in(n: NodeWriter, bits: "ir.Value") -> "ir.Value":
    """The same, of the bits of floats: what their exponents alone are, as floats."""
    return n.bit_cast(n.op("BitwiseAnd", bits, n.constant(np.array(_EXPONENT, dtype=np.int32))), "FLOAT")


def _unit_in_the_first_place(n: NodeWriter, magnitude: "ir.Value") -> "ir.Value":
    """``q - (1 - u) q`` of ``q = (2**23 + 1) |x|``, with each operation rounded (Rump 2009, algorithm 3.5)."""
    product = n.op("Mul", magnitude, n.number(2.0**23 + 1))
    return n.op("Sub", product, n.op("Mul", product, n.number(1 - 2.0**-24)))
