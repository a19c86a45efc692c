"""A float format that has an ONNX type: Cast to it and back."""

import math
from typing import TYPE_CHECKING

import torch

from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.formats import FloatFormat, Overflow
from precc.rounding import quantize, row_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["cast_pair"]


def cast_pair(n: NodeWriter, value: "ir.Value", fmt: FloatFormat, type: str) -> "ir.Value":
    """A value rounded to a format, by its ONNX type."""
    if not type.startswith("FLOAT8"):
        return n.cast(n.cast(value, type), "FLOAT")
    saturates = fmt.overflow is Overflow.SATURATE
    inside = value if saturates else _overflown(n, value, fmt)
    return n.cast(n.cast(inside, type, saturate=int(saturates)), "FLOAT")


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
