"""What `FloatQuant` and `IntQuant` of QONNX compute, as functions of standard ops that a model carries.

Inputs and attributes are those of QONNX 1.0. precc adds ``mode``, the number of the rounding mode in `MODES`, for
not every runtime compares strings; and to a float ``signed``, ``lowest``, the lowest finite value,
``negative_zero``, 0 where -0 becomes 0, ``wide``, 1 where values reach ``2**104``, and ``by_carrier``, 1 where what
overflows is what overflows float32 once values are divided by ``shrink``, a power of two, and ``fine``, 1 where the
smallest quantum is no normal number by then. All values are in float32.

A model that rounds in one mode only, or only saturates, has bodies without the other cases; elsewhere an `If` of a
constant condition chooses, which a runtime can resolve when it loads the model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from precc.backends.onnx.node_writer import QUANT_DOMAIN, NodeWriter
from precc.extras import imported
from precc.rounding import RoundingMode

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["BITCAST_OPSET", "LARGEST", "MODES", "largest_power", "portable_functions"]

#: The first opset in which the bits of a float can be read.
BITCAST_OPSET = 26

#: The largest number of float32.
LARGEST = float(np.finfo(np.float32).max)

#: The bits of its exponent, and its largest power of two.
_EXPONENT = 0x7F800000
_LARGEST_POWER = 2.0**127

#: What can be multiplied by ``2**23 + 1``, and what larger numbers are multiplied by before.
_LARGE, _SHRUNK = 2.0**104, 2.0**-30

_FLOAT_INPUTS = ("x", "scale", "exponent_bitwidth", "mantissa_bitwidth", "exponent_bias", "max_val")
_FLOAT_ATTRIBUTES = {
    "has_inf": "INT",
    "has_nan": "INT",
    "has_subnormal": "INT",
    "saturation": "INT",
    "rounding_mode": "STRING",
    "mode": "INT",
    "signed": "INT",
    "lowest": "FLOAT",
    "wide": "INT",
    "negative_zero": "INT",
    "by_carrier": "INT",
    "shrink": "FLOAT",
    "fine": "INT",
}
_INT_INPUTS = ("x", "scale", "zeropt", "bitwidth")
_INT_ATTRIBUTES = {"signed": "INT", "narrow": "INT", "rounding_mode": "STRING", "mode": "INT"}

#: The modes, by the number that the attribute ``mode`` has.
MODES = (RoundingMode.NEAREST_EVEN, RoundingMode.NEAREST_AWAY, RoundingMode.TOWARD_ZERO)
_EVEN, _AWAY, _TO_ZERO = range(len(MODES))

_Branch = Callable[[NodeWriter], "ir.Value"]


def portable_functions(nodes: "Iterable[ir.Node]", opset: int) -> "list[ir.Function]":
    """The bodies of the quantisers among these nodes: at most one for each op, right for all of them.

    Args:
        nodes: of a model; those of other domains do not count.
        opset: of the model's default domain, from 18.
    """
    found: dict[str, list[ir.Node]] = {}
    for node in nodes:
        if node.domain == QUANT_DOMAIN:
            found.setdefault(node.op_type, []).append(node)
    makers = {"FloatQuant": _float_quant, "IntQuant": _int_quant}
    return [makers[op_type](_Uses.of(found[op_type]), opset) for op_type in sorted(found)]


class _Uses(dict[str, set[Any]]):
    """The values that each attribute has in a model."""

    @classmethod
    def of(cls, nodes: "Sequence[ir.Node]") -> "_Uses":
        names = {name for node in nodes for name in node.attributes}
        return cls({name: {node.attributes[name].value for node in nodes} for name in names})

    def choose(self, n: NodeWriter, name: str, branches: Mapping[Any, _Branch]) -> "ir.Value":
        """By the value of an attribute, among those that it has somewhere."""
        return _chosen(n, name, {value: branches[value] for value in sorted(self[name])})


def _chosen(n: NodeWriter, name: str, branches: Mapping[Any, _Branch]) -> "ir.Value":
    (value, branch), *others = branches.items()
    if not others:
        return branch(n)
    wanted = n.op("Constant", dtype="INT64", shape=(), value_int=value)
    condition = n.op("Equal", _attribute(n, name, "int"), wanted, dtype="BOOL")
    rest = dict(others)
    then_branch, else_branch = _graph(n, branch), _graph(n, lambda inner: _chosen(inner, name, rest))
    chosen = n.op("If", condition, dtype="FLOAT", then_branch=then_branch, else_branch=else_branch)
    chosen.shape = None  # not that of the condition
    return chosen


def _graph(n: NodeWriter, branch: _Branch) -> "ir.Graph":
    ir = imported("onnx_ir", "onnx")
    inner = NodeWriter(imported("onnx_ir.tape", "onnx").Tape(), n.opset)
    result = branch(inner)
    return ir.Graph([], [result], nodes=inner.tape.nodes, name="branch")  # type: ignore[no-any-return]


def _attribute(n: NodeWriter, name: str, kind: str) -> "ir.Value":
    """An attribute of the node that calls the function, as a tensor of no dimensions."""
    ir = imported("onnx_ir", "onnx")
    reference = ir.RefAttr(f"value_{kind}", name, ir.AttributeType[kind.upper()])
    value = n.tape.op("Constant", [], {f"value_{kind}": reference})
    value.dtype = ir.DataType[{"int": "INT64", "float": "FLOAT"}[kind]]
    value.shape = ir.Shape(())
    return value


def _function(
    op_type: str,
    inputs: Sequence[str],
    attributes: Mapping[str, str],
    opset: int,
    body: "Callable[[NodeWriter, dict[str, ir.Value]], ir.Value]",
) -> "ir.Function":
    ir = imported("onnx_ir", "onnx")
    writer = NodeWriter(imported("onnx_ir.tape", "onnx").Tape(), opset)
    values = {name: ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT)) for name in inputs}
    result = body(writer, values)
    nodes, given = writer.tape.nodes, list(values.values())
    graph = ir.Graph(given, [result], nodes=nodes, opset_imports={"": opset}, name=op_type)
    for number, node in enumerate(graph.all_nodes()):  # those of a branch must differ from those around it
        node.name, node.outputs[0].name = f"{node.op_type}_{number}", f"v{number}"
    result.name = "y"
    declared = [ir.Attr(name, ir.AttributeType[kind], None) for name, kind in attributes.items()]
    return ir.Function(QUANT_DOMAIN, op_type, graph=graph, attributes=declared)  # type: ignore[no-any-return]


def largest_power(n: NodeWriter, x: "ir.Value", wide: bool = True) -> "ir.Value":
    """The largest power of two up to ``|x|``, exactly; a power of two, infinity or NaN where `x` is not finite.

    For subnormal `x` it is anything up to ``2**-126``; from ``2**104`` on that power, unless it is to be `wide`.
    """
    if n.opset >= BITCAST_OPSET:
        bits = n.op("BitCast", x, dtype="INT32", to=6)
        exponent = n.op("BitwiseAnd", bits, n.constant(np.array(_EXPONENT, dtype=np.int32)))
        return n.op("BitCast", exponent, dtype="FLOAT", to=1)
    magnitude = n.op("Abs", x)
    if not wide:
        return _unit_in_the_first_place(n, n.op("Min", magnitude, n.number(_LARGE)))
    magnitude = n.op("Min", magnitude, n.number(LARGEST))
    large = n.op("GreaterOrEqual", magnitude, n.number(1.0), dtype="BOOL")
    factor = n.op("Where", large, n.number(_SHRUNK), n.number(1.0), dtype="FLOAT")
    return n.op("Div", _unit_in_the_first_place(n, n.op("Mul", magnitude, factor)), factor)


def _unit_in_the_first_place(n: NodeWriter, magnitude: "ir.Value") -> "ir.Value":
    """``q - (1 - u) q`` of ``q = (2**23 + 1) |x|``, with each operation rounded (Rump 2009, algorithm 3.5)."""
    product = n.op("Mul", magnitude, n.number(2.0**23 + 1))
    return n.op("Sub", product, n.op("Mul", product, n.number(1 - 2.0**-24)))


def _float_quant(uses: _Uses, opset: int) -> "ir.Function":
    def body(n: NodeWriter, given: "dict[str, ir.Value]") -> "ir.Value":
        two = n.number(2.0)
        shrink = _attribute(n, "shrink", "float")
        smallest = n.op("Div", n.op("Pow", two, n.op("Sub", n.number(1.0), given["exponent_bias"])), shrink)
        scale = n.op("Mul", given["scale"], shrink)
        x = n.op("Div", given["x"], scale)
        power = n.op("Clip", _power(n, uses, x), smallest, n.number(_LARGEST_POWER))
        unit = n.op("Pow", two, n.op("Neg", given["mantissa_bitwidth"]))
        steps = {0: partial(_in_quanta, uses=uses, x=x, power=power, unit=unit)}
        steps[1] = partial(_in_powers, uses=uses, x=x, power=power, unit=unit)
        rounded = _limited(n, uses, x, uses.choose(n, "fine", steps), given["max_val"])
        zeros = {0: partial(_without_negative_zero, x=rounded), 1: partial(_same, x=rounded)}
        return n.op("Mul", uses.choose(n, "negative_zero", zeros), scale)

    return _function("FloatQuant", _FLOAT_INPUTS, _FLOAT_ATTRIBUTES, opset, body)


def _in_quanta(n: NodeWriter, uses: _Uses, x: "ir.Value", power: "ir.Value", unit: "ir.Value") -> "ir.Value":
    """To whole multiples of the quantum, ``power * unit``."""
    quantum = n.op("Mul", power, unit)
    return n.op("Mul", _to_integer(n, uses, n.op("Div", x, quantum)), quantum)


def _in_powers(n: NodeWriter, uses: _Uses, x: "ir.Value", power: "ir.Value", unit: "ir.Value") -> "ir.Value":
    """Likewise, but for the quantum itself: it may be subnormal, with which processors are slow."""
    significand = n.op("Div", n.op("Div", x, power), unit)
    return n.op("Mul", n.op("Mul", _to_integer(n, uses, significand), unit), power)


def _power(n: NodeWriter, uses: _Uses, x: "ir.Value") -> "ir.Value":
    if n.opset >= BITCAST_OPSET:
        return largest_power(n, x)
    return uses.choose(n, "wide", {wide: partial(largest_power, x=x, wide=bool(wide)) for wide in (0, 1)})


def _same(n: NodeWriter, x: "ir.Value") -> "ir.Value":
    """A branch returns what it computes."""
    return n.op("Identity", x)


def _product(n: NodeWriter, x: "ir.Value", y: "ir.Value") -> "ir.Value":
    return n.op("Mul", x, y)


def _without_negative_zero(n: NodeWriter, x: "ir.Value") -> "ir.Value":
    """-0 as 0. An `Add` of 0 is what optimizers take away."""
    return n.op("Sum", x, n.number(0.0))


def _to_integer(n: NodeWriter, uses: _Uses, x: "ir.Value") -> "ir.Value":
    modes = {_EVEN: _to_even, _AWAY: _away_from_zero, _TO_ZERO: _toward_zero}
    return uses.choose(n, "mode", {mode: partial(branch, x=x) for mode, branch in modes.items()})


def _to_even(n: NodeWriter, x: "ir.Value") -> "ir.Value":
    return n.op("Round", x)


def _away_from_zero(n: NodeWriter, x: "ir.Value") -> "ir.Value":
    """The nearest, ties away from zero: the distance to the nearest is exact."""
    nearest, half = n.op("Round", x), n.number(0.5)
    tie = n.op("Equal", n.op("Abs", n.op("Sub", x, nearest)), half, dtype="BOOL")
    away = n.op("Add", x, n.op("Mul", n.op("Sign", x), half))
    return n.op("Where", tie, away, nearest, dtype="FLOAT")


def _toward_zero(n: NodeWriter, x: "ir.Value") -> "ir.Value":
    # onnxruntime's `Where` makes 0 of a -0 that it takes where the condition holds: that must be for positive `x`
    positive = n.op("Greater", x, n.number(0.0), dtype="BOOL")
    return n.op("Where", positive, n.op("Floor", x), n.op("Ceil", x), dtype="FLOAT")


def _limited(n: NodeWriter, uses: _Uses, x: "ir.Value", rounded: "ir.Value", highest: "ir.Value") -> "ir.Value":
    """What lies beyond the largest finite values: `x` before, `rounded` after rounding."""

    def saturated(n: NodeWriter) -> "ir.Value":
        return n.op("Clip", rounded, _attribute(n, "lowest", "float"), highest)

    def nearest(n: NodeWriter) -> "ir.Value":
        return uses.choose(n, "signed", {0: unsigned, 1: signed})

    def signed(n: NodeWriter) -> "ir.Value":  # by 0 divided; `Where` is three times as slow
        fits = n.op("Cast", n.op("Equal", saturated(n), rounded, dtype="BOOL"), dtype="FLOAT", to=1)
        dividends = {0: partial(_product, x=rounded, y=fits), 1: partial(_same, x=rounded)}
        return n.op("Div", uses.choose(n, "has_inf", dividends), fits)

    def unsigned(n: NodeWriter) -> "ir.Value":
        above, below = _overflows(n)
        lowest = _attribute(n, "lowest", "float")
        cut = n.op("Where", n.op("Greater", rounded, highest, dtype="BOOL"), above, rounded, dtype="FLOAT")
        return n.op("Where", n.op("Less", cut, lowest, dtype="BOOL"), below, cut, dtype="FLOAT")

    def toward_zero(n: NodeWriter) -> "ir.Value":  # finite numbers stop at the ends
        above, below = _overflows(n)
        positive = n.op("Greater", x, n.number(0.0), dtype="BOOL")
        infinite = n.op("Where", positive, above, below, dtype="FLOAT")
        return n.op("Where", n.op("IsInf", x, dtype="BOOL"), infinite, saturated(n), dtype="FLOAT")

    def overflowing(n: NodeWriter) -> "ir.Value":
        return uses.choose(n, "mode", {_EVEN: nearest, _AWAY: nearest, _TO_ZERO: toward_zero})

    def compared(n: NodeWriter) -> "ir.Value":
        return uses.choose(n, "saturation", {0: overflowing, 1: saturated})

    return uses.choose(n, "by_carrier", {0: compared, 1: partial(_same, x=rounded)})


def _overflows(n: NodeWriter) -> "tuple[ir.Value, ir.Value]":
    """What overflows above becomes, and below; an unsigned format has no negative infinity."""
    infinite = n.op("Cast", _attribute(n, "has_inf", "int"), dtype="BOOL", to=9)
    above = n.op("Where", infinite, n.number(np.inf), n.number(np.nan), dtype="FLOAT")
    signed = n.op("Cast", _attribute(n, "signed", "int"), dtype="BOOL", to=9)
    return above, n.op("Where", signed, n.op("Neg", above), n.number(np.nan), dtype="FLOAT")


def _int_quant(uses: _Uses, opset: int) -> "ir.Function":
    def body(n: NodeWriter, given: "dict[str, ir.Value]") -> "ir.Value":
        lowest, highest = _integer_ends(n, given["bitwidth"])
        x = n.op("Add", n.op("Div", given["x"], given["scale"]), given["zeropt"])
        limited = n.op("Clip", _to_integer(n, uses, x), lowest, highest)
        code = _without_negative_zero(n, n.op("Sub", limited, given["zeropt"]))
        return n.op("Mul", code, given["scale"])

    return _function("IntQuant", _INT_INPUTS, _INT_ATTRIBUTES, opset, body)


def _integer_ends(n: NodeWriter, bitwidth: "ir.Value") -> "tuple[ir.Value, ir.Value]":
    """The least and the largest integer of a word; where float32 has not the largest, the next one inward."""
    signed = n.op("Cast", _attribute(n, "signed", "int"), dtype="FLOAT", to=1)
    narrow = n.op("Cast", _attribute(n, "narrow", "int"), dtype="FLOAT", to=1)
    beyond = n.op("Pow", n.number(2.0), n.op("Sub", bitwidth, signed))
    step = n.op("Max", n.number(1.0), n.op("Mul", beyond, n.number(2.0**-24)))
    lowest = n.op("Mul", n.op("Sub", n.op("Mul", narrow, step), beyond), signed)
    return lowest, n.op("Sub", beyond, step)
