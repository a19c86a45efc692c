"""A strided value as a cast sees it: few dimensions, two of them covered by tiles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from precc.backends.triton.powers import power_from
from precc.backends.triton.templates.cast_copies import Copy
from precc.errors import BackendError
from precc.formats import Granularity
from precc.packing.layout import scale_counts
from precc.rounding.scales import block_shape

__all__ = ["EACH", "WHOLE", "CastView", "Dim", "dim_of", "view_of"]

#: Extents of a block: single elements, all of a dimension.
EACH, WHOLE = 1, 0


@dataclass(frozen=True, slots=True)
class Dim:
    """One dimension.

    Args:
        size: of it.
        strides: of the value, and of whatever else has an address for each element.
        extents: of each copy's blocks of one scale; `EACH`, `WHOLE` or in between.
        blocks: strides of each copy's scales, per block.
    """

    size: int
    strides: tuple[int, ...]
    extents: tuple[int, ...]
    blocks: tuple[int, ...]

    @property
    def parts(self) -> set[int]:
        """Extents that are neither one element nor all."""
        return set(self.extents) - {EACH, WHOLE}

    def merged(self, inner: "Dim") -> "Dim | None":
        """This dimension and the one inside it as one; None where their addresses or blocks forbid it."""
        same = all(stride == own * inner.size for stride, own in zip(self.strides, inner.strides, strict=True))
        alike = all(
            mine == own and mine in (EACH, WHOLE) for mine, own in zip(self.extents, inner.extents, strict=True)
        )
        scales = all(stride == own * inner.size for stride, own in zip(self.blocks, inner.blocks, strict=True))
        return replace(inner, size=self.size * inner.size) if same and alike and scales else None


@dataclass(frozen=True, slots=True)
class CastView:
    """The dimensions of a value: those that programs are told apart by, and the two of a tile."""

    outer: tuple[Dim, ...]
    rows: Dim
    columns: Dim


def view_of(
    shape: Sequence[int], strides: Sequence[int], copies: Sequence[Copy], others: Sequence[Sequence[int]]
) -> CastView:
    """The view of a value for these copies.

    Args:
        shape: of the value.
        strides: likewise.
        copies: of it.
        others: further strides, each by dimension of the value.

    Raises:
        BackendError: no tile of two dimensions holds the blocks.
    """
    dims = [dim_of(shape, n, (strides, *others), copies) for n in range(len(shape)) if shape[n] != 1]
    dims.sort(key=lambda dim: -dim.strides[0])
    merged: list[Dim] = []
    for dim in dims:
        joint = merged[-1].merged(dim) if merged else None
        merged[-1:] = [joint] if joint is not None else [*merged[-1:], dim]
    none = Dim(1, (0,) * (1 + len(others)), (EACH,) * len(copies), (0,) * len(copies))
    merged = [none] * (2 - len(merged)) + merged
    first, last = sorted(sorted(range(len(merged)), key=lambda n: _rank(merged, n))[:2])
    if any(dim.parts for n, dim in enumerate(merged) if n not in (first, last)):
        raise BackendError("triton: blocks along more than two dimensions are no tiles of a cast")
    outer = tuple(dim for n, dim in enumerate(merged) if n not in (first, last))
    return CastView(outer, merged[first], merged[last])


def dim_of(shape: Sequence[int], n: int, strides: Sequence[Sequence[int]], copies: Sequence[Copy]) -> Dim:
    """A dimension of a value, for these copies."""
    extents, blocks = [], []
    for copy in copies:
        sizes = copy.sizes(shape)
        counts = scale_counts(sizes, copy.row) if copy.row.finds_scales else (1,) * len(shape)
        extent = block_shape(sizes, copy.row) if copy.row.finds_scales else sizes
        place = copy.permutation.index(n)
        whole = extent[place] >= shape[n]
        if whole and copy.row.granularity is Granularity.TILE:  # the other dimension of the tile may have parts
            extents.append(power_from(shape[n]))
        else:
            extents.append(WHOLE if whole else extent[place])
        inner = 1
        for count in counts[place + 1 :]:
            inner *= count
        blocks.append(0 if whole else inner)
    return Dim(shape[n], tuple(own[n] for own in strides), tuple(extents), tuple(blocks))


def _rank(dims: Sequence[Dim], n: int) -> tuple[int, ...]:
    """Small for dimensions that a tile must or should cover: blocks, consecutive addresses, shared scales, size."""
    dim = dims[n]
    consecutive = n != len(dims) - 1 and 1 not in dim.strides
    return (int(not dim.parts), int(n != len(dims) - 1), int(consecutive), int(WHOLE not in dim.extents), -dim.size)
