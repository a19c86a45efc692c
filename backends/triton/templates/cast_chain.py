"""The roundings of one value in a group: which copies its nodes are, and how the value's dimensions come to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from precc.errors import BackendError
from precc.fusible_ops import VIEW_OPS
from precc.round_op import ROUND
from precc.stored_nodes import op_name

__all__ = ["CastNode", "cast_nodes", "viewed"]

#: What a value may go through before it is rounded; first argument the value.
_VIEWS = VIEW_OPS | {f"aten.{name}" for name in ("detach", "expand", "select", "slice")}


@dataclass(frozen=True, slots=True)
class CastNode:
    """A rounding in a group.

    Args:
        node: of the graph.
        chain: the views from the value to what is rounded, in their order.
        row: number of its row in the plan.
        packed, transposed: whether codes are wanted, and in which order.
    """

    node: Node
    chain: tuple[Node, ...]
    row: int
    packed: bool
    transposed: bool


def cast_nodes(module: GraphModule) -> tuple[Node, list[CastNode]]:
    """The placeholder that is rounded and the roundings of it, in graph order.

    Raises:
        BackendError: a node is no rounding, packing or view of one value; the message names it.
    """
    found: list[CastNode] = []
    roots: dict[Node, None] = {}
    for node in module.graph.nodes:
        if node.op in ("placeholder", "output") or op_name(node) in _VIEWS:
            continue
        if node.op != "call_function" or not _rounds(node.target):
            raise BackendError(f"triton: {node.name} is no rounding of a cast")
        root, chain = _chain(node.args[0])
        roots[root] = None
        packed = node.target is not ROUND
        found.append(CastNode(node, chain, int(node.args[2]), packed, packed and bool(node.args[3])))
    if len(roots) != 1:
        raise BackendError(f"triton: a cast is of one value, not of {len(roots)}: {', '.join(map(str, roots))}")
    return next(iter(roots)), found


def _rounds(target: Any) -> bool:
    return target is ROUND or (getattr(target, "_schema", None) is not None and target.name() == "precc::pack")


def _chain(node: Any) -> tuple[Node, tuple[Node, ...]]:
    chain: list[Node] = []
    while node.op == "call_function" and op_name(node) in _VIEWS:
        chain.append(node)
        node = node.args[0]
    if node.op != "placeholder":
        raise BackendError(f"triton: {node.name}, which a cast rounds, is computed inside its group")
    return node, tuple(reversed(chain))


def viewed(chain: Sequence[Node], values: dict[Node, Any]) -> Tensor:
    """The views of a chain, of values of the placeholders."""

    def of(argument: Any) -> Any:
        return values[argument] if isinstance(argument, Node) else argument

    for node in chain:
        args = torch.fx.node.map_arg(node.args, of)
        kwargs = torch.fx.node.map_arg(node.kwargs, of)
        values = values | {node: node.target(*args, **kwargs)}  # type: ignore[operator]
    value = values[chain[-1]]
    assert isinstance(value, Tensor)
    return value
