"""A tensor whose values that share a scale lie along dimensions of their own, by standard ops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from precc.backends.onnx.roundings.node_writer import NodeWriter, dims_of
from precc.rounding import Row
from precc.rounding.scales import block_shape

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Groups", "grouped"]


@dataclass(frozen=True, slots=True)
class _Cut:
    """A dimension that is cut into blocks: numbers, or vectors of one number where the length is symbolic."""

    size: int
    length: Any
    missing: Any
    blocks: Any

    @property
    def is_ragged(self) -> bool:
        """Whether the last block is shorter, or may be."""
        return not isinstance(self.missing, int) or self.missing > 0


@dataclass(frozen=True, slots=True)
class Groups:
    """A tensor whose values that share a scale lie along dimensions of their own.

    Args:
        values: the tensor, each dimension that is cut into blocks as two: the blocks, and the values of one. A
            last block that was shorter ends with zeros.
        axes: the dimensions along which values share a scale.
        source: the tensor as it was.
        cuts: by dimension of the source.
    """

    values: "ir.Value"
    axes: tuple[int, ...]
    source: "ir.Value"
    cuts: Mapping[int, _Cut]

    def spread(self, n: NodeWriter, scales: "ir.Value") -> "ir.Value":
        """The scales of the groups, as they broadcast to the values."""
        if not self.axes:
            return scales
        dims = [1 if dim in self.axes else length for dim, length in enumerate(dims_of(self.values))]
        return n.op("Unsqueeze", scales, n.integers(*self.axes), shape=dims)

    def restored(self, n: NodeWriter, values: "ir.Value") -> "ir.Value":
        """Values in groups, as a tensor of the first shape."""
        if not self.cuts:
            return values
        ragged = {dim: cut for dim, cut in self.cuts.items() if cut.is_ragged}
        pieces: list[Any] = [None if not isinstance(dim, int) else dim for dim in dims_of(self.source)]
        for dim, cut in ragged.items():
            known = isinstance(cut.blocks, int)
            pieces[dim] = cut.size * cut.blocks if known else n.op("Mul", cut.blocks, n.integers(cut.size))
        shape = _shape(n, self.source, pieces, range(len(pieces)))
        if not ragged:
            return _reshaped(n, values, shape, dims_of(self.source))
        whole = _reshaped(n, values, shape, _known(pieces))
        ends = _vector(n, [cut.length for cut in ragged.values()])
        starts, axes = n.integers(*[0] * len(ragged)), n.integers(*ragged)
        return n.op("Slice", whole, starts, ends, axes, shape=dims_of(self.source))


def grouped(n: NodeWriter, x: "ir.Value", row: Row) -> Groups:
    """The groups of values of a row's scaling.

    Raises:
        FormatError: the tensor has not the dimensions.
    """
    dims = dims_of(x)
    cuts: dict[int, _Cut] = {}
    axes: list[int] = []
    for dim, (length, extent) in enumerate(zip(dims, block_shape(dims, row), strict=True)):
        place = dim + len(cuts)
        if extent is length or (isinstance(length, int) and extent >= length):
            axes += [place] * (length != 1)
        elif extent > 1:
            cuts[dim] = _cut(n, x, dim, extent)
            axes.append(place + 1)
    if not cuts:
        return Groups(x, tuple(axes), x, {})
    pieces: list[Any] = []
    sources: list[int] = []
    for dim, length in enumerate(dims):
        cut = cuts.get(dim)
        pieces += [length if isinstance(length, int) else None] if cut is None else [cut.blocks, cut.size]
        sources += [dim] * (1 if cut is None else 2)
    shape = _shape(n, x, pieces, sources)
    values = _reshaped(n, _with_zeros(n, x, cuts), shape, _known(pieces))
    return Groups(values, tuple(axes), x, cuts)


def _cut(n: NodeWriter, x: "ir.Value", dim: int, size: int) -> _Cut:
    length = dims_of(x)[dim]
    if isinstance(length, int):
        return _Cut(size, length, -length % size, -(-length // size))
    length, number = _length(n, x, dim), n.integers(size)
    missing = n.op("Mod", n.op("Neg", length), number)
    return _Cut(size, length, missing, n.op("Div", n.op("Add", length, missing), number))


def _length(n: NodeWriter, x: "ir.Value", dim: int) -> "ir.Value":
    return n.op("Shape", x, dtype="INT64", shape=(1,), start=dim, end=dim + 1)


def _known(pieces: Sequence[Any]) -> list[Any]:
    return [piece if isinstance(piece, int) else None for piece in pieces]


def _shape(n: NodeWriter, x: "ir.Value", pieces: Sequence[Any], sources: Sequence[int]) -> "ir.Value":
    """A shape for `Reshape`; None is the length of a dimension of `x`, and one unknown follows from the rest."""
    if sum(not isinstance(piece, int) for piece in pieces) == 1:
        return n.integers(*(piece if isinstance(piece, int) else -1 for piece in pieces))
    found = zip(pieces, sources, strict=True)
    return _vector(n, [_length(n, x, dim) if piece is None else piece for piece, dim in found])


def _reshaped(n: NodeWriter, x: "ir.Value", shape: "ir.Value", dims: Sequence[Any]) -> "ir.Value":
    # a length that is computed may be 0, which would mean that of the same dimension of `x`
    computed = shape.const_value is None
    return n.op("Reshape", x, shape, shape=dims, allowzero=int(computed))


def _vector(n: NodeWriter, pieces: Sequence[Any]) -> "ir.Value":
    if all(isinstance(piece, int) for piece in pieces):
        return n.integers(*pieces)
    vectors = [n.integers(piece) if isinstance(piece, int) else piece for piece in pieces]
    return n.op("Concat", *vectors, shape=(len(vectors),), axis=0)


def _with_zeros(n: NodeWriter, x: "ir.Value", cuts: Mapping[int, _Cut]) -> "ir.Value":
    """With zeros behind, up to whole blocks."""
    if not any(cut.is_ragged for cut in cuts.values()):
        return x
    dims = dims_of(x)
    missing = [cuts[dim].missing if dim in cuts else 0 for dim in range(len(dims))]
    full = [
        (length + more if isinstance(more, int) else None) if dim in cuts else length
        for dim, (length, more) in enumerate(zip(dims, missing, strict=True))
    ]
    return n.op("Pad", x, _vector(n, [0] * len(dims) + missing), n.number(0.0), shape=full)
