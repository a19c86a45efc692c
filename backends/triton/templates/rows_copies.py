"""Which roundings of a value a kernel of rows does where the value is computed, and the tile for them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from precc.backends.triton.alike_rows import alike
from precc.backends.triton.device import Device
from precc.backends.triton.powers import power_from
from precc.backends.triton.program import Rows
from precc.backends.triton.templates.addresses import tensors_are_beyond
from precc.backends.triton.templates.cast_chain import CastNode, viewed
from precc.backends.triton.templates.cast_copies import Copy, strides_of
from precc.backends.triton.templates.cast_kernels import check_pairs, is_wide
from precc.backends.triton.templates.cast_text import CastText
from precc.backends.triton.templates.cast_tiles import CastTile, Extent
from precc.backends.triton.templates.cast_view import EACH, WHOLE, CastView, dim_of
from precc.backends.triton.templates.rows_group import RowsGroup
from precc.errors import BackendError
from precc.formats import Granularity
from precc.rounding.scales import block_shape
from precc.rounding.tensor_ops import Carrier, carrier_of_dtype
from precc.stored_nodes import op_name

__all__ = ["InlineCopies", "inline_copies", "rows_text_of"]

#: Elements that a program has in its registers at once, and the longest row that still fits, of a layer norm half.
_ENOUGH, _LONGEST = 1 << 12, 1 << 13
_ENOUGH_INTERPRETED = 1 << 18
#: Rows that share a scale, for which a kernel goes over its tile twice.
_TALLEST = 128


@dataclass(frozen=True, slots=True)
class InlineCopies:
    """Roundings that the kernel does, and those that kernels behind it do."""

    inline: tuple[tuple[CastNode, Copy], ...]
    behind: tuple[CastNode, ...]


def inline_copies(group: RowsGroup, rows: Rows) -> InlineCopies:
    """Tell them apart: scales of rows and of blocks in a tile are found at once; of the tensor or a channel, later."""
    inline: list[tuple[CastNode, Copy]] = []
    behind: list[CastNode] = []
    carriers: set[Carrier] = set()
    heights: set[int] = set()
    for own in group.roundings:
        copy = _copy(group, own, rows)
        fits = copy is not None and _fits(group, copy, heights, carriers)
        if copy is not None and fits:
            inline.append((own, copy))
        else:
            behind.append(own)
    return InlineCopies(tuple(inline), tuple(behind))


def _copy(group: RowsGroup, own: CastNode, rows: Rows) -> Copy | None:
    """A rounding as one of a matrix of the group's rows; None if it is none."""
    row, records = rows[own.row].row, rows[own.row].records
    if row is None or row.transform is not None:
        raise BackendError(f"triton: {own.node.name} transforms its value, or has the row of an accumulator")
    base, operand = group.values[group.base], _operand(group, own)
    numbers = own.row if row.is_stochastic or not row.finds_scales else 0
    same = alike(row, base.dtype)
    dims, matrix = operand.dim(), group.shape
    if not base.is_contiguous() or min(matrix) < 2:
        return None
    if dims == 2 and tuple(operand.shape) == matrix and operand.is_contiguous():
        return Copy(same, (0, 1), own.packed, own.transposed, (matrix[1], 1), numbers, records)
    if dims == 2 and tuple(operand.shape) == matrix[::-1] and operand.t().is_contiguous():
        return Copy(same, (1, 0), own.packed, own.transposed, operand.stride(), numbers, records)
    if operand.shape[-1:] != (matrix[1],) or not operand.is_contiguous() or own.transposed:
        return None
    if row.finds_scales:
        if row.granularity not in (Granularity.ROW, Granularity.BLOCK) or row.scale.axis % dims != dims - 1:
            return None
        same = replace(same, scale=replace(same.scale, axis=-1))
    return Copy(same, (0, 1), own.packed, False, (matrix[1], 1), numbers, records)


def _operand(group: RowsGroup, own: CastNode) -> Tensor:
    value = group.values[group.base]
    return viewed(own.chain, {**group.values, group.base: value}) if own.chain else value


def _fits(group: RowsGroup, copy: Copy, heights: set[int], carriers: set[Carrier]) -> bool:
    shape, dtype = group.shape, group.values[group.base].dtype
    carrier = carrier_of_dtype(dtype, copy.row)
    if carriers and carrier not in carriers:
        return False
    if copy.row.finds_scales:
        if copy.row.scale.two_level:
            return False
        extent = block_shape(copy.sizes(shape), copy.row)
        tall, wide = (min(extent[copy.permutation.index(n)], shape[n]) for n in (0, 1))
        if tall > _TALLEST or (tall > 1 and tall & (tall - 1)):
            return False
        if (wide < shape[1] and wide & (wide - 1)) or (tall > 1 and heights and tall not in heights):
            return False
        if tall > 1:
            heights.add(tall)
    carriers.add(carrier)
    return True


def rows_text_of(group: RowsGroup, copies: Sequence[Copy], device: Device, blocks: int) -> CastText:
    """What is to be known to write the kernel.

    Args:
        group: likewise.
        copies: that it makes.
        device: that it runs on.
        blocks: how many blocks of a tile's size are read and written.
    """
    shape, dtype = group.shape, group.values[group.base].dtype
    packs = tuple(own.layout(shape, dtype) for own in copies)
    strides = [(shape[1], 1), *strides_of(copies, packs, shape)]
    dims = [dim_of(shape, n, strides, copies) for n in (0, 1)]
    view = CastView((), dims[0], dims[1])
    tile = _tile(group, view, device, blocks, any(own is not None and own.storage == 4 for own in packs))
    none = (None,) * len(copies)
    wide = is_wide(view) or tensors_are_beyond(_tensors(group))
    text = CastText(view, tile, wide, dtype, tuple(copies), packs, none, ())
    check_pairs(text)
    return text


def _tensors(group: RowsGroup) -> list[Any]:
    """What the kernel may read and write, with whatever else there is in the group."""
    return _pytree.tree_leaves([group.values[node] for node in (*group.placeholders, *group.computed)])


def _tile(group: RowsGroup, view: CastView, device: Device, blocks: int, pairs: bool) -> CastTile:
    """Whole rows where something is found along them; else as many columns as one warp reads together."""
    rows, length = group.shape
    whole = group.is_reduced or WHOLE in view.columns.extents
    longest = _LONGEST // 2 if any("layer_norm" in op_name(node) for node in group.computed) else _LONGEST
    longest = longest // 2 if pairs and rows > 1 else longest  # two rows at once, whose codes share bytes
    if whole and length > longest and not device.interpreted:
        raise BackendError(f"triton: rows of {length} values do not stay in the registers: at most {longest}")
    most = power_from(length)
    swapped = any(stride == 1 for stride in view.rows.strides) and rows > 1
    columns = most if whole else min(most, max(*view.columns.parts, 128 if swapped else 1024, 1))
    columns = max(columns, 2 if length > 1 else 1)
    unit = max((part for part in view.rows.extents if part not in (EACH, WHOLE)), default=1)
    unit = max([unit, *([power_from(rows)] if _is_whole(view) else [])])
    width = 8 if group.values[group.base].dtype is torch.float64 else 4
    enough = _ENOUGH_INTERPRETED if device.interpreted else _ENOUGH * 4 // width // (2 if blocks > 6 else 1)
    height = max(unit, 2 if rows > 1 else 1)
    while height * columns < enough and height < rows:
        height *= 2
    step = height
    while not device.interpreted and step * columns > enough and step > (2 if pairs and rows > 1 else 1):
        step //= 2
    if step < height and unit < height:
        height = max(unit, step)
    warps = max(1, min(16, step * columns * width // 2048))
    return CastTile(Extent(height), Extent(columns), min(step, height), warps)


def _is_whole(view: CastView) -> bool:
    """Whether blocks have all rows, of which there are few."""
    return any(rows == WHOLE for rows in view.rows.extents)
