"""What `FloatQuant` and `IntQuant` of QONNX compute, as functions of standard ops that a model carries.

Inputs and attributes are those of QONNX 1.0. precc adds ``mode``, the number of the rounding mode in
`rounding_modes.MODES`, for not every runtime compares strings; and to a float ``signed``, ``lowest``, the lowest
finite value, ``negative_zero``, 0 where -0 becomes 0, ``wide``, 1 where values reach ``2**104``, and ``by_carrier``, 1
where what overflows is what overflows float32 once values are divided by ``shrink``, a power of two, and ``fine``, 1
where the smallest quantum is no normal number by then. All values are in float32.

A model that rounds in one mode only, or only saturates, has bodies without the other cases; elsewhere an `If` of a
constant condition chooses, which a runtime can resolve when it loads the model.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from precc.backends.onnx.roundings.float_quant import float_quant
from precc.backends.onnx.roundings.function_writer import Uses
from precc.backends.onnx.roundings.int_quant import int_quant
from precc.backends.onnx.roundings.node_writer import QUANT_DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["portable_functions"]


def portable_functions(nodes: "Iterable[ir.Node]", opset: int) -> "list[ir.Function]":
    """The bodies of the quantisers among these nodes: at most one for each op, right for all of them.

    Args:
        nodes: of a model; those of other domains do not count.
        opset: of the model's default domain, from 18.
    """
    found: dict[str, list[ir.Node]] = {}
    for node in nodes:
        if node.domain == QUANT_DOMAIN:
            found.setdefault(node.op_type, []).append(node)
    makers = {"FloatQuant": float_quant, "IntQuant": int_quant}
    return [makers[op_type](Uses.of(found[op_type]), opset) for op_type in sorted(found)]
