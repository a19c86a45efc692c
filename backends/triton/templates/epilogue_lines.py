"""The text of an epilogue as it is written: loads, names of values, and stores."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.backends.triton.emit.conversions import POINTERS, to_carrier, to_dtype
from precc.backends.triton.kernel_source import Argument
from precc.backends.triton.templates.epilogue import Epilogue
from precc.backends.triton.templates.places import Places, Sides
from precc.errors import BackendError
from precc.packing import PackedLayout

__all__ = ["EpilogueLines"]


#: Names that a kernel of a product has already.
_TAKEN = frozenset(
    {"sums", "rows", "columns", "terms", "inside", "tile", "group", "height", "a", "b", "k", "m", "n", "z", "tl"}
)


class EpilogueLines:
    """Lines behind the sums of a product, and what they read and write.

    Args:
        values: of the group's nodes, without data.
        sizes: batches, rows and columns of the product.
        carrier: in which the sums are.
    """

    def __init__(self, values: Mapping[Node, Any], sizes: tuple[int, int, int], carrier: str) -> None:
        self.values, self.sizes, self.carrier = values, sizes, carrier
        self.lines: list[str] = []
        self.functions: list[str] = []
        self.arguments: list[Argument] = []
        self.strides: list[str] = []
        self.names: dict[Node, str] = {}
        self.places = Places(values, sizes)
        self.loaded: list[Node] = []
        self.stored: list[Node] = []
        self.rounded: dict[str, Node] = {}
        self.packed: dict[Node, tuple[PackedLayout, Sides]] = {}
        self.least = [1, 1]  # columns and rows of a tile

    def name(self, node: Node, expression: str) -> None:
        """A line that gives a node's value, in the precision of its dtype."""
        dtype = self.values[node].dtype
        name = f"{node.name}_" if node.name in _TAKEN else node.name
        self.lines.append(f"{name} = {expression}")
        if dtype in (torch.bfloat16, torch.float16):
            there, back = to_dtype(self.carrier, dtype), to_carrier(dtype, self.carrier)
            self.functions += [there.functions, back.functions]
            self.lines.append(f"{name} = {back.of(there.of(name))}")
        self.names[node] = name

    def load(self, node: Node) -> str:
        """A block of a placeholder's values."""
        value = self.values[node]
        if not isinstance(value, Tensor):
            raise BackendError(f"triton: {node.name} is a number that is only known as it runs")
        if node.op != "placeholder":
            raise BackendError(f"triton: {node.name} is computed beside the product, not of it")
        if value.dtype not in (*POINTERS, torch.bool) or Sides.of(value, self.sizes) is None:
            raise BackendError(
                f"triton: {node.name} of shape {list(value.shape)} and {value.dtype} is read at no place of a tile"
            )
        n = len(self.loaded)
        self.loaded.append(node)
        self.arguments.append(Argument(f"in{n}_ptr", POINTERS.get(value.dtype, "*i1")))
        self.strides += [f"in{n}_batch", f"in{n}_row", f"in{n}_column"]
        at = f"in{n}_ptr + z * in{n}_batch + rows[:, None] * in{n}_row + columns[None, :] * in{n}_column"
        text = f"tl.load({at}, mask=inside, other=0)"
        if value.dtype is not torch.bool:
            conversion = to_carrier(value.dtype, self.carrier)
            self.functions.append(conversion.functions)
            text = conversion.of(f"tl.load({at}, mask=inside, other=0.0)")
        else:
            text = f"({text} != 0)"
        name = f"{node.name}_" if node.name in _TAKEN else node.name
        self.lines.append(f"{name} = {text}")
        self.names[node] = name
        return name

    def store(self, node: Node) -> None:
        """Write a node's values."""
        value = self.values[node]
        if value.dtype not in (*POINTERS, torch.bool):
            raise BackendError(f"triton: {node.name} of {value.dtype} is written by no kernel")
        n = self.output(node, POINTERS.get(value.dtype, "*i1"))
        text = self.names[node]
        if value.dtype is not torch.bool:
            conversion = to_dtype(self.carrier, value.dtype)
            self.functions.append(conversion.functions)
            text = conversion.of(text)
        self.write(n, text)

    def output(self, node: Node, pointer: str) -> int:
        """The number of a further tensor that is written."""
        n = len(self.stored)
        self.stored.append(node)
        self.arguments.append(Argument(f"out{n}_ptr", pointer))
        self.strides += [f"out{n}_batch", f"out{n}_row", f"out{n}_column"]
        return n

    def write(self, n: int, text: str) -> None:
        """A block into it."""
        at = f"out{n}_ptr + z * out{n}_batch + rows[:, None] * out{n}_row + columns[None, :] * out{n}_column"
        self.lines.append(f"tl.store({at}, {text}, mask=inside)")

    def done(self) -> Epilogue:
        """All of it."""
        inside = "inside = (rows[:, None] < M) & (columns[None, :] < N)"
        functions = tuple(dict.fromkeys(own for own in self.functions if own))
        return Epilogue(
            (inside, *self.lines),
            functions,
            tuple(self.arguments),
            tuple(self.strides),
            tuple(self.stored),
            tuple(self.loaded),
            self.rounded,
            self.packed,
            (self.least[1], self.least[0]),
            {node: self.places.sides(node, self.values[node]) for node in self.stored if node not in self.packed},
        )
