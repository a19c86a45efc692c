"""The scales of a tensor by standard ONNX ops: the twin of `precc.rounding.scales`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from precc.backends.onnx.roundings.largest_power import BITCAST_OPSET, LARGEST, largest_power, power_in
from precc.backends.onnx.roundings.node_writer import NodeWriter, dims_of
from precc.backends.onnx.roundings.value_groups import Groups
from precc.formats import ScaleRule
from precc.rounding.row import ScaleRow

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["group_scales", "is_nearest_power"]

_LEAST_POWER, _LARGEST_POWER = 2.0**-127, 2.0**127

#: Rounds scales to their format, to nearest even; what exceeds it saturates.
RoundScales = Callable[[NodeWriter, "ir.Value"], "ir.Value"]


def is_nearest_power(scale: ScaleRow) -> bool:
    """Whether the scale is the power of two nearest to a quotient, of a format with powers of two alone, as e8m0.

    precc finds it in float64; here it follows from exact comparisons, for elements of at most 20 bits.
    """
    powers = scale.mantissa_bits == 0 and not scale.zero and scale.emin == -127
    return powers and scale.chosen_rule is ScaleRule.NEAREST


def group_scales(n: NodeWriter, groups: Groups, scale: ScaleRow, rounded: RoundScales) -> "ir.Value":
    """The scale of each group, without the dimensions along which it is shared; NaN where a value is NaN or infinite.

    onnxruntime is slow where the last dimension is 1: `Groups.spread` gives the dimensions back.
    """
    largest = _amax(n, groups.values, groups.axes)
    rule = scale.chosen_rule
    if rule is not ScaleRule.NEAREST or is_nearest_power(scale):
        found = _power_of_two(n, largest, scale)
    else:
        found = n.op("Div", largest.values, n.number(scale.element_high))
        found = _two_level(n, largest, found, scale, rounded) if scale.two_level else rounded(n, found)
    finite = n.op("Less", largest.values, n.number(math.inf), dtype="BOOL")
    return n.op("Where", finite, found, n.number(math.nan), dtype="FLOAT")


@dataclass(frozen=True, slots=True)
class _Largest:
    """The largest magnitudes, above every number where one is NaN or infinite; and their bits, if these are there."""

    values: "ir.Value"
    bits: "ir.Value | None" = None

    def power(self, n: NodeWriter) -> "ir.Value":
        """The largest power of two in each."""
        return largest_power(n, self.values) if self.bits is None else power_in(n, self.bits)

    def times(self, n: NodeWriter, factor: float) -> "_Largest":
        """Enlarged."""
        return self if factor == 1.0 else _Largest(n.op("Mul", self.values, n.number(factor)))


def _amax(n: NodeWriter, x: "ir.Value", axes: Sequence[int]) -> _Largest:
    """Along dimensions, which go."""
    if not axes:
        return _Largest(n.op("Abs", x))
    dims = [length for dim, length in enumerate(dims_of(x)) if dim not in axes]
    along = n.integers(*axes)
    if n.opset >= BITCAST_OPSET:  # integers that are ordered as magnitudes are, NaN, without its sign, above infinity
        bits = n.op("ReduceMax", n.bit_cast(n.op("Abs", x), "INT32"), along, shape=dims, keepdims=0)
        return _Largest(n.bit_cast(bits, "FLOAT"), bits)
    largest = n.op("ReduceMax", n.op("Abs", x), along, shape=dims, keepdims=0)
    # a maximum may lose NaN, a sum does not: it is 0 of finite values
    nothing = n.op("ReduceSum", n.op("Mul", x, n.number(0.0)), along, shape=dims, keepdims=0)
    return _Largest(n.op("Add", largest, nothing))


def _power_of_two(n: NodeWriter, largest: _Largest, scale: ScaleRow) -> "ir.Value":
    """A subnormal magnitude matters only from ``2**-127``, the least scale, on."""
    fraction, exponent = math.frexp(scale.element_high)
    # it is exact to enlarge the magnitudes; one that becomes infinite has the largest scale
    largest = largest.times(n, 2.0 ** max(1 - exponent, 0))
    exponent = max(exponent, 1)
    power = n.op("Max", largest.power(n), n.number(_LEAST_POWER))
    found = power if exponent == 1 else n.op("Mul", power, n.number(2.0 ** (1 - exponent)))
    if scale.chosen_rule is not ScaleRule.FLOOR:
        found = _other_power(n, found, largest.values, power, 2 * fraction, scale.chosen_rule)
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
    n: NodeWriter, largest: _Largest, found: "ir.Value", scale: ScaleRow, rounded: RoundScales
) -> "ir.Value":
    everything = tuple(dim for dim, length in enumerate(dims_of(largest.values)) if length != 1)
    high = scale.element_high * scale.high
    high = high if high <= LARGEST else math.inf  # as in float32, of elements with the exponents of float32
    tensor = n.op("Div", _amax(n, largest.values, everything).values, n.number(high))
    zero = n.op("Equal", tensor, n.number(0.0), dtype="BOOL")
    quotient = n.op("Where", zero, n.number(0.0), n.op("Div", found, tensor), dtype="FLOAT")
    return n.op("Mul", rounded(n, quotient), tensor)
