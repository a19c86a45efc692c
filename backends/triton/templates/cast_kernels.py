"""The kernels of a cast for values of one shape: built once, run on values and live rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from precc.backends.triton.device import Device
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.program import LiveRow
from precc.backends.triton.templates.addresses import are_beyond, reach
from precc.backends.triton.templates.bound_kernel import BoundKernel
from precc.backends.triton.templates.cast_copies import Copy, strides_of
from precc.backends.triton.templates.cast_lines import amax_lines, cast_lines
from precc.backends.triton.templates.cast_outputs import CastOutputs, sizes_of
from precc.backends.triton.templates.cast_text import CastText
from precc.backends.triton.templates.cast_tiles import tile_of
from precc.backends.triton.templates.cast_view import EACH, WHOLE, CastView, view_of
from precc.backends.triton.templates.lines import Lines
from precc.errors import BackendError
from precc.packing import PackedLayout
from precc.rounding.tensor_ops import Carrier, carrier_of_dtype

__all__ = ["CastKernels", "check_pairs", "is_wide", "kernels_of", "programs_of"]


@dataclass(frozen=True, slots=True, eq=False)
class CastKernels:
    """One kernel or two that read a value and write copies.

    A run reads the value once, twice where a scale belongs to more than a tile, and writes each copy once.

    Args:
        text: what they were written for.
        kernels: the last rounds and writes; one before finds the largest magnitudes that no tile holds, if there are.
        outputs: the copies.
        buffers: the arguments for largest magnitudes, and how many each has.
        integer: the dtype of these.
    """

    text: CastText
    kernels: tuple[BoundKernel, ...]
    outputs: CastOutputs
    buffers: tuple[tuple[str, int], ...]
    integer: torch.dtype

    @classmethod
    def of(
        cls, text: CastText, shape: tuple[int, ...], sources: Sequence[KernelSource], carrier: Carrier
    ) -> "CastKernels":
        """The kernels for a value of this shape."""
        kernels = tuple(BoundKernel.of(own, (programs_of(text),), sizes_of(text)) for own in sources)
        buffers = tuple((f"amax{number}_ptr", count) for number, count in enumerate(_counts(text)))
        return cls(text, kernels, CastOutputs.of(text, shape, sources), buffers, carrier.integer)

    @property
    def sources(self) -> tuple[KernelSource, ...]:
        """In the order in which they run."""
        return tuple(own.source for own in self.kernels)

    def __call__(self, x: Tensor, live: Sequence[LiveRow]) -> list[Tensor]:
        """The copies of a value, with the keys and scales of these rows."""
        results = self.outputs.empty(x.device)
        if x.numel():
            given = self.outputs.given(results, live)
            given["x_ptr"] = x
            for name, count in self.buffers:
                given[name] = torch.zeros(count, dtype=self.integer, device=x.device)
            for kernel in self.kernels:
                kernel(given)
        return results


def programs_of(text: CastText) -> int:
    """How many programs run: one a tile."""
    view, tile = text.view, text.tile
    tiles = -(-view.rows.size // tile.rows.covered) * -(-view.columns.size // tile.columns.covered)
    return tiles * math.prod(dim.size for dim in view.outer)


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
        FormatError: the dtype is none that is rounded, or a row's scaling has dimensions that the value has not.
    """
    carriers = {carrier_of_dtype(dtype, copy.row) for copy in copies}
    if len(carriers) > 1:
        raise BackendError("triton: copies that are rounded in different carriers share no kernel")
    (carrier,) = carriers
    packs = tuple(copy.layout(shape, dtype) for copy in copies)
    text = _text(shape, strides, dtype, copies, packs, device, carrier)
    size = math.prod(shape) * dtype.itemsize
    written = sum(size if layout is None else layout.bytes for layout in packs)
    name = name.removeprefix("cast_")
    first = [_source(text, amax_lines(text), f"amax_{name}", size)] if text.buffers else []
    cast = _source(text, cast_lines(text), f"cast_{name}", size + written)
    return CastKernels.of(text, shape, [*first, cast], carrier)


def _text(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: torch.dtype,
    copies: tuple[Copy, ...],
    packs: tuple[PackedLayout | None, ...],
    device: Device,
    carrier: Carrier,
) -> CastText:
    view = view_of(shape, strides, copies, strides_of(copies, packs, shape))
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
    text = CastText(view, tile, is_wide(view), dtype, copies, packs, tuple(found), tuple(buffers))
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
    for layout, (place, _) in zip(text.packs, text.places, strict=True):
        if layout is None or layout.storage != 4 or not layout.code_bytes:
            continue
        sides = ((text.view.rows, text.tile.rows), (text.view.columns, text.tile.columns))
        fast = [own for dim, own in sides if dim.strides[place] == 1 and dim.size > 1]
        if not fast or (fast[0].unit % 2 and fast[0].unit > 1):
            raise BackendError("triton: two codes of 4 bits a byte need a tile with even blocks where they are stored")


def is_wide(view: CastView) -> bool:
    """Whether an address or a number of an element does not fit 32 bits, with a tile to spare."""
    dims = (*view.outer, view.rows, view.columns)
    offsets = [reach((dim.size, dim.strides[n]) for dim in dims) for n in range(len(view.rows.strides))]
    return are_beyond([*offsets, math.prod(dim.size for dim in dims)])


def _counts(text: CastText) -> tuple[int, ...]:
    dims = (*text.view.outer, text.view.rows, text.view.columns)
    counts = []
    for copy in text.buffers:
        own = [dim.size for dim in dims if copy >= 0 and dim.extents[copy]]
        counts.append(math.prod(own))
    return tuple(counts)


def _source(text: CastText, lines: Lines, name: str, size: int) -> KernelSource:
    about = [f"copies of a value of {str(text.dtype).removeprefix('torch.')}"]
    return replace(lines.source(name, "cast", about), bytes=size)
