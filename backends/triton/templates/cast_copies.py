"""What a cast makes of one value: rounded copies, as values or packed, in row-major order or transposed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from precc.packing import PackedLayout
from precc.packing.layout import contiguous_strides
from precc.rounding import Row

__all__ = ["Copy", "strides_of"]


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
        records: whether the largest magnitude of the value is recorded.
    """

    row: Row
    permutation: tuple[int, ...]
    packed: bool = False
    transposed: bool = False
    strides: tuple[int, ...] = ()
    numbers: int = 0
    records: bool = False

    def sizes(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of the copy of a value of this shape."""
        return tuple(shape[dim] for dim in self.permutation)

    def layout(self, shape: Sequence[int], dtype: torch.dtype) -> PackedLayout | None:
        """Of the copy of a value of this shape and dtype; None of values.

        Raises:
            FormatError: as `PackedLayout.of`.
        """
        return PackedLayout.of(self.row, self.sizes(shape), dtype, self.transposed) if self.packed else None

    def ordered(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Numbers by dimension of the copy, by dimension of the value."""
        found = dict(zip(self.permutation, numbers, strict=True))
        return tuple(found[dim] for dim in range(len(numbers)))


def strides_of(
    copies: Sequence[Copy], layouts: Sequence[PackedLayout | None], shape: Sequence[int]
) -> list[tuple[int, ...]]:
    """Two for each copy, by dimension of the value: where its elements or codes are, and the row-major index."""
    found: list[tuple[int, ...]] = []
    for copy, layout in zip(copies, layouts, strict=True):
        found.append(copy.ordered(copy.strides if layout is None else layout.strides))
        found.append(copy.ordered(contiguous_strides(copy.sizes(shape))))
    return found
