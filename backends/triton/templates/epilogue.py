"""What a kernel makes of a tile of sums before it writes it: pointwise operations and roundings, by a group's nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.backends.triton.emit.codes import code_text
from precc.backends.triton.emit.conversions import POINTERS, to_carrier, to_dtype
from precc.backends.triton.emit.pointwise import pointwise_text
from precc.backends.triton.emit.rounding import RoundingText, rounding_text
from precc.backends.triton.emit.scales import divided_text, scale_text
from precc.backends.triton.kernel_source import Argument
from precc.backends.triton.program import LiveRow, Rows
from precc.backends.triton.templates.epilogue_blocks import ScaleBlocks
from precc.backends.triton.templates.product_operands import described
from precc.backends.triton.templates.product_scales import double_bits
from precc.errors import BackendError
from precc.fusible_ops import VIEW_OPS
from precc.packing import PACK, PackedLayout
from precc.round_op import ROUND
from precc.rounding import Row
from precc.stored_nodes import op_name

__all__ = ["Epilogue", "EpilogueReader", "Sides", "epilogue_values", "packed_place"]


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Text, and what it is given.

    Args:
        lines: of the kernel, from the block ``sums`` of rows and columns on.
        functions: that they call.
        arguments: pointers, scales and states.
        strides: names of further arguments, which are integers.
        stored: the nodes whose values it writes, in the order of the pointers ``out0_ptr``...
        loaded: the placeholders that it reads, in the order of ``in0_ptr``...
        rounded: the nodes that it rounds, by the prefix of their arguments.
        packed: of nodes that it writes as codes, the layout, and where the codes lie.
        least: rows and columns that a tile has at least.
        swapped: the nodes whose last two dimensions are columns and rows.
    """

    lines: tuple[str, ...]
    functions: tuple[str, ...]
    arguments: tuple[Argument, ...]
    strides: tuple[str, ...]
    stored: tuple[Node, ...]
    loaded: tuple[Node, ...]
    rounded: Mapping[str, tuple[Node, RoundingText]]
    packed: Mapping[Node, "tuple[PackedLayout, Sides]"]
    least: tuple[int, int]
    swapped: frozenset[Node]


@dataclass(frozen=True, slots=True)
class Sides:
    """Strides of a tensor by row and column of a tile, and by batch.

    >>> Sides.of(torch.empty(2, 3, 4), (1, 6, 4))
    Sides(batch=24, row=4, column=1)
    """

    batch: int
    row: int
    column: int

    @classmethod
    def of(cls, value: Tensor, sizes: tuple[int, int, int], swapped: bool = False) -> "Sides | None":
        """Of a tensor that has an element, or a broadcast one, for each of [batches, rows, columns]; else None."""
        batches, rows, columns = sizes
        value = value.mT if swapped and value.dim() >= 2 else value
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


class EpilogueReader:
    """Reads the nodes behind a product, one after the other, into text.

    Args:
        values: of the group's nodes, without data.
        sizes: batches, rows and columns of the product.
        rows: of the plan.
        carrier: in which the sums are.
    """

    def __init__(self, values: Mapping[Node, Any], sizes: tuple[int, int, int], rows: Rows, carrier: str) -> None:
        self.values, self.sizes, self.rows, self.carrier = values, sizes, rows, carrier
        self.lines: list[str] = []
        self.functions: list[str] = []
        self.arguments: list[Argument] = []
        self.strides: list[str] = []
        self.names: dict[Node, str] = {}
        self.swapped: set[Node] = set()
        self.loaded: list[Node] = []
        self.stored: list[Node] = []
        self.rounded: dict[str, tuple[Node, RoundingText]] = {}
        self.packed: dict[Node, tuple[PackedLayout, Sides]] = {}
        self.coded: dict[tuple[Node, int], tuple[str, str]] = {}  # names of codes, prefix of their rounding
        self.least = [1, 1]  # columns and rows of a tile

    def begin(self, node: Node, bias: Node | None) -> None:
        """The product's own node, from the sums."""
        text = "sums" if bias is None else f"sums + {self.load(bias)}"
        self.name(node, text)

    def read(self, node: Node) -> None:
        """A node that is computed of those read before, and of placeholders.

        Raises:
            BackendError: no kernel computes it at its place.
        """
        if op_name(node) in VIEW_OPS:
            source = node.args[0]
            assert isinstance(source, Node)
            self.names[node] = self.names[source]
            swaps = op_name(node) in ("aten.t", "aten.transpose", "aten.permute")
            if swaps != (source in self.swapped):
                self.swapped.add(node)
        elif node.target is ROUND:
            self.round(node)
        elif node.target is PACK:
            self.pack(node)
        else:
            self.turn(node)
            for own in node.all_input_nodes:
                if own not in self.names:
                    self.load(own)
            made = pointwise_text(node, self.names, self.carrier)
            self.functions.append(made.functions)
            self.name(node, made.expression)

    def turn(self, node: Node) -> None:
        """Note that a node has columns and rows in its last two dimensions, if what it is computed of has."""
        inputs = [own for own in node.all_input_nodes if getattr(self.values[own], "numel", lambda: 1)() > 1]
        turned = {own in self.swapped for own in inputs}
        if turned == {True, False}:
            raise BackendError(f"triton: {node.name} is computed of a transposed value and one that is not")
        if True in turned:
            self.swapped.add(node)

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

    def round(self, node: Node) -> None:
        """A rounding, by scales that are given or none."""
        source, row = self.source(node)
        if row.is_identity(self.values[source].dtype):
            self.names[node] = self.names[source]
            return
        text, prefix = self.rounded_elements(node, source, row)
        scale = "" if row.granularity is None else f" * {prefix}_{'scale_each' if row.finds_scales else 'given'}"
        self.name(node, f"{text}{scale}")

    def pack(self, node: Node) -> None:
        """The codes of a rounding, written where `packed_place` says, and the scales of its blocks."""
        source, row = self.source(node)
        value = self.values[source]
        layout = PackedLayout.of(row, value.shape, value.dtype, bool(node.args[3]))
        place = packed_place(layout, self.sizes, source in self.swapped, row)
        assert place is not None
        key = source, int(node.args[2])  # type: ignore[arg-type]
        if key not in self.coded:
            codes = code_text(row, value.dtype)
            self.functions.append(codes.encoder)
            text, prefix = self.rounded_elements(node, source, row)
            self.lines.append(f"{node.name} = {codes.encode.format(text)}")
            self.coded[key] = node.name, prefix
        name, prefix = self.coded[key]
        n = self.output(node, "*i16" if layout.storage == 16 else "*u8")
        self.packed[node] = layout, place
        if layout.storage == 4:
            self.write_pairs(n, name, by_row=place.row == 1 and place.column != 1)
        else:
            self.write(n, f"{name}.to({_INTEGERS[layout.storage]})")
        blocks = self.blocks(node)
        if blocks is not None:
            self.arguments.append(Argument(f"out{n}_scale_ptr", "*fp32"))
            self.lines += blocks.stored(f"{prefix}_scale", f"out{n}_scale_ptr")

    def write_pairs(self, n: int, codes: str, *, by_row: bool) -> None:
        """Two codes a byte, the lower half first, along the dimension in which they are consecutive."""
        across, size, block, index = "rows", "N", "BLOCK_N", "n"
        if by_row:
            across, size, block, index = "columns", "M", "BLOCK_M", "m"
            codes = f"tl.trans({codes})"
        other = "BLOCK_N" if by_row else "BLOCK_M"
        stride, limit = ("column", "N") if by_row else ("row", "M")
        pairs = f"pairs{n}"
        self.least[by_row] = max(self.least[by_row], 2)
        self.lines += [
            f"low{n}, high{n} = tl.split(tl.reshape({codes}, [{other}, {block} // 2, 2]))",
            f"{pairs} = {index} * ({block} // 2) + tl.arange(0, {block} // 2)",
            f"{pairs}_in = ({across}[:, None] < {limit}) & ({pairs}[None, :] * 2 < {size})",
            f"{pairs}_at = (z * out{n}_batch + {across}[:, None] * out{n}_{stride}) // 2 + {pairs}[None, :]",
            f"tl.store(out{n}_ptr + {pairs}_at, (low{n} | (high{n} << 4)).to(tl.uint8), mask={pairs}_in)",
        ]

    def blocks(self, node: Node) -> ScaleBlocks | None:
        """The blocks of a rounding whose scales are found; None where scales are given, or there are none."""
        source, number = node.args[0], int(node.args[2])  # type: ignore[arg-type]
        assert isinstance(source, Node)
        row = self.rows[number].row
        assert row is not None
        return ScaleBlocks.of(row, self.values[source].shape, self.sizes, source in self.swapped)

    def source(self, node: Node) -> tuple[Node, Row]:
        """What is rounded, and how."""
        source, number = node.args[0], node.args[2]
        assert isinstance(source, Node)
        row = self.rows[int(number)].row  # type: ignore[arg-type]
        assert row is not None
        if source in self.swapped:
            self.swapped.add(node)
        return source, row

    def rounded_elements(self, node: Node, source: Node, row: Row) -> tuple[str, str]:
        """The expression of rounded elements before they are multiplied by their scale, and the arguments' prefix."""
        rounding = rounding_text(row, self.values[source].dtype)
        if rounding.carrier != self.carrier:
            raise BackendError(
                f"triton: {node.name} is rounded in {rounding.carrier}, its product is in {self.carrier}"
            )
        prefix = f"round{len(self.rounded)}"
        self.rounded[prefix] = (node, rounding)
        self.arguments += rounding.arguments(prefix)
        self.functions.append(rounding.functions)
        value = self.names[source]
        if row.finds_scales:
            value = self.divided_by_found(node, value, prefix)
        elif row.granularity is not None:
            value = self.divided(value, prefix)
        index = f"{prefix}_index"
        if rounding.draws:
            inner = "columns[None, :] * M + rows[:, None]"
            if node not in self.swapped:
                inner = "rows[:, None] * N + columns[None, :]"
            self.lines.append(f"{index} = z * M * N + {inner}")
        self.lines.append(f"# {node.name}: {described(row)}")
        return rounding.call(value, index, prefix), prefix

    def divided_by_found(self, node: Node, value: str, prefix: str) -> str:
        """A value by the scales of its blocks."""
        blocks, row = self.blocks(node), self.source(node)[1]
        assert blocks is not None
        scale, (name, text) = scale_text(row, self.carrier), divided_text(self.carrier)
        self.functions += [scale.functions, text]
        self.lines += blocks.found(value, f"{prefix}_scale", scale.name)
        self.least = [max(self.least[0], blocks.columns), max(self.least[1], blocks.rows)]
        return f"{name}({value}, {prefix}_scale_each)"

    def divided(self, value: str, prefix: str) -> str:
        """A value by a scale that is given."""
        if self.carrier == "tl.float32":
            self.arguments.append(Argument(f"{prefix}_given", "fp32"))
            return f"tl.div_rn({value}, {prefix}_given)"
        self.arguments.append(Argument(f"{prefix}_given_bits", "i64"))
        self.lines.append(f"{prefix}_given = tl.cast({prefix}_given_bits, tl.int64).to(tl.float64, bitcast=True)")
        return f"{value} / {prefix}_given"

    def load(self, node: Node) -> str:
        """A block of a placeholder's values."""
        value = self.values[node]
        if not isinstance(value, Tensor):
            raise BackendError(f"triton: {node.name} is a number that is only known as it runs")
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
            frozenset(self.swapped),
        )


def packed_place(layout: PackedLayout, sizes: tuple[int, int, int], swapped: bool, row: Row) -> "Sides | None":
    """Where the codes of [batches, rows, columns] lie in a packed tensor; None if a kernel of its own writes them.

    Args:
        layout: of the tensor.
        sizes: of the product.
        swapped: whether the last two dimensions of what is packed are columns and rows.
        row: by which it is rounded.
    """
    _, rows, columns = sizes
    if layout.marks_nan or layout.stored is not None or layout.storage not in (4, *_INTEGERS):
        return None
    if layout.blocks and ScaleBlocks.of(row, layout.shape, sizes, swapped) is None:
        return None
    by_column = layout.transposed != swapped
    if not by_column and not swapped:
        return Sides(rows * columns, columns, 1)
    if layout.shape[-2:] != ((columns, rows) if swapped else (rows, columns)):
        return None
    return Sides(rows * columns, 1, rows) if by_column else Sides(rows * columns, columns, 1)


_INTEGERS = {8: "tl.uint8", 16: "tl.int16"}
_TAKEN = frozenset(
    {"sums", "rows", "columns", "terms", "inside", "group", "height", "a", "b", "k", "m", "n", "z", "tl"}
)


def epilogue_values(epilogue: Epilogue, rows: Rows) -> dict[str, Any]:
    """The values of an epilogue's scales and states of random numbers, by name."""
    given: dict[str, Any] = {}
    for prefix, (node, rounding) in epilogue.rounded.items():
        live: LiveRow = rows[int(node.args[2])]  # type: ignore[arg-type]
        assert live.row is not None
        given[f"{prefix}_given"] = live.row.scale.value
        given[f"{prefix}_given_bits"] = double_bits(live.row.scale.value)
        names: Sequence[Argument] = rounding.arguments(prefix)
        given |= dict(zip((own.name for own in names), rounding.values(live), strict=True))
    return given
