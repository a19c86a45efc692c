"""The roundings of one value in a group: which copies its nodes are, and how the value's dimensions come to them."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from precc.backends.triton.live_rows import row_number
from precc.errors import BackendError
from precc.fusible_ops import VIEW_OPS
from precc.packing import PACK
from precc.round_op import ROUND
from precc.stored_nodes import op_name

__all__ = ["CastNode", "View", "cast_nodes", "viewed"]

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

    @classmethod
    def of(cls, node: Node, chain: Sequence[Node]) -> "CastNode":
        """A node that rounds or packs what a chain of views gives."""
        packed = node.target is PACK
        return cls(node, tuple(chain), row_number(node), packed, packed and bool(node.args[3]))


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
        if node.op != "call_function" or node.target not in (ROUND, PACK):
            raise BackendError(f"triton: {node.name} is no rounding of a cast")
        root, chain = _chain(node.args[0])
        roots[root] = None
        found.append(CastNode.of(node, chain))
    if len(roots) != 1:
        raise BackendError(f"triton: a cast is of one value, not of {len(roots)}: {', '.join(map(str, roots))}")
    return next(iter(roots)), found


def _chain(node: Any) -> tuple[Node, tuple[Node, ...]]:
    chain: list[Node] = []
    while node.op == "call_function" and op_name(node) in _VIEWS:
        chain.append(node)
        node = node.args[0]
    if node.op != "placeholder":
        raise BackendError(f"triton: {node.name}, which a cast rounds, is computed inside its group")
    return node, tuple(reversed(chain))


@dataclass(frozen=True, slots=True)
class View:
    """A value that there is, or a view of it, for values of one size: by numbers, where memory is shared.

    Args:
        root: the value.
        chain: the views of it, in their order; empty: it is the value.
        numbers: sizes, strides and offset behind that of the value; None where memory may not be shared.
        strides: of the value, for which these hold.
    """

    root: Node
    chain: tuple[Node, ...]
    numbers: tuple[tuple[int, ...], tuple[int, ...], int] | None
    strides: tuple[int, ...] = ()

    @classmethod
    def of(cls, node: Node, made: Container[Node], values: Mapping[Node, Any]) -> "View":
        """Of a node, from the nodes whose values there will be.

        Args:
            node: a value that there will be, or a view of one.
            made: those.
            values: of all nodes that are passed, for their sizes.
        """
        chain: list[Node] = []
        while node not in made:
            chain.insert(0, node)
            node = node.all_input_nodes[0]
        base, own = values[node], values[chain[-1]] if chain else None
        if not isinstance(own, Tensor) or own.untyped_storage()._cdata != base.untyped_storage()._cdata:
            return cls(node, tuple(chain), None)
        offset = int(own.storage_offset() - base.storage_offset())
        return cls(node, tuple(chain), (tuple(own.shape), own.stride(), offset), base.stride())

    def __call__(self, made: Mapping[Node, Any]) -> Any:
        """The value, from those that there are."""
        root = made[self.root]
        if not self.chain:
            return root
        if self.numbers is None or root.stride() != self.strides:
            return viewed(self.chain, made)
        size, stride, offset = self.numbers
        return root.as_strided(size, stride, root.storage_offset() + offset)


def viewed(chain: Sequence[Node], values: Mapping[Node, Any]) -> Tensor:
    """The views of a chain, of values of the placeholders."""

    def of(argument: Any) -> Any:
        return values[argument] if isinstance(argument, Node) else argument

    for node in chain:
        args = torch.fx.node.map_arg(node.args, of)
        kwargs = torch.fx.node.map_arg(node.kwargs, of)
        values = {**values, node: node.target(*args, **kwargs)}  # type: ignore[operator]
    value = values[chain[-1]]
    assert isinstance(value, Tensor)
    return value
