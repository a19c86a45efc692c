"""Take the markers of fused attention out of a graph; what they record goes to a node that computes."""

import operator
from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule, Node

from precc.annotations import annotate, products_of
from precc.errors import CaptureError
from precc.fused_attention import ATTENTION_END, ATTENTION_GRADIENT, ATTENTION_MASK, ATTENTION_OPERANDS
from precc.passes.name_attention import inside_calls
from precc.passes.products import (
    OPAQUE_PRODUCTS,
    PRODUCTS,
)
from precc.protocols import GraphContext
from precc.stored_nodes import op_name

__all__ = ["RemoveAttentionMarkers"]

_MARKERS = (ATTENTION_OPERANDS, ATTENTION_MASK, ATTENTION_GRADIENT, ATTENTION_END)


@dataclass(frozen=True, slots=True)
class RemoveAttentionMarkers:
    """Each marker gives way to its argument; its slots and work go to the first op with products after it."""

    name: ClassVar[str] = "remove_attention_markers"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        nodes = list(graph.graph.nodes)
        first: dict[Node, Node] = {}
        for node, start in inside_calls(nodes).items():
            if node.target in PRODUCTS or op_name(node) in OPAQUE_PRODUCTS:
                first.setdefault(start, node)
        for marker, product in products_of(graph.graph):
            if marker.target in _MARKERS:
                if marker not in first:
                    raise CaptureError(f"{product.op}: no kernel of attention is known among what torch computes it by")
                annotate(first[marker], product)
        for node in nodes:
            if node.target in _MARKERS:
                _remove(node)


def _remove(marker: Node) -> None:
    if marker.target is ATTENTION_OPERANDS:
        for taken in list(marker.users):
            assert taken.target is operator.getitem
            source = marker.args[int(str(taken.args[1]))]
            assert isinstance(source, Node)
            taken.replace_all_uses_with(source)
            taken.graph.erase_node(taken)
    else:
        source = marker.args[0]
        assert isinstance(source, Node)
        marker.replace_all_uses_with(source)
    marker.graph.erase_node(marker)
