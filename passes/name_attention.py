"""Name the calls of fused attention: their slots and work, and the nodes that lie inside of them."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from precc.annotations import InFusedCall, Operand, Product, Size, annotate
from precc.fused_attention import ATTENTION_END, ATTENTION_GRADIENT, ATTENTION_MASK, ATTENTION_OPERANDS
from precc.passes.module_paths import module_path
from precc.passes.products import dtype_of
from precc.protocols import GraphContext
from precc.slots import ATTENTION, Role, Slot

__all__ = ["NameAttention", "inside_calls"]

#: In an export the call is one node, and has no markers.
_EXPORTED = torch.ops.aten.scaled_dot_product_attention.default

#: What begins a call, the later the more it says of a node that several of them reach.
_STARTS = (ATTENTION_MASK, ATTENTION_OPERANDS, ATTENTION_GRADIENT)


@dataclass(frozen=True, slots=True)
class NameAttention:
    """Annotate the markers of each call with its slots, and all between them as the inside of a fused op.

    The call belongs to the innermost module of its stack, and is numbered there in the order of execution.
    """

    name: ClassVar[str] = "name_attention"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        nodes = list(graph.graph.nodes)
        for node in (*inside_calls(nodes), *(node for node in nodes if node.target is ATTENTION_END)):
            annotate(node, InFusedCall())
        # the first end of a call is that of its result
        results = {_call(node): node for node in reversed(nodes) if node.target is ATTENTION_END}
        gradients = {_call(node): node for node in nodes if node.target is ATTENTION_GRADIENT}
        for node, slot in _numbered(nodes, context).items():
            if node.target is _EXPORTED:
                annotate(node, _forward(node, slot, node))
                continue
            annotate(node, _forward(node, slot, results[_call(node)]))
            if (gradient := gradients.get(_call(node))) is not None:
                annotate(gradient, _backward(gradient, slot, node))


def _numbered(nodes: list[Node], context: GraphContext) -> dict[Node, Slot]:
    """The calls, each with one of its slots."""
    layers = {node: module_path(node, context) for node in nodes if node.target in (ATTENTION_OPERANDS, _EXPORTED)}
    bases = context.numbers.number(context.frame, Counter((layer, ATTENTION) for layer in layers.values()))
    used: Counter[str] = Counter()
    slots = {}
    for node, layer in layers.items():
        slots[node] = Slot(layer, ATTENTION, bases[layer, ATTENTION] + used[layer], Role.FPROP, "query")
        used[layer] += 1
    return slots


def inside_calls(nodes: list[Node]) -> dict[Node, Node]:
    """The nodes between the markers of calls, each with the marker that it is after; the beginning ones too."""
    start: dict[Node, Node] = {}
    for node in nodes:
        if node.target in _STARTS:
            start[node] = node
        elif node.target is not ATTENTION_END and not isinstance(node.meta.get("val"), torch.SymInt):
            found = [start[argument] for argument in node.all_input_nodes if argument in start]
            if found:
                start[node] = max(found, key=lambda marker: _STARTS.index(marker.target))
    return start


def _call(marker: Node) -> Any:
    return marker.args[-1]


def _forward(node: Node, slot: Slot, result: Node) -> Product:
    names = ("query", "key", "value")
    operands = tuple(_operand(node, position, slot, Role.FPROP, name) for position, name in enumerate(names))
    return Product(operands, _sums(node, result.meta["val"]) * (_width(node, 0) + _width(node, 2)))


def _backward(node: Node, slot: Slot, forward: Node) -> Product:
    """Products of the scores, computed again, and with respect to query and key; of the value and of the weights."""
    operand = _operand(node, 0, slot, Role.DGRAD, "grad_output")
    work = _sums(forward, node.meta["val"]) * (3 * _width(forward, 0) + 2 * _width(forward, 2))
    return Product((operand,), work)


def _operand(node: Node, position: int, slot: Slot, role: Role, name: str) -> Operand:
    dims = _value(node, position).dim()
    # a value is summed over the keys, everything else over the width of a head
    contracted, channel = (dims - 2, dims - 1) if name == "value" else (dims - 1, dims - 2)
    own = replace(slot, role=role, operand=name)
    return Operand(position, own, contracted, channel, dims, dtype_of(node, position))


def _sums(forward: Node, result: Tensor) -> Size:
    """How many scores there are: a query in a head meets every key."""
    queries: Size = math.prod(result.shape[:-1])
    return queries * _value(forward, 1).shape[-2]


def _width(node: Node, position: int) -> Size:
    return _value(node, position).shape[-1]


def _value(node: Node, position: int) -> Tensor:
    operand = node.args[position]
    assert isinstance(operand, Node)
    value: Tensor = operand.meta["val"]
    return value
