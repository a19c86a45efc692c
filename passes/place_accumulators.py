"""Put an operator with a rounded sum in the place of every product of a partitioned graph."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from precc.accumulation.product_ops import PRODUCT_OPS
from precc.annotations import Product, products_of
from precc.errors import CaptureError
from precc.grouped_product import GROUPED_PRODUCT
from precc.protocols import GraphContext
from precc.stored_nodes import CONVOLUTION_BACKWARD, op_name

__all__ = ["PlaceAccumulators", "operator_of"]

#: Names of the operators for products that are no ATen op.
_OWN: dict[Any, str] = {GROUPED_PRODUCT: "grouped_mm"}

_MASK = 10  # position of output_mask in the arguments of convolution_backward


@dataclass(frozen=True, slots=True)
class PlaceAccumulators:
    """``aten.mm(a, b)`` becomes ``precc.mm(a, b, plan, row)``, and so on; slots and strides stay."""

    name: ClassVar[str] = "place_accumulators"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        for node, product in products_of(graph.graph):
            unused = context.only_plan is not None and product.sums(context.only_plan) is None
            if unused or not product.accumulators:
                continue
            _replace(graph.graph, node, product)


def _replace(graph: Graph, node: Node, product: Product) -> None:
    rounding = node.args[product.operands[0].position]
    assert isinstance(rounding, Node)
    plan, row = rounding.args[1], product.accumulator_row
    operator, arguments = operator_of(node)
    if operator not in PRODUCT_OPS:
        raise CaptureError(f"{product.op}: {op_name(node)} has no form with a rounded sum")
    # of convolution_backward, whose one result is taken out of three, the node that takes it
    old = next(iter(node.users)) if node.target is CONVOLUTION_BACKWARD else node
    with graph.inserting_before(old):
        new = graph.call_function(PRODUCT_OPS[operator], (*arguments, plan, row), node.kwargs)
        new.meta = dict(node.meta, val=old.meta["val"])
        result = _with_strides(graph, new, product)
    old.replace_all_uses_with(result)
    graph.erase_node(old)
    if old is not node:
        graph.erase_node(node)


def operator_of(node: Node) -> tuple[str, tuple[Any, ...]]:
    """The name in `PRODUCT_OPS` for a product of a graph, and the arguments that it shares with the node."""
    if node.target is not CONVOLUTION_BACKWARD:
        return _OWN.get(node.target, op_name(node).removeprefix("aten.")), node.args
    mask: Any = node.args[_MASK]
    return "dgrad" if mask[0] else "wgrad", (*node.args[:3], *node.args[4:_MASK])


def _with_strides(graph: Graph, node: Node, product: Product) -> Node:
    """The result in the memory format that the rest of the graph was traced with; operators give contiguous ones."""
    value: Tensor = node.meta["val"]
    if value.is_contiguous():
        return node
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    wanted = formats.get(value.dim())
    if wanted is None or not value.is_contiguous(memory_format=wanted):
        raise CaptureError(
            f"{product.op}: its result has the strides {value.stride()}, of no memory format; make its input contiguous"
        )
    copy = graph.call_function(torch.ops.aten.clone.default, (node,), {"memory_format": wanted})
    copy.meta = {key: entry for key, entry in node.meta.items() if key != "precc"}
    return copy
