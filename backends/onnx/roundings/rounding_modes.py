"""Rounding to integers in each mode that the quantisers have."""

from functools import partial
from typing import TYPE_CHECKING

from precc.backends.onnx.roundings.function_writer import Uses
from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.rounding import RoundingMode

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["MODES", "to_integer", "without_negative_zero"]

#: The modes, by the number that the attribute ``mode`` has.
MODES = (RoundingMode.NEAREST_EVEN, RoundingMode.NEAREST_AWAY, RoundingMode.TOWARD_ZERO)


def to_integer(n: NodeWriter, uses: Uses, x: "ir.Value") -> "ir.Value":
    """By the attribute ``mode``."""
    branches = (_to_even, _away_from_zero, _toward_zero)  # as in MODES
    return uses.choose(n, "mode", {mode: partial(branch, x=x) for mode, branch in enumerate(branches)})


def _to_even(n: NodeWriter, x: "ir.Value") -> "ir.Value":
    return n.op("Round", x)


def _away_from_zero(n: NodeWriter, x: "ir.Value") -> "ir.Value":
    """The nearest, ties away from zero: the distance to the nearest is exact."""
    nearest, half = n.op("Round", x), n.number(0.5)
    tie = n.op("Equal", n.op("Abs", n.op("Sub", x, nearest)), half, dtype="BOOL")
    away = n.op("Add", x, n.op("Mul", n.op("Sign", x), half))
    return n.op("Where", tie, away, nearest, dtype="FLOAT")


def _toward_zero(n: NodeWriter, x: "ir.Value") -> "ir.Value":
    # onnxruntime's `Where` makes 0 of a -0 that it takes where the condition holds: that must be for positive `x`
    positive = n.op("Greater", x, n.number(0.0), dtype="BOOL")
    return n.op("Where", positive, n.op("Floor", x), n.op("Ceil", x), dtype="FLOAT")


def without_negative_zero(n: NodeWriter, x: "ir.Value") -> "ir.Value":
    """-0 as 0. An `Add` of 0 is what optimizers take away."""
    return n.op("Sum", x, n.number(0.0))
