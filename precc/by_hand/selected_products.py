"""Matrix products of which only some components are asked for."""

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator
from precc.backends.cpp.accumulate import has_fast_path
from precc.backends.cpp.kernels import why_no_kernels
from precc.backends.cpp.memory import is_plain
from precc.by_hand.numerics import accumulated

__all__ = ["selected_product"]

_LANES = 16  # columns that a kernel computes at a time, for one row
_SPARSE = 1 / 4  # up to this share of the outputs it pays to gather columns, where sums are slow
_MOST_GATHERED = 2**20  # elements at a time


def selected_product(
    a: Tensor, b: Tensor, select: Tensor, accumulator: Accumulator, key: int = 0, *, slot: int = 0, first: int = 0
) -> Tensor:
    """The components of `a` times `b` that are selected, with the bits of the whole product; the others are anything.

    Args:
        a: [A, M, K]; matrix i of `b` meets ``a[i % A]``.
        b: [B, K, N].
        select: bool, [B, M, N].
        accumulator: how sums are rounded. Stochastic ones, whose numbers go by output, are all computed.
        key: as in `precc.accumulation.tensor_ops.accumulate_tensor_ops`.
        slot: likewise.
        first: likewise.
    """
    counts = select.sum(-1).flatten()
    if not bool(counts.any()):
        return b.new_zeros(select.shape)
    tiles = (counts + _LANES - 1) // _LANES
    few = int(tiles.sum()) * _LANES <= _SPARSE * select.numel()
    if not few or accumulator.is_stochastic or _is_fast(a, b, accumulator):
        return accumulated(a, b, accumulator, key, slot=slot, first=first)
    return _gathered(a, b, select, accumulator, counts, tiles)


def _is_fast(a: Tensor, b: Tensor, accumulator: Accumulator) -> bool:
    """Whether the whole product takes less time than gathering columns."""
    return is_plain(a) and is_plain(b) and why_no_kernels() is None and has_fast_path(a, b, accumulator)


def _gathered(a: Tensor, b: Tensor, select: Tensor, accumulator: Accumulator, counts: Tensor, tiles: Tensor) -> Tensor:
    """Each row's selected columns in tiles of `_LANES`; lanes that are left over repeat column 0."""
    item, row, column = select.nonzero(as_tuple=True)
    lines = item * select.shape[1] + row
    place = torch.arange(len(lines), device=select.device) - (counts.cumsum(0) - counts)[lines]
    tile, lane = (tiles.cumsum(0) - tiles)[lines] + place // _LANES, place % _LANES
    line_of = torch.repeat_interleave(torch.arange(len(tiles), device=select.device), tiles)
    columns = torch.zeros(len(line_of), _LANES, dtype=torch.int64, device=select.device)
    columns[tile, lane] = column
    sums = _tile_sums(a, b.transpose(1, 2).contiguous(), line_of, columns, accumulator)
    result = a.new_zeros(select.shape)
    result[select] = sums[tile, lane]
    return result


def _tile_sums(a: Tensor, columns_of: Tensor, line_of: Tensor, columns: Tensor, accumulator: Accumulator) -> Tensor:
    rows, depth = a.shape[1:]
    step = max(1, _MOST_GATHERED // max(1, _LANES * depth))
    parts = []
    for lines, chosen in zip(line_of.split(step), columns.split(step), strict=True):
        item, row = lines // rows, lines % rows
        right = columns_of[item[:, None], chosen].transpose(1, 2)
        parts.append(accumulated(a[item % a.shape[0], row][:, None], right, accumulator)[:, 0])
    return torch.cat(parts) if parts else a.new_zeros(0, _LANES)
