"""What a kernel of rows computes of a group: the value that is rounded, its rows, and which nodes are its own."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.backends.triton.emit.row_ops import REDUCTIONS
from precc.backends.triton.program import Group
from precc.backends.triton.templates.cast_chain import CastNode, View
from precc.backends.triton.templates.group_values import group_values, outputs_of, placeholders_of
from precc.errors import BackendError
from precc.fusible_ops import VIEW_OPS
from precc.packing import PACK
from precc.round_op import ROUND
from precc.stored_nodes import behind_views, op_name

__all__ = ["RowsGroup", "float_dtypes"]


@dataclass(frozen=True, slots=True)
class RowsGroup:
    """A group whose roundings are of one value that it computes.

    Args:
        group: likewise.
        values: of its nodes, without data.
        base: the value.
        roundings: of it, in graph order.
        computed: the nodes that the kernel computes, in graph order.
    """

    group: Group
    values: Mapping[Node, Any]
    base: Node
    roundings: tuple[CastNode, ...]
    computed: tuple[Node, ...]

    @classmethod
    def of(cls, group: Group, args: Sequence[Any]) -> "RowsGroup":
        """The group for arguments like these.

        Raises:
            BackendError: roundings of no value, or of several, or of what a rounding gave.
        """
        values = group_values(group.module, args)
        nodes = [node for node in group.module.graph.nodes if node.op == "call_function"]
        roundings = tuple(_rounding(node) for node in nodes if node.target in (ROUND, PACK))
        bases = dict.fromkeys(behind_views(own.node.args[0]) for own in roundings)  # type: ignore[arg-type]  # a value
        if len(bases) != 1:
            raise BackendError(
                f"triton: a kernel of rows rounds one value, not {len(bases)}: {', '.join(map(str, bases))}"
            )
        (base,) = bases
        rounded = {own.node for own in roundings}
        chained = {node for own in roundings for node in own.chain}
        left = tuple(
            node
            for node in nodes
            if node not in rounded and not (node in chained and _is_passed_on(node, rounded | chained))
        )
        for node in left:
            read = next((own for own in node.all_input_nodes if behind_views(own) in rounded), None)
            if read is not None:
                raise BackendError(f"triton: {node.name} reads what {read.name} rounded inside the group")
        return cls(group, values, base, roundings, left)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and their length."""
        value = self.values[self.base]
        length = value.shape[-1] if value.dim() else 1
        return math.prod(value.shape[:-1]), length

    @property
    def is_reduced(self) -> bool:
        """Whether it needs whole rows."""
        return any(op_name(node) in REDUCTIONS for node in self.computed)

    @property
    def placeholders(self) -> list[Node]:
        """But the plan's."""
        return placeholders_of(self.group.module)

    @property
    def outputs(self) -> tuple[Node, ...]:
        """Of the group."""
        return outputs_of(self.group.module)

    def view(self, node: Node, made: Container[Node]) -> View:
        """A node as a view of a value that there will be."""
        return View.of(node, made, self.values)

    def root(self, node: Node) -> Node:
        """What a node is a view of."""
        return behind_views(node)


def _rounding(node: Node) -> CastNode:
    chain: list[Node] = []
    own: Any = node.args[0]
    while op_name(own) in VIEW_OPS:
        chain.append(own)
        own = own.args[0]
    return CastNode.of(node, chain[::-1])


def _is_passed_on(node: Node, roundings: set[Node]) -> bool:
    """Whether roundings alone, and others behind the group, read a view."""
    return all(user in roundings or user.op == "output" for user in node.users)


def float_dtypes(group: RowsGroup) -> set[torch.dtype]:
    """Of all tensors that are read and computed."""
    values = [group.values[node] for node in (*group.placeholders, *group.computed)]
    flat = [own for value in values for own in (value if isinstance(value, (tuple, list)) else [value])]
    return {own.dtype for own in flat if isinstance(own, Tensor) and own.dtype.is_floating_point}
