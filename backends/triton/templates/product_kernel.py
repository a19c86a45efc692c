"""The kernel of a product: its text, its arguments, and how one run is given them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.live_rows import row_number
from precc.backends.triton.program import Rows
from precc.backends.triton.templates.addresses import are_beyond, reach
from precc.backends.triton.templates.bound_kernel import BoundKernel
from precc.backends.triton.templates.cast_chain import View
from precc.backends.triton.templates.epilogue import Epilogue
from precc.backends.triton.templates.given_product import GivenProduct
from precc.backends.triton.templates.output import Output
from precc.backends.triton.templates.places import Sides
from precc.backends.triton.templates.product_text import WITHOUT_INTERPRETER, ProductText, product_text
from precc.backends.triton.templates.row_arguments import RowArguments
from precc.backends.triton.tiles import Tile
from precc.errors import BackendError

__all__ = ["ProductKernel"]


@dataclass(frozen=True, slots=True, eq=False)
class ProductKernel:
    """The kernel for one product and what follows it, but for its tile.

    Args:
        product: likewise.
        epilogue: what follows.
        text: of the kernel.
        strides: sizes and strides, by its names.
        sources: the values that the operands are made of.
        outputs: what it writes of which node.
        live: of the rows of operands, sums and results, by number, what it is given.
    """

    product: GivenProduct
    epilogue: Epilogue
    text: ProductText
    strides: dict[str, int]
    sources: tuple[View, ...]
    outputs: tuple[tuple[Node, Output], ...]
    live: tuple[tuple[int, RowArguments], ...]

    @classmethod
    def of(cls, product: GivenProduct, epilogue: Epilogue, placeholders: list[Node]) -> "ProductKernel":
        """For a group of these placeholders.

        Raises:
            BackendError: a tensor has no single stride of its rows.
        """
        strides = _strides(product, epilogue)
        text = _text(product, epilogue, strides)
        sources = tuple(View.of(own.source, placeholders, product.values) for own in product.inputs)
        outputs = tuple((node, _output(product, epilogue, n)) for n, node in enumerate(epilogue.stored))
        return cls(product, epilogue, text, strides, sources, outputs, _live(product, epilogue, text))

    def in_tile(self, tile: Tile) -> BoundKernel:
        """The kernel in one of its tiles."""
        batches, rows, columns = self.product.sizes
        tiles = -(-rows // tile.rows) * -(-columns // tile.columns)
        sixteenths = {f"{name}_16": stride // 16 for name, stride in self.strides.items()}
        return BoundKernel.of(self._source(tile), (tiles * batches,), self.strides | sixteenths)

    def empty(self, device: torch.device) -> dict[Node, Tensor]:
        """The memory that it writes."""
        return {node: output.empty(device) for node, output in self.outputs}

    def given(self, made: dict[Node, Any], rows: Rows, device: torch.device) -> dict[str, Any]:
        """The arguments of a run by name, of values that there are; operands are cast where they take it."""
        given: dict[str, Any] = {}
        for own, source in zip(self.product.inputs, self.sources, strict=True):
            own.give(given, source(made), rows)
        for n, node in enumerate(self.epilogue.loaded):
            given[f"in{n}_ptr"] = made[node]
        for node, output in self.outputs:
            output.give(given, made[node])
        for number, arguments in self.live:
            arguments.give(given, rows[number], device)
        return given

    def _source(self, tile: Tile) -> KernelSource:
        product, record = self.product, self.product.group.record
        constants = {"BLOCK_M": tile.rows, "BLOCK_N": tile.columns}
        constants |= {} if product.rounded else {"BLOCK_K": tile.terms}
        if product.kind in WITHOUT_INTERPRETER:
            constants["INTERPRETED"] = int(product.device.interpreted)
        batches, rows, columns = product.sizes
        reads = [own.text.read for own in product.inputs]
        moved = batches * (rows * product.terms * reads[0] + product.terms * columns * reads[1])
        moved += sum(product.values[node].nbytes for node in self.epilogue.stored)
        return KernelSource(
            record.name,
            "product",
            self.text.text,
            self.text.arguments,
            constants,
            tile.warps,
            tile.stages,
            record.nodes,
            record.slots,
            int(moved),
            2 * batches * rows * columns * product.terms,
        )


def _text(product: GivenProduct, epilogue: Epilogue, strides: dict[str, int]) -> ProductText:
    record = product.group.record
    return product_text(
        record.name,
        [f"{product.node.name}: {', '.join(record.slots)}", product.described],
        product.inputs[0].text,
        product.inputs[1].text,
        product.kind,
        epilogue,
        strides=strides,
        promotion=product.promotion,
        wide=_is_wide(product, strides),
        rounded=product.rounded,
    )


def _is_wide(product: GivenProduct, strides: dict[str, int]) -> bool:
    """Whether an address, or the number of an element that is rounded, needs 64 bits."""
    batches, rows, columns = product.sizes
    sizes = {"batch": batches, "row": rows, "column": columns, "term": product.terms}
    dims: dict[str, list[tuple[int, int]]] = {}
    for name, stride in strides.items():
        tensor, _, side = name.partition("_")
        if side:
            dims.setdefault(tensor, []).append((sizes[side], stride))
    numbers = batches * max(rows * product.terms, product.terms * columns, rows * columns)
    return are_beyond(map(reach, dims.values())) or numbers > 1 << 32


def _strides(product: GivenProduct, epilogue: Epilogue) -> dict[str, int]:
    found = {"M": product.sizes[1], "N": product.sizes[2], "K": product.terms}
    for own in product.inputs:
        found |= own.named_strides
    for n, node in enumerate(epilogue.loaded):
        found |= _sides(f"in{n}", node.name, Sides.of(product.values[node], product.sizes))
    for n, node in enumerate(epilogue.stored):
        packed = epilogue.packed.get(node)
        sides = packed[1] if packed else epilogue.sides[node]
        found |= _sides(f"out{n}", node.name, sides)
    if product.sizes[0] == 1:
        found |= {name: 0 for name in found if name.endswith("_batch")}
    return found


def _sides(prefix: str, name: str, sides: Sides | None) -> dict[str, int]:
    if sides is None:
        raise BackendError(f"triton: {name} has no single stride of its batches, its rows and its columns each")
    return {f"{prefix}_batch": sides.batch, f"{prefix}_row": sides.row, f"{prefix}_column": sides.column}


def _output(product: GivenProduct, epilogue: Epilogue, n: int) -> Output:
    node = epilogue.stored[n]
    if node not in epilogue.packed:
        return Output.like(f"out{n}_ptr", product.values[node])
    layout, _ = epilogue.packed[node]
    dtype = torch.int16 if layout.storage == 16 else torch.uint8
    return Output(f"out{n}_ptr", dtype, layout=layout, scales=f"out{n}_scale_ptr" if layout.blocks else "")


def _live(product: GivenProduct, epilogue: Epilogue, text: ProductText) -> tuple[tuple[int, RowArguments], ...]:
    prefixes = {own.text.side: own.row for own in product.inputs}
    prefixes |= {prefix: row_number(node) for prefix, node in epilogue.rounded.items()}
    found = [(number, RowArguments.of(prefix, text.arguments)) for prefix, number in prefixes.items()]
    if product.rounded is not None:
        number, names = product.record.accumulator_row, [own.name for own in product.rounded.arguments]
        found += [(number, RowArguments(name, "")) for name in names]
    return tuple(own for own in found if own[1] != RowArguments("", ""))
