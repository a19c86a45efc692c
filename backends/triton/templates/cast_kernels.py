"""The kernels of a cast for values of one shape: built once, run on values and live rows."""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from precc.backends.triton.device import Device
from precc.backends.triton.emit.conversions import POINTERS
from precc.backends.triton.emit.rounding import rounding_text
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.load import launch
from precc.backends.triton.program import LiveRow
from precc.backends.triton.templates.cast_copies import (
    Copy,
    PackedParts,
    contiguous_strides,
    packed_bytes,
    packed_parts,
)
from precc.backends.triton.templates.cast_text import CastText, Lines, amax_text, cast_text
from precc.backends.triton.templates.cast_tiles import tile_of
from precc.backends.triton.templates.cast_view import EACH, WHOLE, CastView, view_of
from precc.errors import BackendError
from precc.rounding.tensor_ops import Carrier, carrier_of

__all__ = ["CastKernels", "check_pairs", "is_wide", "kernels_of", "programs_of"]


@dataclass(frozen=True, slots=True)
class CastKernels:
    """One kernel or two that read a value and write copies.

    A run reads the value once, twice where a scale belongs to more than a tile, and writes each copy once.

    Args:
        text: what they were written for.
        shape: of the value.
        carrier: of all copies.
        first: finds the largest magnitudes that no tile holds; None where there are none.
        cast: rounds and writes.
        buffers: how many largest magnitudes each buffer of the first has.
    """

    text: CastText
    shape: tuple[int, ...]
    carrier: Carrier
    first: KernelSource | None
    cast: KernelSource
    buffers: tuple[int, ...]

    @property
    def sources(self) -> tuple[KernelSource, ...]:
        """In the order in which they run."""
        return (*([self.first] if self.first is not None else []), self.cast)

    def __call__(self, x: Tensor, live: Sequence[LiveRow]) -> list[Tensor]:
        """The copies of a value, with the keys and scales of these rows."""
        results = self.empty(x)
        if x.numel():
            given: dict[str, object] = {"x_ptr": x, **self.given(x, results, live)}
            for source in self.sources:
                self.launch(source, given)
        return results

    def launch(self, source: KernelSource, given: Mapping[str, object]) -> None:
        """Run one of the kernels on arguments by name."""
        launch(source, (programs_of(self.text),), [given[argument.name] for argument in source.arguments])

    def empty(self, x: Tensor) -> list[Tensor]:
        """The copies before they are written."""
        return [self._empty(x, n) for n in range(len(self.text.copies))]

    def given(self, x: Tensor, results: Sequence[Tensor], live: Sequence[LiveRow]) -> dict[str, object]:
        """Arguments by name, but for the value itself."""
        given = self._pointers(x, results)
        for n, own in enumerate(live):
            given |= self._numbers(n, own)
        return given

    def _empty(self, x: Tensor, n: int) -> Tensor:
        copy, parts = self.text.copies[n], self.text.packs[n]
        if parts is None:
            return torch.empty_strided(copy.sizes(self.shape), copy.strides, dtype=x.dtype, device=x.device)
        packed = torch.empty(packed_bytes(parts, copy.row, x.dtype), dtype=torch.uint8, device=x.device)
        packed[parts.codes : parts.offset].zero_()
        if parts.flag:
            packed[parts.offset :].view(self.carrier.dtype).fill_(1.0)
        return packed

    def _pointers(self, x: Tensor, results: Sequence[Tensor]) -> dict[str, object]:
        given: dict[str, object] = {}
        for number, count in enumerate(self.buffers):
            given[f"amax{number}_ptr"] = torch.zeros(count, dtype=self.carrier.integer, device=x.device)
        for n, (result, parts) in enumerate(zip(results, self.text.packs, strict=True)):
            if parts is None:
                given[f"y{n}_ptr"] = result
                continue
            codes = result[: parts.codes]
            if self.text.copies[n].row.is_identity(x.dtype):
                given[f"y{n}_ptr"] = codes.view(x.dtype)
            else:
                given[f"code{n}_ptr"] = codes.view(_STORAGE[parts.storage])
            given[f"scale{n}_ptr"] = result[parts.offset :].view(self.carrier.dtype)
        return given | _sizes(self.text)

    def _numbers(self, n: int, live: LiveRow) -> dict[str, object]:
        """What of a live row only numbers differ in."""
        row = live.row
        assert row is not None
        given: dict[str, object] = {f"given{n}": self._static(row.scale.value)}
        if row.is_stochastic and not row.is_identity(self.text.dtype):
            draws = rounding_text(row, self.text.dtype, self.text.wide)
            names = [argument.name for argument in draws.arguments(f"draw{n}")]
            given |= dict(zip(names, draws.values(live), strict=True))
        return given

    def _static(self, value: float) -> float | int:
        if self.carrier.dtype is torch.float32:
            return value
        bits: int = struct.unpack("q", struct.pack("d", value))[0]
        return bits


_STORAGE = {4: torch.uint8, 8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}


def programs_of(text: CastText) -> int:
    """How many programs run: one a tile."""
    view, tile = text.view, text.tile
    tiles = -(-view.rows.size // tile.rows.covered) * -(-view.columns.size // tile.columns.covered)
    return tiles * math.prod(dim.size for dim in view.outer)


def _sizes(text: CastText) -> dict[str, object]:
    """Sizes and strides, by the names that the kernels give them."""
    view = text.view
    named = [("row", view.rows), ("column", view.columns), *((f"outer{n}", dim) for n, dim in enumerate(view.outer))]
    given: dict[str, object] = {"rows": view.rows.size, "columns": view.columns.size}
    given |= {f"size{n}": dim.size for n, dim in enumerate(view.outer)}
    for name, dim in named:
        given[f"x_{name}"] = dim.strides[0]
        for n, (place, index) in enumerate(text.places):
            parts = text.packs[n]
            halved = 2 if parts is not None and parts.storage == 4 else 1
            given[f"y{n}_{name}"] = given[f"code{n}_{name}"] = dim.strides[place] // halved
            given[f"index{n}_{name}"] = dim.strides[index]
            given[f"scale{n}_{name}"] = dim.blocks[n]
        for number, copy in enumerate(text.buffers):
            given[f"amax{number}_{name}"] = dim.blocks[copy] if copy >= 0 else 0
    return given


@lru_cache(maxsize=2048)
def kernels_of(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: torch.dtype,
    copies: tuple[Copy, ...],
    device: Device,
    name: str,
) -> CastKernels:
    """The kernels that read a strided value once and write these copies.

    Raises:
        BackendError: no kernel does; the message says why.
        FormatError: a row's scaling has dimensions that the value has not.
    """
    if dtype not in POINTERS:
        raise BackendError(f"triton: a cast takes no {dtype} tensor")
    carriers = {carrier_of(torch.empty(0, dtype=dtype), copy.row) for copy in copies}
    if len(carriers) > 1:
        raise BackendError("triton: copies that are rounded in different carriers share no kernel")
    (carrier,) = carriers
    packs = tuple(
        packed_parts(copy.sizes(shape), dtype, copy.row, copy.transposed) if copy.packed else None for copy in copies
    )
    text = _text(shape, strides, dtype, copies, packs, device, carrier)
    size = math.prod(shape) * dtype.itemsize
    written = sum(
        packed_bytes(parts, copy.row, dtype) if parts is not None else size
        for copy, parts in zip(copies, packs, strict=True)
    )
    first = _source(text, amax_text(text), f"amax_{name}", size) if text.buffers else None
    cast = _source(text, cast_text(text), f"cast_{name}", size + written)
    return CastKernels(text, shape, carrier, first, cast, _counts(text))


def _text(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: torch.dtype,
    copies: tuple[Copy, ...],
    packs: tuple[PackedParts | None, ...],
    device: Device,
    carrier: Carrier,
) -> CastText:
    others, places = [], []
    for copy, parts in zip(copies, packs, strict=True):
        own = copy.strides if parts is None else parts.strides
        others += [copy.ordered(own), copy.ordered(contiguous_strides(copy.sizes(shape)))]
        places.append((len(others) - 1, len(others)))
    view = view_of(shape, strides, copies, others)
    finding = [n for n, copy in enumerate(copies) if copy.row.finds_scales]
    tile = tile_of(
        view,
        finding,
        device,
        carrier.dtype.itemsize,
        len({(copy.row, copy.numbers, copy.permutation) for copy in copies}),
    )
    found: list[int | None] = []
    buffers: list[int] = []
    for n, copy in enumerate(copies):
        key = _buffer(view, tile.holds(view, n), n, copy)
        if key is not None and key not in buffers:
            buffers.append(key)
        found.append(None if key is None else buffers.index(key))
    text = CastText(view, tile, is_wide(view), dtype, copies, packs, tuple(places), tuple(found), tuple(buffers))
    check_pairs(text)
    return text


def _buffer(view: CastView, held: bool, n: int, copy: Copy) -> int | None:
    """Whose largest magnitudes a copy needs from the first kernel: its own, -1 those of the tensor, None none."""
    if copy.row.scale.two_level and copy.row.finds_scales:
        return -1
    if held or not copy.row.finds_scales:
        return None
    dims = (*view.outer, view.rows, view.columns)
    if any(dim.extents[n] not in (EACH, WHOLE) for dim in dims):
        raise BackendError(
            f"triton: no tile of a cast holds blocks of {copy.row.scale.rows} x {copy.row.scale.columns}"
        )
    return -1 if all(not dim.extents[n] or dim.size == 1 for dim in dims) else n


def check_pairs(text: CastText) -> None:
    """Raise BackendError where codes of 4 bits cannot be put together two by two."""
    for parts, (place, _) in zip(text.packs, text.places, strict=True):
        if parts is None or parts.storage != 4 or not parts.codes:
            continue
        sides = ((text.view.rows, text.tile.rows), (text.view.columns, text.tile.columns))
        fast = [own for dim, own in sides if dim.strides[place] == 1 and dim.size > 1]
        if not fast or (fast[0].unit % 2 and fast[0].unit > 1):
            raise BackendError("triton: two codes of 4 bits a byte need a tile with even blocks where they are stored")


def is_wide(view: CastView) -> bool:
    """Whether an address does not fit 32 bits, with a tile to spare."""
    dims = (*view.outer, view.rows, view.columns)
    reach = [sum((dim.size - 1) * dim.strides[n] for dim in dims) for n in range(len(view.rows.strides))]
    return max(reach) >= 2**31 - 2**22 or math.prod(dim.size for dim in dims) >= 2**31 - 2**22


def _counts(text: CastText) -> tuple[int, ...]:
    dims = (*text.view.outer, text.view.rows, text.view.columns)
    counts = []
    for copy in text.buffers:
        own = [dim.size for dim in dims if copy >= 0 and dim.extents[copy]]
        counts.append(math.prod(own))
    return tuple(counts)


def _source(text: CastText, lines: Lines, name: str, size: int) -> KernelSource:
    about = [f"copies of a value of {str(text.dtype).removeprefix('torch.')}"]
    return KernelSource(
        name=name,
        template="cast",
        text=lines.text(name, about),
        arguments=tuple(lines.arguments),
        tile=text.tile.sizes,
        num_warps=text.tile.num_warps,
        bytes=size,
    )
