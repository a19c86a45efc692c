"""Which node of a graph stores what a product computes, and which nodes are constants."""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Graph, Node

from precc.analysis.slot_sites import VIEWS
from precc.fusible_ops import VIEW_OPS

__all__ = [
    "CONVOLUTION_BACKWARD",
    "behind_views",
    "is_constant",
    "op_name",
    "shown_constants",
    "sources_of",
    "stored_by",
]

_aten = torch.ops.aten

CONVOLUTION_BACKWARD = _aten.convolution_backward.default


def op_name(node: Node) -> str:
    """Name of the ATen op without its overload, such as ``aten.mm``; empty for any other node."""
    target = node.target
    return str(target.overloadpacket) if isinstance(target, torch._ops.OpOverload) else ""


def stored_by(node: Node, constants: frozenset[str]) -> Node | None:
    """The node whose value a product, or a sum, stores: with the bias that torch adds to a view of a matrix product.

    Of the backward of a convolution the one that takes the gradient out of three; None if nothing does.

    Args:
        node: that computes it.
        constants: names of the placeholders that hold parameters and buffers.
    """
    if node.target is CONVOLUTION_BACKWARD:
        return next((user for user in node.users if user.target is operator.getitem), None)
    shown = node
    while node.target is _aten.mm.default and len(shown.users) == 1:
        (user,) = shown.users
        if user.target is _aten.add.Tensor and user.args[0] is shown and _is_bias(user.args[1], constants):
            return user
        if op_name(user) not in VIEWS:
            break
        shown = user
    return node


def is_constant(node: Node, constants: frozenset[str]) -> bool:
    """Whether a node depends on no input and draws nothing: on these placeholders alone, or on nothing."""
    return not any((own.op == "placeholder" and own.name not in constants) or _draws(own) for own in sources_of(node))


def behind_views(node: Node) -> Node:
    """The node whose values this one shows."""
    while op_name(node) in VIEW_OPS and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def shown_constants(graph: Graph, constants: frozenset[str]) -> frozenset[str]:
    """Names of the nodes that show the values of these placeholders, views of them, and their own."""
    shown = set(constants)
    for node in graph.nodes:
        if op_name(node) in VIEW_OPS and node.all_input_nodes[0].name in shown:
            shown.add(node.name)
    return frozenset(shown)


def sources_of(node: Node) -> Iterator[Node]:
    """The node and all that it depends on, each once."""
    waiting, seen = [node], {node}
    while waiting:
        own = waiting.pop()
        yield own
        new = set(own.all_input_nodes) - seen
        seen |= new
        waiting += new


def _draws(node: Node) -> bool:
    """Whether each run of a node has other values."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _is_bias(node: Any, constants: frozenset[str]) -> bool:
    """Whether it is a vector that depends on parameters and buffers alone."""
    return isinstance(node, Node) and node.meta["val"].dim() == 1 and is_constant(node, constants)
