"""A slot's rounding by QONNX's quantisers, which any runtime computes that knows standard ops and functions."""

import math
from functools import partial
from typing import TYPE_CHECKING

from precc.backends.onnx.roundings.node_writer import NodeWriter
from precc.backends.onnx.roundings.onnx_types import TORCH_TYPES
from precc.backends.onnx.roundings.portable_problems import portable_problem
from precc.backends.onnx.roundings.quantiser_nodes import quantised, quantised_element, rounded_scale
from precc.backends.onnx.roundings.scale_nodes import group_scales
from precc.backends.onnx.roundings.value_groups import grouped
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.errors import FormatError
from precc.formats import ElementFormat, FixedPoint, FloatFormat, ScaleRule
from precc.precision import Precision
from precc.rounding import Row

if TYPE_CHECKING:
    import onnx_ir as ir
    from onnx_ir.tape import Tape

__all__ = ["add_portable_rounding"]


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
    if dtype not in TORCH_TYPES:
        known = ", ".join(TORCH_TYPES)
        raise rounding.refused(f"a {dtype} tensor cannot be rounded by standard ops: {known} can")
    if problem := portable_problem(rounding, opset):
        raise rounding.refused(problem, "flavor='annotate' exports it without rounding")
    row = rounding.row
    if row.is_identity(TORCH_TYPES[dtype]):
        return value
    carried = value if dtype == "FLOAT" else n.cast(value, "FLOAT")
    try:
        rounded = _rounded(n, carried, rounding.precision, row)
    except FormatError as error:
        raise rounding.refused(str(error)) from error
    return rounded if dtype == "FLOAT" else n.cast(rounded, dtype)


def _rounded(n: NodeWriter, x: "ir.Value", precision: Precision, row: Row) -> "ir.Value":
    element, scaling = quantised_element(precision), precision.own_scaling
    if scaling is None or not row.finds_scales:
        return _static(n, x, element, row)
    if x.shape is None:
        raise FormatError("a tensor of unknown rank has no groups of values with a scale each")
    groups = grouped(n, x, row)
    scale = group_scales(n, groups, row.scale, partial(rounded_scale, fmt=scaling.scale_format))
    factor = divisor = groups.spread(n, scale)
    if scaling.rule is ScaleRule.NEAREST and scaling.scale_format.zero:  # a scale of 0: infinity leaves zeros
        zero = n.op("Equal", scale, n.number(0.0), dtype="BOOL")
        divisor = groups.spread(n, n.op("Where", zero, n.number(math.inf), scale, dtype="FLOAT"))
    scaled = quantised(n, n.op("Div", groups.values, divisor), element, row.mode)
    return groups.restored(n, n.op("Mul", scaled, factor))


def _static(n: NodeWriter, x: "ir.Value", element: ElementFormat, row: Row) -> "ir.Value":
    """With one scale that is known, which is that of the quantiser where this gives the same bits."""
    scale = row.scale.value
    if isinstance(element, FloatFormat) or (isinstance(element, FixedPoint) and _is_one_scale(element, scale)):
        return quantised(n, x, element, row.mode, scale)
    if scale == 1.0:
        return quantised(n, x, element, row.mode)
    number = n.number(scale)
    return n.op("Mul", quantised(n, n.op("Div", x, number), element, row.mode), number)


def _is_one_scale(element: FixedPoint, scale: float) -> bool:
    """Whether ``scale * quantum`` is a normal number, and what underflows, divided by the scale, rounds to 0."""
    return element.k_min >= -100 and 2.0**-126 <= scale * element.quantum <= 2.0**127
