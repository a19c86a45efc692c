"""What follows a product: what its kernel makes of the sums, and the roundings that take kernels of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.backends.triton.alike_rows import alike
from precc.backends.triton.live_rows import row_number
from precc.backends.triton.native import Arithmetic
from precc.backends.triton.program import Rows
from precc.backends.triton.templates.cast_chain import View
from precc.backends.triton.templates.cast_copies import Copy
from precc.backends.triton.templates.cast_kernels import CastKernels, kernels_of
from precc.backends.triton.templates.epilogue import Epilogue, packed_place
from precc.backends.triton.templates.epilogue_blocks import ScaleBlocks
from precc.backends.triton.templates.epilogue_reader import EpilogueReader
from precc.backends.triton.templates.given_product import GivenProduct
from precc.backends.triton.templates.group_values import outputs_of
from precc.backends.triton.templates.places import Places
from precc.packing import PACK, PackedLayout
from precc.round_op import ROUND
from precc.stored_nodes import behind_views

__all__ = ["CastBehind", "Later", "casts_behind", "what_follows"]

#: Roundings that need a kernel behind that of the product, by what they round.
Later = Mapping[Node, Sequence[Node]]


def what_follows(product: GivenProduct, limit: int) -> tuple[Epilogue, Later]:
    """The text of what follows the product, and the roundings that it leaves.

    Args:
        product: likewise.
        limit: the most rows and columns of results with one scale, which the kernel finds.

    Raises:
        BackendError: no kernel computes a node at its place.
    """
    carrier = "tl.float64" if product.kind is Arithmetic.DOUBLE else "tl.float32"
    reader = EpilogueReader(product.values, product.sizes, product.rows, carrier)
    reader.begin(product.node, product.bias)
    later: dict[Node, list[Node]] = {}
    behind, apart, packed = {product.node}, set[Node](), set[Node]()
    most = _most(product, limit)
    for node in product.group.module.graph.nodes:
        if node.op != "call_function" or not behind & set(node.all_input_nodes):
            continue
        behind.add(node)
        if node.target in (ROUND, PACK) and _needs_cast(product, node, reader.text.places, most):
            later.setdefault(node.args[0], []).append(node)
            apart.add(node)
            continue
        reader.read(node)
        packed |= {node} if node.target is PACK else set()
    stored = dict.fromkeys(own for own in outputs_of(product.group.module) if own not in apart | packed)
    stored |= dict.fromkeys(later)
    for node in dict.fromkeys(map(behind_views, stored)):
        reader.text.store(node)
    return reader.text.done(), later


def _most(product: GivenProduct, limit: int) -> tuple[int, int]:
    """Rows and columns of a tile that may be asked for, to hold whole blocks of results."""
    if product.device.interpreted:
        return 256, 256
    if product.rounded is not None:
        tile = product.rounded.tile(product.device)
        return tile.rows, tile.columns
    _, rows, columns = product.sizes
    return min(limit, max(16, rows)), min(limit, max(16, columns))


def _needs_cast(product: GivenProduct, node: Node, places: Places, most: tuple[int, int]) -> bool:
    """Whether a tile of the product, of at most so many rows and columns, cannot round or pack what it has."""
    source, row = product.values[node.args[0]], product.rows[row_number(node)].row  # type: ignore[index]
    assert row is not None
    shape, swapped = tuple(source.shape), node.args[0] in places.swapped
    if node.args[0] in places.moved and (row.finds_scales or row.is_stochastic or node.target is PACK):
        return True
    if row.finds_scales:
        blocks = ScaleBlocks.of(row, shape, product.sizes, swapped)
        if blocks is None or source.dtype is torch.float64 or not blocks.fits(*most):
            return True
    if node.target is ROUND:
        return False
    layout = PackedLayout.of(row, shape, source.dtype, bool(node.args[3]))
    if layout.storage == 4 and min(most) < 2:
        return True
    return packed_place(layout, product.sizes, swapped, row) is None


@dataclass(frozen=True, slots=True, eq=False)
class CastBehind:
    """Kernels that read a value once and round it in all ways.

    Args:
        source: the value.
        kernels: of the cast.
        results: the nodes of its copies.
        rows: numbers of theirs in the plan.
    """

    source: View
    kernels: CastKernels
    results: tuple[Node, ...]
    rows: tuple[int, ...]

    def run(self, made: dict[Node, Any], rows: Rows) -> None:
        """Put the copies to the other values."""
        copies = self.kernels(self.source(made), [rows[number] for number in self.rows])
        made.update(zip(self.results, copies, strict=True))


def casts_behind(product: GivenProduct, later: Later, stored: Sequence[Node]) -> tuple[CastBehind, ...]:
    """The kernels of the roundings that the product's kernel leaves, of the values that it stores."""
    return tuple(_cast(product, source, nodes, stored) for source, nodes in later.items())


def _cast(product: GivenProduct, source: Node, nodes: Sequence[Node], stored: Sequence[Node]) -> CastBehind:
    value = product.values[source]
    copies = tuple(_copy(product, value, node, n) for n, node in enumerate(nodes))
    name = f"{product.group.record.name}_out"
    kernels = kernels_of(tuple(value.shape), value.stride(), value.dtype, copies, product.device, name)
    view = View.of(source, stored, product.values)
    return CastBehind(view, kernels, tuple(nodes), tuple(map(row_number, nodes)))


def _copy(product: GivenProduct, value: Tensor, node: Node, n: int) -> Copy:
    live, packed = product.rows[row_number(node)], node.target is PACK
    assert live.row is not None
    strides = () if packed else product.values[node].stride()
    transposed = packed and bool(node.args[3])
    same = alike(live.row, value.dtype)
    return Copy(same, tuple(range(value.dim())), packed, transposed, strides, n, live.records)
