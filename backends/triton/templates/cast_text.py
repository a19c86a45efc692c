"""What is to be known of a cast to write its kernels."""

from dataclasses import dataclass

import torch

from precc.backends.triton.emit.device_functions import TYPES, Types
from precc.backends.triton.templates.cast_copies import Copy
from precc.backends.triton.templates.cast_tiles import CastTile
from precc.backends.triton.templates.cast_view import CastView
from precc.packing import PackedLayout
from precc.rounding.tensor_ops import carrier_of_dtype

__all__ = ["CastText"]


@dataclass(frozen=True, slots=True)
class CastText:
    """What is to be known of a cast to write it.

    Args:
        view, tile, wide: of the value; whether addresses need 64 bits.
        dtype: of the value.
        copies: of it.
        packs: the layout of each copy; None for values.
        found: for each copy that has its largest magnitudes from the first kernel, which of its buffers.
        buffers: extents and strides of blocks of these, as those of the copy or `WHOLE` for the tensor's.
    """

    view: CastView
    tile: CastTile
    wide: bool
    dtype: torch.dtype
    copies: tuple[Copy, ...]
    packs: tuple[PackedLayout | None, ...]
    found: tuple[int | None, ...]
    buffers: tuple[int, ...]

    @property
    def types(self) -> Types:
        """Of the carrier."""
        return TYPES[carrier_of_dtype(self.dtype, self.copies[0].row).dtype]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Of each copy, which strides of the view's dimensions are its own, and which those of the row-major index.

        The value's are the first; then they are in the order of `cast_copies.strides_of`.
        """
        return [(1 + 2 * n, 2 + 2 * n) for n in range(len(self.copies))]
