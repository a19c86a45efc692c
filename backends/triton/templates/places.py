"""Where the elements of a tile lie in tensors: strides, and the views between a product and what follows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Node

from precc.errors import BackendError
from precc.fusible_ops import SWAPS
from precc.stored_nodes import op_name

__all__ = ["Places", "Sides"]


@dataclass(frozen=True, slots=True)
class Sides:
    """Strides of a tensor by row and column of a tile, and by batch.

    >>> import torch
    >>> Sides.of(torch.empty(2, 3, 4), (1, 6, 4))
    Sides(batch=24, row=4, column=1)
    """

    batch: int
    row: int
    column: int

    @classmethod
    def of(cls, value: Tensor, sizes: tuple[int, int, int]) -> "Sides | None":
        """Of a tensor that has an element, or a broadcast one, for each of [batches, rows, columns]; else None."""
        batches, rows, columns = sizes
        if value.numel() <= 1:
            return cls(0, 0, 0)
        last = value.shape[-1]
        if last not in (1, columns):
            return None
        leading = value.numel() // max(1, last)
        column = value.stride(-1) if last > 1 else 0
        if leading == 1:
            return cls(0, 0, column)
        try:
            if leading == rows and batches > 1:  # the same matrix in every batch, such as a mask
                return cls(0, value.view(rows, last).stride(0), column)
        except RuntimeError:
            return None
        if leading != batches * rows:
            return None
        if value.dim() == 3 and value.shape[0] == batches:
            return cls(value.stride(0), value.stride(1), column)
        try:
            flat = value.view(batches, rows, last) if value.dim() != 2 or batches > 1 else value[None]
        except RuntimeError:
            return None
        return cls(flat.stride(0), flat.stride(1), column)


@dataclass(eq=False, slots=True)
class Places:
    """How the shapes of the nodes behind a product come from its own.

    Args:
        values: of the group's nodes, without data.
        sizes: batches, rows and columns of the product.
        product: its node, where all begin.
        shown: what a node has at the same places, but for the order of dimensions: towards the product.
        swapped: the nodes whose last two dimensions are columns and rows.
        moved: those whose dimensions are in another order still.
    """

    values: Mapping[Node, Any]
    sizes: tuple[int, int, int]
    product: Node | None = None
    shown: dict[Node, Node] = field(default_factory=dict)
    swapped: set[Node] = field(default_factory=set)
    moved: set[Node] = field(default_factory=set)

    def view(self, node: Node, source: Node) -> None:
        """A view of a node that is known."""
        self.shown[node] = source
        before, after = tuple(self.values[source].shape), tuple(self.values[node].shape)
        matrix = self.sizes[1:] if source not in self.swapped else self.sizes[:0:-1]
        order = _order(node, len(before))
        swaps = order == [*range(len(before) - 2), len(before) - 1, len(before) - 2]
        if source in self.moved or (order is not None and not swaps and order != sorted(order)):
            self.moved.add(node)
        elif swaps:
            (self.moved if before[-2:] != matrix else set() if source in self.swapped else self.swapped).add(node)
        elif source in self.swapped:
            (self.swapped if after[-2:] == matrix else self.moved).add(node)

    def same(self, node: Node, source: Node) -> None:
        """A node of the places of another."""
        self.shown[node] = source
        for own in (self.swapped, self.moved):
            if source in own:
                own.add(node)

    def computed(self, node: Node) -> None:
        """A node that is computed of one that is known, and of placeholders.

        Raises:
            BackendError: their elements are not in the same order.
        """
        inputs = [own for own in node.all_input_nodes if getattr(self.values[own], "numel", lambda: 1)() > 1]
        known = [own for own in node.all_input_nodes if own in self.shown or own is self.product]
        orders = {(own in self.swapped, own in self.moved) for own in inputs}
        if len(orders) > 1 or (len(inputs) > 1 and any(own in self.moved for own in inputs)):
            raise BackendError(f"triton: {node.name} is computed of a transposed value and one that is not")
        self.same(node, known[0])

    def check(self, node: Node, read: Node) -> None:
        """Raise BackendError unless a placeholder that a node reads meets each element where the tile reads it."""
        value = self.values[read]
        if not isinstance(value, Tensor) or value.numel() <= 1:
            return
        expected = self.sides(node, value.expand(self.values[node].shape))
        if expected is None or self._known(expected) != self._known(Sides.of(value, self.sizes)):
            raise BackendError(f"triton: {read.name} of shape {list(value.shape)} is read at no place of a tile")

    def _known(self, own: Sides | None) -> list[int]:
        """The strides along which there is more than one element."""
        strides = [] if own is None else [own.batch, own.row, own.column]
        return [stride for stride, size in zip(strides, self.sizes, strict=False) if size > 1]

    def sides(self, node: Node, value: Tensor) -> Sides | None:
        """The strides of a tensor of a node's shape by the product's dimensions; None where it has no single ones."""
        try:
            while node in self.shown:
                order, node = _order(node, value.dim()), self.shown[node]
                if order is not None:
                    value = value.permute([order.index(dim) for dim in range(value.dim())])
                value = value.view(self.values[node].shape)
        except RuntimeError:
            return None
        return Sides.of(value, self.sizes)


def _order(node: Node, dims: int) -> list[int] | None:
    """Which dimension of what it reads each one of a node is; None where it is no permutation of them."""
    name = op_name(node)
    if name not in SWAPS:
        return None
    if name == "aten.permute":
        return [int(own) % dims for own in node.args[1]]  # type: ignore[union-attr, arg-type]
    first, second = (0, dims - 1) if name == "aten.t" else (int(own) % dims for own in node.args[1:3])  # type: ignore[arg-type]
    order = list(range(dims))
    order[first], order[second] = order[second], order[first]
    return order
