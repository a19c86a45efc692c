"""What is computed along the rows of a value: operations before it that see the same rows, or one number of each."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Node

from precc.annotations import Product, annotation_of
from precc.fusible_ops import POINTWISE_OPS, ROW_OPS, SWAPS, VIEW_OPS
from precc.passes.fusion_units import FusionUnits
from precc.passes.fusion_values import are_equal
from precc.stored_nodes import behind_views, op_name

__all__ = ["RowSpace", "RowsBefore", "rows_before"]

_DIM_AT = {"aten._softmax": 1, "aten._softmax_backward_data": 2, "aten.mean": 1, "aten.sum": 1, "aten.amax": 1}


@dataclass(frozen=True, slots=True)
class RowSpace:
    """Rows of a length, and how many."""

    length: Any
    elements: Any

    @classmethod
    def of(cls, node: Node) -> "RowSpace | None":
        """Of a value that operations of rows can make; None if they cannot make this one."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not value.dim() or not value.is_floating_point():
            return None
        space = cls(value.shape[-1], value.numel())
        return space if space.makes(node) else None

    def makes(self, node: Node) -> bool:
        """Whether a node computes values in this space, along its rows."""
        name = op_name(node)
        if node.target is operator.getitem:
            source = node.args[0]
            return isinstance(source, Node) and op_name(source) in ROW_OPS and self.makes(source)
        if name in ROW_OPS:
            return self._reduces(node, name)
        if name not in POINTWISE_OPS and (name not in VIEW_OPS or name in SWAPS):
            return False
        return self.holds(node) or self.is_number(node)

    def _reduces(self, node: Node, name: str) -> bool:
        source = node.args[1] if name == "aten.native_layer_norm_backward" else node.args[0]
        if not isinstance(source, Node) or not self.holds(source):
            return False
        if "layer_norm" in name:
            return len(node.args[2 if "backward" in name else 1]) == 1  # type: ignore[arg-type]
        dims: Any = node.args[_DIM_AT[name]] if len(node.args) > _DIM_AT[name] else ()
        last = source.meta["val"].dim() - 1
        return [dim % (last + 1) for dim in (dims if isinstance(dims, (list, tuple)) else [dims])] == [last]

    def holds(self, node: Node) -> bool:
        """Whether it has an element for each of this space, in the same rows."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not value.dim():
            return False
        return are_equal(value.numel(), self.elements) and are_equal(value.shape[-1], self.length)

    def is_number(self, node: Node) -> bool:
        """Whether it has one number for each row."""
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not value.dim() or not are_equal(value.shape[-1], 1):
            return False
        return are_equal(value.numel() * self.length, self.elements)


@dataclass(frozen=True, slots=True)
class RowsBefore:
    """Operations that make a value.

    Args:
        nodes: the value's own last.
        is_behind_one_product: whether all of them are pointwise functions of one product's result, each read once: an
            epilogue of that product.
    """

    nodes: tuple[Node, ...]
    is_behind_one_product: bool


def rows_before(value: Node, space: RowSpace, taken: set[Node], units: FusionUnits) -> RowsBefore:
    """The operations along rows that make a value, from those that are not taken."""
    found = {value}
    waiting = [value]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            fits = source.op == "call_function" and source not in taken | found and space.makes(source)
            if fits and not _is_bare(source, taken) and units.can_join({*found, source}):
                found.add(source)
                waiting.append(source)
    return RowsBefore(tuple(found), _is_epilogue(found))


def _is_bare(node: Node, taken: set[Node]) -> bool:
    """Whether it is a view of what is computed elsewhere: nothing to compute."""
    return op_name(node) in VIEW_OPS and isinstance(annotation_of(behind_views(node)), Product)


def _is_epilogue(nodes: set[Node]) -> bool:
    if any(op_name(node) in ROW_OPS for node in nodes):
        return False
    products = {behind_views(own) for node in nodes for own in node.all_input_nodes if own not in nodes}
    products = {own for own in products if isinstance(annotation_of(own), Product) and own.op == "call_function"}
    return len(products) == 1 and _is_chain(products.pop(), nodes)


def _is_chain(product: Node, nodes: set[Node]) -> bool:
    """Whether a product's result is read by one node after the other up to the last of these."""
    shown, left = product, set(nodes)
    while left:
        users: Sequence[Node] = [user for user in shown.users if user in nodes or op_name(user) in VIEW_OPS]
        if len(users) != 1 or (len(shown.users) > 1 and left != {shown}):
            return False
        shown = users[0]
        left.discard(shown)
    return True
