"""What a cast makes of one value: rounded copies, as values or packed, in row-major order or transposed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from precc.backends.triton.emit.codes import code_text
from precc.errors import BackendError
from precc.rounding import Row, parse_row
from precc.rounding.scales import block_shape
from precc.rounding.tensor_ops import carrier_of

__all__ = [
    "Copy",
    "PackedParts",
    "alike",
    "contiguous_strides",
    "packed_bytes",
    "packed_parts",
    "scale_counts",
]


@dataclass(frozen=True, slots=True)
class Copy:
    """One rounded copy of a value.

    Args:
        row: the precision; its dimensions are those of the permuted value.
        permutation: dimension ``n`` of the copy is dimension ``permutation[n]`` of the value.
        packed: whether codes and scales are wanted, in one tensor of bytes, instead of values.
        transposed: whether the codes have their last two dimensions swapped.
        strides: of the copy, where it is of values.
        numbers: copies of rows that are alike but have unequal ones here differ in what is given at run time.
    """

    row: Row
    permutation: tuple[int, ...]
    packed: bool = False
    transposed: bool = False
    strides: tuple[int, ...] = ()
    numbers: int = 0

    def sizes(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of the copy of a value of this shape."""
        return tuple(shape[dim] for dim in self.permutation)

    def ordered(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Numbers by dimension of the copy, by dimension of the value."""
        found = dict(zip(self.permutation, numbers, strict=True))
        return tuple(found[dim] for dim in range(len(numbers)))


@dataclass(frozen=True, slots=True)
class PackedParts:
    """Where codes and scales lie in a packed tensor.

    Args:
        storage: bits of a code.
        strides: of the codes, in codes, by dimension of what is packed; even but the last stored one's for 4 bits.
        codes: bytes of codes.
        offset: of the scales, in bytes.
        scales: how many.
        flag: whether the one scale says that there is a NaN, for which there is no code.
    """

    storage: int
    strides: tuple[int, ...]
    codes: int
    offset: int
    scales: int
    flag: bool


@lru_cache(maxsize=8192)
def alike(row: Row, dtype: torch.dtype) -> Row:
    """One row for all that are rounded alike but for numbers that are given at run time: slots and static scales."""
    signs = row.signs if row.transform is not None else 0  # each slot has its own, also without a transform
    same = replace(row, slot=0, signs=signs, scale=replace(row.scale, value=2.0 if row.scale.value != 1.0 else 1.0))
    empty = torch.empty(0, dtype=dtype)
    if carrier_of(empty, same) is not carrier_of(empty, row):
        same = replace(row, slot=0, signs=signs)
    return parse_row(list(same.values))[0]


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of a tensor in row-major order."""
    strides: list[int] = []
    size = 1
    for length in reversed(shape):
        strides.append(size)
        size *= length
    return tuple(reversed(strides))


def scale_counts(shape: Sequence[int], row: Row) -> tuple[int, ...]:
    """How many blocks of one scale there are along each dimension."""
    extent = block_shape(shape, row)
    return tuple(-(-length // min(size, length)) if length else 0 for size, length in zip(extent, shape, strict=True))


def packed_parts(shape: Sequence[int], dtype: torch.dtype, row: Row, transposed: bool) -> PackedParts:
    """The layout of a packed tensor.

    Raises:
        BackendError: there are no two dimensions to swap.
    """
    if transposed and len(shape) < 2:
        raise BackendError(f"triton: a packed copy of shape {list(shape)} has no two dimensions to transpose")
    stored = (*shape[:-2], shape[-1], shape[-2]) if transposed else tuple(shape)
    strides = contiguous_strides(stored)
    if transposed:
        strides = (*strides[:-2], strides[-1], strides[-2])
    size = 1
    for length in shape:
        size *= length
    codes = None if row.is_identity(dtype) else code_text(row, dtype)
    storage = codes.storage if codes is not None else dtype.itemsize * 8
    if storage == 4 and (not stored or stored[-1] % 2):
        storage = 8
    filled = codes is not None and not codes.holds_nan and not row.finds_scales
    scales = int(filled)
    if row.finds_scales:
        scales = 1
        for count in scale_counts(shape, row):
            scales *= count
    code_bytes = size * storage // 8
    return PackedParts(storage, strides, code_bytes, -(-code_bytes // 16) * 16, scales, filled)


def packed_bytes(parts: PackedParts, row: Row, dtype: torch.dtype) -> int:
    """Of a packed tensor as a whole."""
    carrier = carrier_of(torch.empty(0, dtype=dtype), row)
    return parts.offset + parts.scales * carrier.dtype.itemsize
