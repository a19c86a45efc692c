"""Matrix products: operands rounded as they are loaded, sums in the arithmetic of their formats, a fused epilogue."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.two_passes import TwoPasses
from precc.annotations import Product, annotation_of
from precc.backends.triton.device import Device
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.load import launch
from precc.backends.triton.low_precision import LowSize, low_pays
from precc.backends.triton.native import Arithmetic, least_terms
from precc.backends.triton.program import Built, Group, Rows
from precc.backends.triton.templates.accumulate import Shape
from precc.backends.triton.templates.cast_chain import viewed
from precc.backends.triton.templates.cast_copies import Copy, alike
from precc.backends.triton.templates.cast_kernels import CastKernels, kernels_of
from precc.backends.triton.templates.epilogue import Epilogue, EpilogueReader, Sides, epilogue_values, packed_place
from precc.backends.triton.templates.epilogue_blocks import ScaleBlocks
from precc.backends.triton.templates.group_values import group_values, outputs_of, placeholders_of
from precc.backends.triton.templates.product_inputs import InputReader
from precc.backends.triton.templates.product_sums import RoundedSums
from precc.backends.triton.templates.product_text import WITHOUT_INTERPRETER, ProductText, product_text
from precc.backends.triton.tiles import ProductSize, Tile, product_tiles
from precc.backends.triton.tuning import can_be_timed, milliseconds, quickest_here
from precc.errors import BackendError, FormatError
from precc.fusible_ops import MATRIX_PRODUCTS
from precc.fusion_group import GroupKind
from precc.packing import PACK, PackedLayout
from precc.round_op import ROUND
from precc.stored_nodes import behind_views, op_name

__all__ = ["ProductTemplate"]

_WIDE = 2**31
_BLOCK = 128


@dataclass(frozen=True, slots=True)
class ProductTemplate:
    """Groups around a product of matrices, in the tensors' own sums.

    One kernel loads both operands, rounded as it loads them if their scales are none or given, and computes and rounds
    what is made of the sums at their place. Scales that come from the values of an operand, or of a result, take a cast
    of their own before or behind it.

    Args:
        force_low: whether operands of 8 bits are multiplied as such also where bfloat16 is faster.
    """

    force_low: bool = True
    kind: ClassVar[GroupKind] = GroupKind.PRODUCT

    def build(self, group: Group, args: Sequence[Any], rows: Rows, device: Device) -> Built:
        """The program of a group; a sentence where no kernel computes it."""
        try:
            return ProductProgram(group, args, rows, device, force_low=self.force_low)
        except (BackendError, FormatError) as error:
            return str(error).removeprefix("triton: ")


class ProductProgram:
    """The kernels of one product, for tensors of some sizes."""

    def __init__(self, group: Group, args: Sequence[Any], rows: Rows, device: Device, *, force_low: bool) -> None:
        self._force_low = force_low
        self._group, self._device = group, device
        self._values = group_values(group.module, args)
        self._placeholders = placeholders_of(group.module)
        self._product = next(node for node in group.module.graph.nodes if op_name(node) in MATRIX_PRODUCTS)
        record = annotation_of(self._product)
        assert isinstance(record, Product)
        self._check()
        self._rows, self._accumulator_row = rows, record.accumulator_row
        first, second = (self._values[self._product.args[own.position]] for own in record.operands)
        batches = first.shape[0] if first.dim() == 3 else 1
        self._sizes = (batches, first.shape[-2], second.shape[-1])
        self._terms = first.shape[-1]
        self._sums = sums = self._accumulator(record)
        usual = InputReader(self._product, record, self._values, rows, device, group.record.name, sums)
        narrow = usual.kind is not Arithmetic.FP8 or sums is not None or self._pays(device)
        inputs = usual if narrow else usual.without_fp8()
        self._kind, self._promotion = inputs.kind, inputs.promotion or 0
        self._rounded = None if sums is None or inputs.promotion is not None else self._rounded_sums(sums)
        self._inputs = [inputs.read(n) for n in (0, 1)]
        bias = self._product.args[0] if record.operands[0].position == 1 else None
        for self._limit in (_BLOCK, 0):  # largest blocks of results whose scales the kernel finds
            self._epilogue, self._later = self._read_epilogue(bias)
            tile = self._choose_tile()
            if tile is not None:
                break
        assert tile is not None
        self._text, self._tile, self._is_chosen = self._make_text(), tile, False
        self._source = self._make_source()
        self._after = {source: self._casts_behind(source, nodes) for source, nodes in self._later.items()}

    def _pays(self, device: Device) -> bool:
        """Whether 8-bit operands are wanted in any case, or faster than bfloat16 by published figures."""
        if self._force_low or device.interpreted:
            return True
        return low_pays(LowSize(self._sizes[1], self._sizes[2], self._terms), "float8_e4m3fn", "float8_e4m3fn", device)

    def _check(self) -> None:
        if any(self._product.kwargs.values()) and self._product.kwargs not in ({"beta": 1, "alpha": 1},):
            raise BackendError(f"triton: {self._product.name} has factors {dict(self._product.kwargs)}")

    def _accumulator(self, record: Product) -> Accumulator | None:
        live = self._rows.get(record.accumulator_row)
        sums = None if live is None else live.sums
        if isinstance(sums, TwoPasses):
            raise BackendError(f"triton: sums in {sums} are those of a kernel of their own")
        return sums

    def _rounded_sums(self, sums: Accumulator) -> RoundedSums:
        batches, rows, columns = self._sizes
        shape = Shape(batches, batches, rows, columns, self._terms)
        return RoundedSums(sums, self._values[self._product].dtype, shape)

    @property
    def kernels(self) -> Sequence[KernelSource]:
        """In the order in which they run."""
        before = [source for own in self._inputs if own.cast is not None for source in own.cast.sources]
        return [*before, self._source, *(source for own in self._after.values() for source in own.sources)]

    def _read_epilogue(self, bias: Any) -> tuple[Epilogue, dict[Node, list[Node]]]:
        """The text of what follows the product, and, by what they round, the roundings that need a kernel behind it."""
        carrier = "tl.float64" if self._kind is Arithmetic.DOUBLE else "tl.float32"
        reader = EpilogueReader(self._values, self._sizes, self._rows, carrier)
        reader.begin(self._product, bias)
        later: dict[Node, list[Node]] = {}
        behind, apart, packed = {self._product}, set[Node](), set[Node]()
        for node in self._group.module.graph.nodes:
            if node.op != "call_function" or not behind & set(node.all_input_nodes):
                continue
            behind.add(node)
            if node.target in (ROUND, PACK) and self._needs_cast(node, node.args[0] in reader.swapped):
                later.setdefault(node.args[0], []).append(node)
                apart.add(node)
                continue
            reader.read(node)
            packed |= {node} if node.target is PACK else set()
        stored = dict.fromkeys(own for own in outputs_of(self._group.module) if own not in apart | packed)
        stored |= dict.fromkeys(later)
        for node in dict.fromkeys(map(behind_views, stored)):
            reader.store(node)
        return reader.done(), later

    def _needs_cast(self, node: Node, swapped: bool) -> bool:
        live, source = self._rows[int(node.args[2])], self._values[node.args[0]]  # type: ignore[arg-type, index]
        row, shape = live.row, tuple(source.shape)
        assert row is not None
        if row.finds_scales:
            blocks = ScaleBlocks.of(row, shape, self._sizes, swapped)
            if blocks is None or source.dtype is torch.float64 or not blocks.fits(*self._most):
                return True
        if node.target is ROUND:
            return False
        layout = PackedLayout.of(row, shape, source.dtype, bool(node.args[3]))
        if layout.storage == 4 and min(self._most) < 2:
            return True
        return packed_place(layout, self._sizes, swapped, row) is None

    @property
    def _most(self) -> tuple[int, int]:
        """Rows and columns of a tile that may be asked for, to hold whole blocks of results."""
        if self._device.interpreted:
            return 256, 256
        if self._rounded is not None:
            tile = self._rounded.tile(self._device)
            return tile.rows, tile.columns
        _, rows, columns = self._sizes
        return min(self._limit, max(16, rows)), min(self._limit, max(16, columns))

    def _make_text(self) -> ProductText:
        a, b = (own.text for own in self._inputs)
        record = self._group.record
        title = [f"{self._product.name}: {', '.join(record.slots)}", self._described]
        wide = any(isinstance(own, Tensor) and own.numel() >= _WIDE for own in self._values.values())
        return product_text(
            record.name,
            title,
            a,
            b,
            self._kind,
            self._epilogue,
            strides=self._strides(),
            promotion=self._promotion,
            wide=wide,
            rounded=self._rounded,
        )

    @property
    def _described(self) -> str:
        return f"products in {self._kind.value if self._rounded is None else 'float64, each sum rounded'}"

    def _strides(self) -> dict[str, int]:
        """Sizes and strides, by the kernel's names."""
        found = {"M": self._sizes[1], "N": self._sizes[2], "K": self._terms}
        for own in self._inputs:
            found |= own.named_strides
        for n, node in enumerate(self._epilogue.loaded):
            found |= _sides(f"in{n}", node.name, Sides.of(self._values[node], self._sizes))
        for n, node in enumerate(self._epilogue.stored):
            packed = self._epilogue.packed.get(node)
            swapped = node in self._epilogue.swapped
            sides = packed[1] if packed else Sides.of(self._values[node], self._sizes, swapped)
            found |= _sides(f"out{n}", node.name, sides)
        if self._sizes[0] == 1:
            found |= {name: 0 for name in found if name.endswith("_batch")}
        return found

    def _large_enough(self, tiles: Sequence[Tile]) -> list[Tile]:
        """Those that hold whole blocks of results; of the interpreter larger ones."""
        rows, columns = self._epilogue.least
        if self._device.interpreted:
            return [replace(own, rows=max(own.rows, rows), columns=max(own.columns, columns)) for own in tiles]
        return [own for own in tiles if own.rows >= rows and own.columns >= columns]

    def _choose_tile(self) -> Tile | None:
        if self._rounded is not None:
            self._tiles = self._large_enough([self._rounded.tile(self._device)])
            return self._tiles[0]
        a, b = (own.text for own in self._inputs)
        divides = math.gcd(a.scale.terms, b.scale.terms)
        # behind partial sums, which are multiplied by scales or promoted, there are the sums
        live = int(self._kind is Arithmetic.FP8 or divides > 0)
        live += min(2, len(self._epilogue.loaded) + len(self._epilogue.rounded))
        size = ProductSize(
            self._sizes[1],
            self._sizes[2],
            self._terms,
            a.bytes,
            b.bytes,
            a.read,
            b.read,
            a.converted or b.converted,
            divides,
            live,
            max(least_terms(self._kind), self._promotion if self._sums else 0),
            64 if self._kind is Arithmetic.FP8 and self._device.capability >= 90 else 16,  # wgmma's
            self._kind not in (Arithmetic.IEEE, Arithmetic.DOUBLE),
        )
        tiles = self._large_enough(product_tiles(size, self._device))
        if not tiles and self._limit:
            return None
        if not tiles:
            raise BackendError(f"triton: no tile holds blocks of {divides} terms with one scale")
        self._tiles = tiles
        return tiles[0]

    def _choose_quickest(self, made: dict[Node, Any], rows: Rows) -> None:
        """On a GPU, take the quickest of the first tiles: timed once a device, at the first run."""
        self._is_chosen = True
        tensor = next(own for own in made.values() if isinstance(own, Tensor))
        if not can_be_timed(tensor.device) or len(self._tiles) == 1:
            return
        kernel = f"{self._source.digest} {self._sizes} {self._terms}"
        self._use(quickest_here(self._tiles, kernel, lambda tile: self._milliseconds(tile, made, rows)))

    def _milliseconds(self, tile: Tile, made: dict[Node, Any], rows: Rows) -> float:
        self._use(tile)
        return milliseconds(lambda: self._launch(made, rows))

    def _use(self, tile: Tile) -> None:
        self._tile = tile
        self._source = self._make_source()

    def _make_source(self) -> KernelSource:
        tile = self._tile
        constants = {"BLOCK_M": tile.rows, "BLOCK_N": tile.columns}
        constants |= {} if self._rounded else {"BLOCK_K": tile.terms}
        if self._kind in WITHOUT_INTERPRETER:
            constants["INTERPRETED"] = int(self._device.interpreted)
        batches, rows, columns = self._sizes
        reads = [own.text.read for own in self._inputs]
        moved = batches * (rows * self._terms * reads[0] + self._terms * columns * reads[1])
        moved += sum(self._values[node].numel() * self._values[node].itemsize for node in self._epilogue.stored)
        return KernelSource(
            self._group.record.name,
            "product",
            self._text.text,
            self._text.arguments,
            constants,
            tile.warps,
            tile.stages,
            self._group.record.nodes,
            self._group.record.slots,
            int(moved),
            2 * batches * rows * columns * self._terms,
        )

    def _casts_behind(self, source: Node, nodes: list[Node]) -> CastKernels:
        """One reading of a value, all its roundings."""
        value = self._values[source]
        copies = tuple(self._copy(value, node, n) for n, node in enumerate(nodes))
        name = f"{self._group.record.name}_out"
        return kernels_of(tuple(value.shape), value.stride(), value.dtype, copies, self._device, name)

    def _copy(self, value: Tensor, node: Node, n: int) -> Copy:
        row, packed = self._rows[int(node.args[2])].row, node.target is PACK  # type: ignore[arg-type]
        assert row is not None
        strides = () if packed else self._values[node].stride()
        transposed = packed and bool(node.args[3])
        return Copy(alike(row, value.dtype), tuple(range(value.dim())), packed, transposed, strides, n)

    def __call__(self, args: Sequence[Any], rows: Rows) -> tuple[Tensor, ...]:
        """The outputs of the group."""
        made: dict[Node, Any] = dict(zip(self._placeholders, args, strict=True))
        like = next(own for own in args if isinstance(own, Tensor))
        made |= {node: self._empty(node, like.device) for node in self._epilogue.stored}
        if self._sizes[0] * self._sizes[1] * self._sizes[2]:
            if not self._is_chosen:
                self._choose_quickest(made, rows)
            self._launch(made, rows)
        for source, nodes in self._later.items():
            live = [rows[int(node.args[2])] for node in nodes]  # type: ignore[arg-type]
            made |= zip(nodes, self._after[source](_value(source, made), live), strict=True)
        return tuple(_value(node, made) for node in outputs_of(self._group.module))

    def _empty(self, node: Node, device: torch.device) -> Tensor:
        if node in self._epilogue.packed:
            layout, _ = self._epilogue.packed[node]
            packed = torch.empty(layout.bytes, dtype=torch.uint8, device=device)
            if layout.code_bytes < layout.scale_offset:
                packed[layout.code_bytes : layout.scale_offset] = 0
            return packed
        value = self._values[node]
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)

    def _launch(self, made: dict[Node, Any], rows: Rows) -> None:
        numbers = self._strides()
        given: dict[str, Any] = numbers | {f"{name}_16": number // 16 for name, number in numbers.items()}
        for own in self._inputs:
            given |= own.given(_value(own.source, made), rows)
        given |= {f"in{n}_ptr": made[node] for n, node in enumerate(self._epilogue.loaded)}
        given |= {f"out{n}_ptr": self._written(node, made[node]) for n, node in enumerate(self._epilogue.stored)}
        if self._rounded is not None:
            given |= self._rounded.values(rows[self._accumulator_row])
        given |= self._scales(made)
        given |= epilogue_values(self._epilogue, rows)
        tiles = -(-self._sizes[1] // self._tile.rows) * -(-self._sizes[2] // self._tile.columns)
        launch(self._source, (tiles, self._sizes[0]), [given[own.name] for own in self._text.arguments])

    def _written(self, node: Node, tensor: Tensor) -> Tensor:
        if node not in self._epilogue.packed:
            return tensor
        layout, _ = self._epilogue.packed[node]
        codes = tensor[: layout.code_bytes]
        return codes.view(torch.int16) if layout.storage == 16 else codes

    def _scales(self, made: dict[Node, Any]) -> dict[str, Tensor]:
        """Where the scales of packed results are written."""
        stored = [(n, node) for n, node in enumerate(self._epilogue.stored) if node in self._epilogue.packed]
        layouts = [(n, node, self._epilogue.packed[node][0]) for n, node in stored]
        return {
            f"out{n}_scale_ptr": made[node][layout.scale_offset :].view(layout.scale_dtype)
            for n, node, layout in layouts
            if layout.blocks
        }


def _value(node: Any, made: dict[Node, Any]) -> Any:
    """Of a node that was computed, or of a view of one."""
    chain: list[Node] = []
    while node not in made:
        chain.insert(0, node)
        node = node.args[0]
    return viewed(chain, made) if chain else made[node]


def _sides(prefix: str, name: str, sides: Sides | None) -> dict[str, int]:
    if sides is None:
        raise BackendError(f"triton: {name} has no single stride of its batches, its rows and its columns each")
    return {f"{prefix}_batch": sides.batch, f"{prefix}_row": sides.row, f"{prefix}_column": sides.column}
