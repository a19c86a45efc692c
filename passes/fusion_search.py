"""Which nodes of a graph are computed together, and around what."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Graph, Node

from precc.annotations import Product, annotation_of
from precc.fusible_ops import MATRIX_PRODUCTS, POINTWISE_OPS, SWAPS, VIEW_OPS
from precc.fusion_group import GroupKind
from precc.packing import UNPACK
from precc.passes.fusion_rows import RowSpace, rows_before
from precc.passes.fusion_units import FusionUnits
from precc.passes.fusion_values import ROUNDINGS, RoundedValue, are_equal, rounded_values
from precc.stored_nodes import behind_views, op_name

__all__ = ["FoundGroup", "find_groups"]


@dataclass(frozen=True, slots=True)
class FoundGroup:
    """Nodes, in graph order, and what they are built around."""

    kind: GroupKind
    nodes: tuple[Node, ...]


def find_groups(graph: Graph, constants: frozenset[str]) -> list[FoundGroup]:
    """The groups of a graph, in the order in which they were found; no node is in two.

    Rows first: a value that operations along its last dimension make, or several products, is rounded where it is
    made. Then products, with what they make pointwise of their result, and with the roundings of an operand that
    nothing else rounds and that no parameter is: those are rounded once for many forwards. What is left of the
    roundings is a cast for each value.
    """
    search = _Search(graph, constants)
    return [*search.rows(), *search.products(), *search.casts()]


class _Search:
    def __init__(self, graph: Graph, constants: frozenset[str]) -> None:
        self.graph, self.constants = graph, constants
        self.units = FusionUnits(graph)
        self.order = {node: n for n, node in enumerate(graph.nodes)}
        self.rounded = rounded_values(graph)
        self.taken: set[Node] = set()

    def rows(self) -> Iterator[FoundGroup]:
        for value, own in self.rounded.items():
            space = RowSpace.of(value)
            if space is None or value in self.taken:
                continue
            before = rows_before(value, space, self.taken, self.units)
            if before.is_behind_one_product:
                continue
            nodes = self.with_roundings({*before.nodes}, own)
            yield self.take(GroupKind.ROWS, nodes)

    def products(self) -> Iterator[FoundGroup]:
        for node in self.graph.nodes:
            if op_name(node) in MATRIX_PRODUCTS and isinstance(annotation_of(node), Product):
                yield self.take(GroupKind.PRODUCT, self.epilogue(node, self.prologue(node)))

    def casts(self) -> Iterator[FoundGroup]:
        for own in self.rounded.values():
            nodes = {*own.roundings} - self.taken
            if nodes:
                yield self.take(GroupKind.CAST, self.with_roundings(set(), own))

    def take(self, kind: GroupKind, nodes: set[Node]) -> FoundGroup:
        nodes = nodes | {user for node in nodes for user in node.users if user.target is operator.getitem}
        self.units.join(nodes)
        self.taken |= nodes
        return FoundGroup(kind, tuple(sorted(nodes, key=self.order.__getitem__)))

    def with_roundings(self, nodes: set[Node], own: RoundedValue) -> set[Node]:
        """With all roundings of a value that are not taken, or, where a way leads around, with those that can be."""
        for rounding, views in zip(own.roundings, own.views, strict=True):
            needed = set(views) if own.value in nodes else set(views) & own.own_views
            wider = {*nodes, rounding, *(needed - self.taken)}
            if rounding not in self.taken and self.units.can_join(wider):
                nodes = wider
        return nodes

    def prologue(self, product: Node) -> set[Node]:
        """The product, with the roundings of operands that it alone reads."""
        record, nodes = annotation_of(product), {product}
        assert isinstance(record, Product)
        for operand in record.operands:
            rounding: Any = product.args[operand.position]
            if rounding.target is UNPACK and len(rounding.users) == 1:
                nodes = {*nodes, rounding}
                continue
            own = self.rounded.get(behind_views(rounding.args[0])) if rounding.target in ROUNDINGS else None
            if own is None or own.roundings != (rounding,) or rounding in self.taken:
                continue
            if len(rounding.users) > 1 or self.is_parameter(own.value):
                continue
            wider = {*nodes, rounding, *own.own_views}
            nodes = wider if self.units.can_join(wider) else nodes
        return nodes

    def is_parameter(self, value: Node) -> bool:
        return value.op == "placeholder" and value.name in self.constants

    def epilogue(self, product: Node, nodes: set[Node]) -> set[Node]:
        """With what is computed of the product's result, place by place, as long as one node reads it."""
        shown, reached = product, nodes
        while True:
            own = self.rounded.get(shown)
            if own is not None:
                reached = nodes = self.with_roundings(reached, own)
            others = [user for user in shown.users if user not in reached]
            if len(others) != 1 or others[0] in self.taken or not self._goes_on(shown, others[0]):
                return nodes
            wider = {*reached, others[0]}
            if not self.units.can_join(wider):
                return nodes
            shown, reached = others[0], wider
            nodes = nodes if op_name(shown) in VIEW_OPS else reached

    def _goes_on(self, shown: Node, user: Node) -> bool:
        return _same_rows(shown, user) and op_name(user) in POINTWISE_OPS | VIEW_OPS and op_name(user) not in SWAPS


def _same_rows(shown: Node, user: Node) -> bool:
    before, after = shown.meta.get("val"), user.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or not before.dim() or not after.dim():
        return False
    return are_equal(before.numel(), after.numel()) and are_equal(before.shape[-1], after.shape[-1])
