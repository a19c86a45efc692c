"""Where codes and scales lie in a packed tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from precc.errors import FormatError
from precc.packing.codes import Codes, codes_of
from precc.rounding import Row
from precc.rounding.scales import block_shape
from precc.rounding.tensor_ops import carrier_of_dtype

__all__ = ["PackedLayout", "contiguous_strides", "scale_counts"]

#: The scales begin at a multiple of this, in bytes: what vector loads of a GPU want.
_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """A packed tensor: codes in row-major order of the tensor, or with its last two dimensions swapped; then scales.

    Codes are those of values before the multiplication by their scale. Two codes of 4 bits share a byte, the lower
    half first. The scales, in the carrier's dtype, are in row-major order of the blocks of the tensor as it is. A
    format without scales of its own and without a code for NaN has one scale that is NaN if any value is, else 1.

    Args:
        shape: of the tensor.
        transposed: whether the last two dimensions of the codes are swapped.
        codes: what they mean.
        stored: the dtype of values that are stored as they are; None for codes.
        storage: bits of a code.
        blocks: how many scales there are along each dimension, or that there is one, of a tensor without dimensions;
            empty: there are none, or one for NaN.
        scale_dtype: of the scales.
        marks_nan: whether the one scale is there for NaN alone.
    """

    shape: tuple[int, ...]
    transposed: bool
    codes: Codes
    stored: torch.dtype | None
    storage: int
    blocks: tuple[int, ...]
    scale_dtype: torch.dtype
    marks_nan: bool

    @classmethod
    def of(cls, row: Row, shape: Sequence[int], dtype: torch.dtype, transposed: bool) -> "PackedLayout":
        """The layout for a tensor that a row rounds.

        Raises:
            FormatError: the scaling of the row has dimensions that the tensor has not, or there are none to swap.
        """
        sizes = tuple(int(size) for size in shape)
        if transposed and len(sizes) < 2:
            raise FormatError(f"a packed tensor of shape {list(sizes)} has no two dimensions to swap")
        carrier = carrier_of_dtype(dtype, row).dtype
        if row.is_identity(dtype) or row.transform is not None:
            whole = Codes(dtype.itemsize * 8)
            return cls(sizes, transposed, whole, dtype, whole.storage, (), carrier, False)
        codes = codes_of(row, dtype)
        last = sizes[-2 if transposed else -1] if sizes else 1
        storage = 8 if codes.storage == 4 and last % 2 else codes.storage
        blocks = (scale_counts(sizes, row) or (1,)) if row.finds_scales else ()
        marks = not codes.holds_nan and not row.finds_scales
        return cls(sizes, transposed, codes, carrier if codes.grid is None else None, storage, blocks, carrier, marks)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of the codes."""
        return (*self.shape[:-2], self.shape[-1], self.shape[-2]) if self.transposed else self.shape

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the codes, in codes, by dimension of the tensor."""
        strides = contiguous_strides(self.stored_shape)
        return (*strides[:-2], strides[-1], strides[-2]) if self.transposed else strides

    @property
    def code_bytes(self) -> int:
        """Of the codes."""
        return math.prod(self.shape) * self.storage // 8

    @property
    def scale_offset(self) -> int:
        """Where the scales begin, in bytes."""
        return -(-self.code_bytes // _ALIGNMENT) * _ALIGNMENT

    @property
    def scale_count(self) -> int:
        """How many scales there are."""
        return math.prod(self.blocks) if self.blocks else int(self.marks_nan)

    @property
    def bytes(self) -> int:
        """Of all of it."""
        return self.scale_offset + self.scale_count * self.scale_dtype.itemsize


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of a tensor in row-major order."""
    return tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))


def scale_counts(shape: Sequence[int], row: Row) -> tuple[int, ...]:
    """How many blocks of one scale there are along each dimension."""
    extent = block_shape(shape, row)
    return tuple(-(-length // min(size, length)) if length else 0 for size, length in zip(extent, shape, strict=True))
