"""The scales of a tensor by standard ONNX ops: the twin of `precc.rounding.scales`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from precc.backends.onnx.node_writer import NodeWriter
from precc.backends.onnx.quant_functions import BITCAST_OPSET, LARGEST, largest_power
from precc.formats import ScaleRule
from precc.rounding import Row
from precc.rounding.row import ScaleRow
from precc.rounding.scales import block_shape

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Groups", "group_scales", "grouped", "is_nearest_power"]

_MAGNITUDE = 0x7FFFFFFF
_LEAST_POWER, _LARGEST_POWER = 2.0**-127, 2.0**127

#: Rounds scales to their format, to nearest even; what exceeds it saturates.
RoundScales = Callable[[NodeWriter, "ir.Value"], "ir.Value"]


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

    def restored(self, n: NodeWriter, values: "ir.Value") -> "ir.Value":
        """Values in groups, as a tensor of the first shape."""
        if not self.cuts:
            return values
        ragged = {dim: cut for dim, cut in self.cuts.items() if cut.is_ragged}
        pieces: list[Any] = [None if not isinstance(dim, int) else dim for dim in _dims(self.source)]
        for dim, cut in ragged.items():
            known = isinstance(cut.blocks, int)
            pieces[dim] = cut.size * cut.blocks if known else n.op("Mul", cut.blocks, n.integers(cut.size))
        shape = _shape(n, self.source, pieces, range(len(pieces)))
        if not ragged:
            return _reshaped(n, values, shape, _dims(self.source))
        whole = _reshaped(n, values, shape, _known(pieces))
        ends = _vector(n, [cut.length for cut in ragged.values()])
        starts, axes = n.integers(*[0] * len(ragged)), n.integers(*ragged)
        return n.op("Slice", whole, starts, ends, axes, shape=_dims(self.source))


def grouped(n: NodeWriter, x: "ir.Value", row: Row) -> Groups:
    """The groups of values of a row's scaling.

    Raises:
        FormatError: the tensor has not the dimensions.
    """
    dims = _dims(x)
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
    length = _dims(x)[dim]
    if isinstance(length, int):
        return _Cut(size, length, -length % size, -(-length // size))
    length, number = _length(n, x, dim), n.integers(size)
    missing = n.op("Mod", n.op("Neg", length), number)
    return _Cut(size, length, missing, n.op("Div", n.op("Add", length, missing), number))


def _dims(x: "ir.Value") -> list[Any]:
    assert x.shape is not None
    return list(x.shape)


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
    dims = _dims(x)
    missing = [cuts[dim].missing if dim in cuts else 0 for dim in range(len(dims))]
    full = [
        (length + more if isinstance(more, int) else None) if dim in cuts else length
        for dim, (length, more) in enumerate(zip(dims, missing, strict=True))
    ]
    return n.op("Pad", x, _vector(n, [0] * len(dims) + missing), n.number(0.0), shape=full)


def is_nearest_power(scale: ScaleRow) -> bool:
    """Whether the scale is the power of two nearest to a quotient, of a format with powers of two alone, as e8m0.

    precc finds it in float64; here it follows from exact comparisons, for elements of at most 20 bits.
    """
    powers = scale.mantissa_bits == 0 and not scale.zero and scale.emin == -127
    return powers and scale.chosen_rule is ScaleRule.NEAREST


def group_scales(n: NodeWriter, groups: Groups, scale: ScaleRow, rounded: RoundScales) -> "ir.Value":
    """The scale of each group, of a shape that broadcasts to the values; NaN where one is NaN or infinite."""
    largest = _amax(n, groups.values, groups.axes)
    rule = scale.chosen_rule
    if rule is not ScaleRule.NEAREST or is_nearest_power(scale):
        found = _power_of_two(n, largest, scale)
    else:
        found = n.op("Div", largest, n.number(scale.element_high))
        found = _two_level(n, largest, found, scale, rounded) if scale.two_level else rounded(n, found)
    finite = n.op("Less", largest, n.number(math.inf), dtype="BOOL")
    return n.op("Where", finite, found, n.number(math.nan), dtype="FLOAT")


def _amax(n: NodeWriter, x: "ir.Value", axes: Sequence[int]) -> "ir.Value":
    """The largest magnitude along dimensions, which become 1; above every number where one is NaN or infinite."""
    if not axes:
        return n.op("Abs", x)
    dims = [1 if dim in axes else length for dim, length in enumerate(_dims(x))]
    along = n.integers(*axes)
    if n.opset >= BITCAST_OPSET:  # integers that are ordered as magnitudes are, NaN above infinity
        bits = n.op("BitCast", x, dtype="INT32", to=6)
        magnitude = n.op("BitwiseAnd", bits, n.constant(np.array(_MAGNITUDE, dtype=np.int32)))
        largest = n.op("ReduceMax", magnitude, along, shape=dims, keepdims=1)
        return n.op("BitCast", largest, dtype="FLOAT", to=1)
    largest = n.op("ReduceMax", n.op("Abs", x), along, shape=dims, keepdims=1)
    # a maximum may lose NaN, a sum does not: it is 0 of finite values
    nothing = n.op("ReduceSum", n.op("Mul", x, n.number(0.0)), along, shape=dims, keepdims=1)
    return n.op("Add", largest, nothing)


def _power_of_two(n: NodeWriter, largest: "ir.Value", scale: ScaleRow) -> "ir.Value":
    """A subnormal magnitude matters only from ``2**-127``, the least scale, on."""
    fraction, exponent = math.frexp(scale.element_high)
    if exponent < 1:  # then it is exact to enlarge the magnitudes; one that becomes infinite has the largest scale
        largest = n.op("Mul", largest, n.number(2.0 ** (1 - exponent)))
        exponent = 1
    power = n.op("Max", largest_power(n, largest), n.number(_LEAST_POWER))
    found = power if exponent == 1 else n.op("Mul", power, n.number(2.0 ** (1 - exponent)))
    if scale.chosen_rule is not ScaleRule.FLOOR:
        found = _other_power(n, found, largest, power, 2 * fraction, scale.chosen_rule)
    low, high = (2.0 ** (math.frexp(end)[1] - 1) for end in (scale.low, scale.high))
    return n.op("Clip", found, n.number(max(low, _LEAST_POWER)), n.number(min(high, _LARGEST_POWER)))


def _other_power(
    n: NodeWriter, found: "ir.Value", largest: "ir.Value", power: "ir.Value", high: float, rule: ScaleRule
) -> "ir.Value":
    """The power above `found`, or below: by ``largest / power`` and `high`, both from 1 to 2."""

    def at(factor: float) -> "ir.Value":
        return n.op("Mul", power, n.number(factor * high))

    def times(factor: float) -> "ir.Value":
        return n.op("Mul", found, n.number(factor))

    if rule is ScaleRule.CEIL:
        return n.op("Where", n.op("Greater", largest, at(1), dtype="BOOL"), times(2), found, dtype="FLOAT")
    lower = n.op("Where", n.op("Less", largest, at(0.75), dtype="BOOL"), times(0.5), found, dtype="FLOAT")
    return n.op("Where", n.op("GreaterOrEqual", largest, at(1.5), dtype="BOOL"), times(2), lower, dtype="FLOAT")


def _two_level(
    n: NodeWriter, largest: "ir.Value", found: "ir.Value", scale: ScaleRow, rounded: RoundScales
) -> "ir.Value":
    everything = tuple(dim for dim, length in enumerate(_dims(largest)) if length != 1)
    high = scale.element_high * scale.high
    high = high if high <= LARGEST else math.inf  # as in float32, of elements with the exponents of float32
    tensor = n.op("Div", _amax(n, largest, everything), n.number(high))
    zero = n.op("Equal", tensor, n.number(0.0), dtype="BOOL")
    quotient = n.op("Where", zero, n.number(0.0), n.op("Div", found, tensor), dtype="FLOAT")
    return n.op("Mul", rounded(n, quotient), tensor)
