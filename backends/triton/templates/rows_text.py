"""The text of a kernel of rows: loads, one line or a few for each node, stores, and the roundings of the value."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.backends.triton.emit.conversions import POINTERS, to_carrier, to_dtype
from precc.backends.triton.emit.pointwise import pointwise_text
from precc.backends.triton.emit.row_ops import REDUCTIONS, row_op
from precc.backends.triton.templates.cast_places import place
from precc.backends.triton.templates.lines import Lines
from precc.backends.triton.templates.rows_group import RowsGroup
from precc.backends.triton.templates.rows_tensor import RowTensor
from precc.errors import BackendError
from precc.fusible_ops import VIEW_OPS
from precc.stored_nodes import op_name

__all__ = ["RowsText"]

_POINTERS = {**POINTERS, torch.bool: "*i1"}
#: Operators that read truth values as they are.
_LOGICAL = frozenset(f"aten.{name}" for name in "where masked_fill logical_and logical_or logical_not eq ne".split())


@dataclass(slots=True)
class RowsText:
    """Writes the lines of a group.

    Args:
        group: whose nodes they are.
        carrier: in which it computes: ``tl.float32``, or ``tl.float64`` for tensors of it.
        rounding: the carrier of the roundings here; empty if there are none.
        stored: what is written beside roundings: the nodes, and those of which sums over rows are.
        loaded: the tensors that it reads, by the node and the shape to which it is broadcast.
        written: how each stored node lies in memory.
        partial: which stored nodes are sums of the rows of a tile.
    """

    group: RowsGroup
    carrier: str
    rounding: str
    stored: Sequence[Node]
    loaded: dict[str, tuple[Node, RowTensor]] = field(default_factory=dict)
    written: dict[Node, RowTensor] = field(default_factory=dict)
    partial: set[Node] = field(default_factory=set)
    _blocks: dict[object, str] = field(default_factory=dict)
    _results: dict[Node, tuple[tuple[str, bool], ...]] = field(default_factory=dict)

    def write(self, lines: Lines, last: bool) -> None:
        """Lines that give `x`; the last time with stores."""
        place(lines)
        self._blocks.clear()
        self._results.clear()
        for node in self.group.computed:
            self._node(lines, node)
        if last:
            for node in self.stored:
                self._store(lines, node)
        if self.rounding:
            value = self._block(lines, self.group.base, self._shape(self.group.base))
            wider = f".to({self.rounding})" if self.rounding != self.carrier else ""
            lines.add(f"# {self.group.base.name}, which is rounded", f"x = tl.where(inside, {value}, 0.0){wider}")

    def _node(self, lines: Lines, node: Node) -> None:
        if node.target is operator.getitem:
            source, number = node.args
            assert isinstance(source, Node)
            name, summed = self._results[source][int(number)]  # type: ignore[arg-type]
            name = self._as_stored(lines, node, name, summed)
            self._blocks[node] = name
            if summed:
                self.partial.add(node)
            return
        if op_name(node) in VIEW_OPS:
            self._view(lines, node)
            return
        shape = self._read_shape(node)
        texts = {own: self._argument(lines, node, own, shape) for own in node.all_input_nodes}
        if op_name(node) in REDUCTIONS:
            made = row_op(node, _name(node), texts, self.carrier)
            lines.add(f"# {node.name}", *made.lines)
            if isinstance(self.group.values[node], Tensor):
                self._blocks[node] = self._as_stored(lines, node, made.results[0], False)
            else:
                self._results[node] = tuple(zip(made.results, made.sums, strict=True))
            return
        text = pointwise_text(node, texts, self.carrier)
        lines.call(text.functions)
        lines.add(f"{_name(node)} = {self._converted(lines, node, text.expression)}")
        self._blocks[node] = _name(node)

    def _read_shape(self, node: Node) -> Sequence[int]:
        """To which what a node reads is broadcast."""
        if op_name(node) not in REDUCTIONS:
            shape: Sequence[int] = self.group.values[node].shape
            return shape
        read = node.args[1] if op_name(node) == "aten.native_layer_norm_backward" else node.args[0]
        own: Sequence[int] = self.group.values[read].shape  # type: ignore[index]
        return own

    def _shape(self, node: Node) -> Sequence[int]:
        shape: Sequence[int] = self.group.values[node].shape
        return shape

    def _argument(self, lines: Lines, node: Node, own: Node, shape: Sequence[int]) -> str:
        name = self._block(lines, own, shape)
        value = self.group.values[own]
        is_truth = isinstance(value, Tensor) and value.dtype is torch.bool
        return f"{name}.to({self.carrier})" if is_truth and op_name(node) not in _LOGICAL else name

    def _block(self, lines: Lines, node: Node, shape: Sequence[int]) -> str:
        """The name of the block of a node's value, broadcast to a shape."""
        if node in self._blocks:
            self._check_rows(node, shape)
            return self._blocks[node]
        value = self.group.values[node]
        if not isinstance(value, Tensor):
            raise BackendError(
                f"triton: {node.name} is a number that is known when it runs, which no kernel of rows reads"
            )
        if value.dtype not in _POINTERS:
            raise BackendError(f"triton: a kernel of rows reads no {value.dtype} tensor: {node.name}")
        self._check_broadcast(node, shape)
        own = RowTensor.of(f"{node.name}_in", value, shape)
        key = (node, own)
        if key not in self._blocks:
            self._blocks[key] = self._load(lines, node, own)
        return self._blocks[key]

    def _load(self, lines: Lines, node: Node, own: RowTensor) -> str:
        mine = [tensor for read, tensor in self.loaded.values() if read is node]
        alike = [tensor for tensor in mine if replace(tensor, name=own.name) == own]
        if alike:
            own = alike[0]
        elif mine:  # the same tensor, broadcast in another way
            own = replace(own, name=f"{own.name}{len(mine) + 1}")
        self.loaded[own.name] = (node, own)
        pointer = lines.argument(f"{own.name}_ptr", _POINTERS[own.dtype])
        offset, mask = own.offset(lines, self.group.shape[0]), own.mask
        zero = "0" if own.dtype is torch.bool else "0.0"
        load = f"tl.load({pointer}{' + ' + offset if offset else ''}{f', mask={mask}, other={zero}' if mask else ''})"
        if own.dtype is torch.bool:
            lines.add(f"{_named(own.name)} = {load} != 0")
        else:
            read = to_carrier(own.dtype, self.carrier)
            lines.call(read.functions)
            lines.add(f"{_named(own.name)} = {read.of(load)}")
        return _named(own.name)

    def _check_broadcast(self, node: Node, shape: Sequence[int]) -> None:
        """A shape whose elements are those of the rows, or one number for each."""
        rows, length = self.group.shape
        count = 1
        for size in shape[:-1]:
            count *= size
        if len(shape) and count in (rows, 1) and shape[-1] in (length, 1):
            return
        raise BackendError(f"triton: {node.name} is read as {list(shape)}, by rows of {rows} x {length}")

    def _check_rows(self, node: Node, shape: Sequence[int]) -> None:
        """That rows stay rows where a computed value meets another of the shape."""
        value = self.group.values[node]
        if not isinstance(value, Tensor) or tuple(value.shape) == tuple(shape) or value.numel() == 1:
            return
        lead = tuple(value.shape[:-1])
        if lead == tuple(shape[:-1]) and value.shape[-1] in (1, shape[-1]):
            return
        if (
            all(size == 1 for size in lead)
            and value.shape[-1:] == tuple(shape[-1:])
            and value.shape[-1] == self.group.shape[1]
        ):
            return
        raise BackendError(f"triton: {node.name} of shape {list(value.shape)} is read as {list(shape)}")

    def _view(self, lines: Lines, node: Node) -> None:
        """Another shape of the same rows; of what is given, whatever torch makes of it."""
        source: Any = node.args[0]
        if source not in self._blocks:
            return  # it is given: see `_block`
        before, after = self.group.values[source], self.group.values[node]
        rows, length = self.group.shape
        same = before.numel() == after.numel() and op_name(node) not in ("aten.t", "aten.transpose", "aten.permute")
        whole = before.numel() == rows * length and before.shape[-1:] == after.shape[-1:]
        number = before.numel() == rows and length != rows
        if not same or not (whole or number or before.shape[-1:] == after.shape[-1:]):
            raise BackendError(f"triton: {node.name} changes the rows: {list(before.shape)} to {list(after.shape)}")
        self._blocks[node] = self._blocks[source]

    def _converted(self, lines: Lines, node: Node, expression: str) -> str:
        """Rounded to the dtype of the node, as between operators of torch."""
        dtype = self.group.values[node].dtype
        if dtype is torch.bool or dtype not in POINTERS:
            if dtype is not torch.bool:
                raise BackendError(f"triton: {node.name} is {dtype}, which no kernel of rows computes")
            return expression
        write, read = to_dtype(self.carrier, dtype), to_carrier(dtype, self.carrier)
        if write.expression == "{}":
            return expression
        lines.call(write.functions)
        lines.call(read.functions)
        return read.of(write.of(f"({expression})"))

    def _as_stored(self, lines: Lines, node: Node, name: str, summed: bool) -> str:
        """A result of a reduction in the dtype of its node; a sum over rows is rounded when it is complete."""
        converted = name if summed else self._converted(lines, node, name)
        if converted != name:
            lines.add(f"{_name(node)} = {converted}")
            return _name(node)
        return name

    def _store(self, lines: Lines, node: Node) -> None:
        value = self.group.values[node]
        name = self._blocks[node]
        if node in self.partial:
            self._store_sum(lines, node, name)
            return
        if value.dtype not in _POINTERS:
            raise BackendError(f"triton: a kernel of rows writes no {value.dtype} tensor: {node.name}")
        own = RowTensor.of(f"{node.name}_out", value, value.shape if value.dim() else ())
        self.written[node] = own
        pointer = lines.argument(f"{own.name}_ptr", _POINTERS[own.dtype])
        offset, mask = own.offset(lines, self.group.shape[0]), own.mask
        if not offset:  # one number, which may be in a block all the same
            offset, mask = "row[:, None] + column[None, :]", "(row == 0)[:, None] & (column == 0)[None, :]"
        converted = name
        if value.dtype is not torch.bool:
            write = to_dtype(self.carrier, value.dtype)
            lines.call(write.functions)
            converted = write.of(name)
        lines.add(f"tl.store({pointer} + {offset}, {converted}, mask={mask})")

    def _store_sum(self, lines: Lines, node: Node, name: str) -> None:
        """The sum of the rows here, in a row of a matrix that is summed behind the kernel."""
        kind = {"tl.float32": "*fp32", "tl.float64": "*fp64"}[self.carrier]
        pointer = lines.argument(f"{node.name}_part_ptr", kind)
        part = "row_step" if lines.stepping else "row_tile"
        lines.add(
            f"{_name(node)}_part = tl.sum(tl.where(inside, {name}, 0.0), 0)",
            f"tl.store({pointer} + {part} * columns + column, {_name(node)}_part, mask=column < columns)",
        )


def _named(name: str) -> str:
    return f"v_{name}"


def _name(node: Node) -> str:
    return _named(node.name)
