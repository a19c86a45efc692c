"""What a backward reads of the values that its forward saves: roundings, and where a relu let gradients through."""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import GraphModule, Node

from precc.annotations import Operand, Product, annotation_of
from precc.fusible_ops import VIEW_OPS
from precc.passes.pack_operands import operand_of
from precc.plan import PrecisionPlan
from precc.plan_rows import operand_row
from precc.round_op import ROUND
from precc.rounding import parse_row
from precc.stored_nodes import behind_views, op_name, sources_of

__all__ = ["SavedRounding", "SavedValue", "saved_values"]


@dataclass(frozen=True, slots=True)
class SavedRounding:
    """A rounding in the backward, of what it shows of a value that the forward saves.

    Args:
        node: the rounding.
        views: between the value and it.
        sizes: of the result, each a number or a node of the backward that is there without the value.
    """

    node: Node
    views: tuple[Node, ...]
    sizes: tuple[int | Node, ...]

    @property
    def row(self) -> int:
        """Its row in the plan."""
        row = self.node.args[2]
        assert isinstance(row, int)
        return row

    @property
    def operand(self) -> Operand:
        """What it is of the product that reads it."""
        slot = annotation_of(self.node)
        records = [annotation_of(user) for user in self.node.users]
        operands = (own for record in records if isinstance(record, Product) for own in record.operands)
        return next(own for own in operands if own.slot == slot)

    def copy(self, plan: PrecisionPlan | None) -> tuple[object, ...]:
        """Equal for roundings of one value that are the same copy of it: under this plan, or under any."""
        if plan is None or plan.precision(self.operand.slot.name).history:
            return (self.row,)
        row, _ = parse_row(list(operand_row(self.operand, plan)))
        if row.is_stochastic or row.transform is not None:
            return (self.row,)
        return (replace(row, slot=0, signs=0).values, self.views, self.transposed)

    @property
    def transposed(self) -> bool:
        """Whether all products that read it have it as their second operand."""
        sides = [operand_of(self.node, user) for user in self.node.users]
        return bool(sides) and all(side == 1 for side in sides)


@dataclass(frozen=True, slots=True)
class SavedValue:
    """A value that the forward saves for roundings, and for gates, alone.

    Args:
        value: the node that computes it in the forward.
        placeholder: that it comes in by in the backward.
        roundings: of it, in graph order.
        gates: backwards of relu, which ask whether it is positive.
    """

    value: Node
    placeholder: Node
    roundings: tuple[SavedRounding, ...]
    gates: tuple[Node, ...]


def saved_values(forward: GraphModule, backward: GraphModule, visible_outputs: int) -> Iterator[SavedValue]:
    """Those of a partitioned graph, in the order of the backward's placeholders.

    Not what comes in, such as parameters, nor what a caller sees: these are in memory in any case.

    Args:
        forward: its outputs behind those that a caller sees are saved.
        backward: its placeholders have the names of the values that are saved.
        visible_outputs: how many outputs a caller sees.
    """
    outputs: Any = forward.graph.output_node().args[0]
    saved = {node.name: node for node in outputs[visible_outputs:] if isinstance(node, Node)}
    known = {node.name for node in forward.graph.nodes}
    seen = {behind_views(node) for node in outputs[:visible_outputs] if isinstance(node, Node)}
    for placeholder in backward.graph.find_nodes(op="placeholder"):
        value = saved.get(placeholder.name)
        if value is None or not isinstance(value.meta.get("val"), Tensor):
            continue
        base = behind_views(value)
        found = None if base.op == "placeholder" or base in seen else _found(value, placeholder, known)
        if found is not None:
            yield found


def _found(value: Node, placeholder: Node, known: Collection[str]) -> SavedValue | None:
    """None if anything else reads the value, or if one half knows a size that the other needs.

    Args:
        value: in the forward.
        placeholder: in the backward.
        known: names of the forward's nodes; those of the backward that have one of them are the same.
    """
    roundings: list[SavedRounding] = []
    gates: list[Node] = []
    waiting: list[tuple[Node, tuple[Node, ...]]] = [(user, ()) for user in placeholder.users]
    while waiting:
        node, views = waiting.pop(0)
        if node.target is ROUND:
            sizes = _sizes(node)
            read = {own.name for view in views for own in view.all_input_nodes[1:]}
            if sizes is None or not read <= set(known):
                return None
            roundings.append(SavedRounding(node, views, sizes))
        elif _is_gate(node) and _is_same(node.args[1], placeholder):
            gates.append(node)
        elif op_name(node) in VIEW_OPS | _DETACH:
            waiting += [(user, (*views, node)) for user in node.users]
        else:
            return None
    return SavedValue(value, placeholder, tuple(roundings), tuple(dict.fromkeys(gates))) if roundings else None


def _is_gate(node: Node) -> bool:
    return node.target is torch.ops.aten.threshold_backward.default and bool(node.args[2] == 0)


def _is_same(node: Any, placeholder: Node) -> bool:
    """Whether a node has the values of a placeholder in their places."""
    while node is not placeholder and op_name(node) in _DETACH:
        node = node.args[0]
    return node is placeholder


_DETACH = frozenset({"aten.detach", "aten.alias"})


def _sizes(rounding: Node) -> tuple[int | Node, ...] | None:
    """The sizes of a rounding's result; None if the backward knows one by the value alone."""
    found = [_size(size, rounding) for size in rounding.meta["val"].shape]
    return None if None in found else tuple(own for own in found if own is not None)


def _size(size: int | SymInt, rounding: Node) -> int | Node | None:
    if isinstance(size, int):
        return size
    before = itertools.takewhile(lambda node: node is not rounding, rounding.graph.nodes)
    return next((node for node in before if _is_size(node, size) and _is_given(node)), None)


def _is_size(node: Node, size: SymInt) -> bool:
    own = node.meta.get("val")
    return isinstance(own, SymInt) and bool(own.node.expr == size.node.expr)


def _is_given(node: Node) -> bool:
    """Whether a number is there without this value, or any other that may go: it comes of numbers alone."""
    return not any(own.op == "placeholder" and isinstance(own.meta["val"], Tensor) for own in sources_of(node))
