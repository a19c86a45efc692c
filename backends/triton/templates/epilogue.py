"""What a kernel makes of a tile of sums before it writes it, as text, and where packed results of it lie."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import Node

from precc.backends.triton.kernel_source import Argument
from precc.backends.triton.templates.epilogue_blocks import ScaleBlocks
from precc.backends.triton.templates.places import Sides
from precc.packing import PackedLayout
from precc.rounding import Row

__all__ = ["INTEGERS", "Epilogue", "packed_place"]


#: Of codes that are not two a byte, by their bits.
INTEGERS = {8: "tl.uint8", 16: "tl.int16"}


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
        sides: strides of the other nodes that it writes.
    """

    lines: tuple[str, ...]
    functions: tuple[str, ...]
    arguments: tuple[Argument, ...]
    strides: tuple[str, ...]
    stored: tuple[Node, ...]
    loaded: tuple[Node, ...]
    rounded: Mapping[str, Node]
    packed: Mapping[Node, tuple[PackedLayout, Sides]]
    least: tuple[int, int]
    sides: Mapping[Node, Sides | None]


def packed_place(layout: PackedLayout, sizes: tuple[int, int, int], swapped: bool, row: Row) -> Sides | None:
    """Where the codes of [batches, rows, columns] lie in a packed tensor; None if a kernel of its own writes them.

    Args:
        layout: of the tensor.
        sizes: of the product.
        swapped: whether the last two dimensions of what is packed are columns and rows.
        row: by which it is rounded.
    """
    _, rows, columns = sizes
    if layout.marks_nan or layout.stored is not None or layout.storage not in (4, *INTEGERS):
        return None
    if layout.blocks and ScaleBlocks.of(row, layout.shape, sizes, swapped) is None:
        return None
    by_column = layout.transposed != swapped
    if not by_column and not swapped:
        return Sides(rows * columns, columns, 1)
    if layout.shape[-2:] != ((columns, rows) if swapped else (rows, columns)):
        return None
    return Sides(rows * columns, 1, rows) if by_column else Sides(rows * columns, columns, 1)
