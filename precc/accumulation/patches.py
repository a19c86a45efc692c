"""What the filters of a convolution meet, as matrices that are not laid out."""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

__all__ = ["Extents", "Patches"]

#: Sizes and strides of some dimensions of a tensor.
Extents = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Patches:
    """Matrices [B, K, N] whose element (i, k, j) lies in a flat tensor, at a sum of three offsets.

    Each offset runs over some dimensions of a view: (size, stride) pairs, the last one fastest.

    >>> Patches(torch.arange(4.0), (), ((2, 1),), ((3, 1),)).matrices().tolist()
    [[[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]]
    """

    base: Tensor
    batch: Extents
    depth: Extents
    width: Extents

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, K and N."""
        batch, depth, width = (prod(size for size, _ in dims) for dims in (self.batch, self.depth, self.width))
        return batch, depth, width

    def matrices(self) -> Tensor:
        """The matrices, laid out."""
        dims = (*self.batch, *self.depth, *self.width)
        view = self.base.as_strided([size for size, _ in dims], [stride for _, stride in dims])
        return view.reshape(self.shape)

    def to(self, dtype: torch.dtype) -> "Patches":
        """The same of other numbers."""
        return replace(self, base=self.base.to(dtype))

    @property
    def offsets(self) -> tuple[Tensor, Tensor, Tensor]:
        """The offsets along the batch, the depth and the width: int64."""
        return _offsets(self.batch), _offsets(self.depth), _offsets(self.width)


@lru_cache(maxsize=64)
def _offsets(dims: Extents) -> Tensor:
    total = torch.zeros((), dtype=torch.int64)
    for size, stride in dims:
        total = total[..., None] + torch.arange(size) * stride
    return total.reshape(-1).contiguous()
