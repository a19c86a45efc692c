"""Text of pointwise operations: the expression for a node of a graph, of blocks in the dtype that ATen computes in.

Sums, products, quotients, comparisons and selections are those of IEEE 754 and equal ATen's bit for bit; with a factor
`alpha`, and in the backward of tanh, ATen on a processor rounds a product and its sum once, a kernel each. Square roots
are correctly rounded, which ATen's are not on every processor; a cube of 16 bits is rounded once. exp, log, erf and
what is made of them are those of Triton: within a few units in the last place of ATen's, on a GPU of its approximate
instructions.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.backends.triton.emit.device_functions import JIT, literal
from precc.errors import BackendError
from precc.stored_nodes import op_name

__all__ = ["EXACT", "POINTWISE", "PointwiseText", "pointwise_text"]


@dataclass(frozen=True, slots=True)
class PointwiseText:
    """An expression and the functions that it calls."""

    expression: str
    functions: str = ""


_OF_ITS_DTYPE = frozenset(f"aten.{name}" for name in "add sub rsub eq ne ge gt le lt".split())


@dataclass(frozen=True, slots=True)
class _Call:
    """A node with the text of its arguments."""

    node: Node
    texts: Mapping[Node, str]
    double: bool

    def __getitem__(self, place: int) -> str:
        return self.text(self.node.args[place])

    def text(self, own: Any) -> str:
        if isinstance(own, Node):
            return self.texts[own]
        if isinstance(own, (bool, int, float)):
            return literal(self._rounded(float(own)))
        raise BackendError(f"triton: {self.node.name} has the argument {own!r}, which no expression has")

    def _rounded(self, number: float) -> float:
        """A number that is added or compared has the tensor's dtype, as ATen's has on a processor."""
        value = self.node.args[0].meta.get("val") if isinstance(self.node.args[0], Node) else None
        if op_name(self.node) not in _OF_ITS_DTYPE or not isinstance(value, Tensor) or not value.is_floating_point():
            return number
        return float(torch.tensor(number, dtype=value.dtype))

    def number(self, place: int, name: str, default: float) -> float:
        own = self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)
        if not isinstance(own, (bool, int, float)):
            raise BackendError(f"triton: {self.node.name}: {name}={own!r} is no number that is known before it runs")
        return float(own)

    def option(self, place: int, name: str, default: Any) -> Any:
        return self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get(name, default)

    def divided(self, x: str, y: str) -> str:
        return f"(({x}) / ({y}))" if self.double else f"tl.div_rn({x}, {y})"

    def root(self, x: str) -> str:
        return f"tl.sqrt({x})" if self.double else f"tl.sqrt_rn({x})"


#: Nodes are called ``tanh``, and lines are called after nodes.
_TANH = f"""{JIT}def tanh_of(x):
    # x (1 - x**2 / 3 + ...) where 1 - 2 / (e**2|x| + 1) would lose digits
    square = x * x
    near = -0.00886323552990219 * square + 0.021869488536155203
    near = (near * square - 0.05396825396825397) * square + 0.13333333333333333
    near = x + x * square * (near * square - 0.3333333333333333)
    size = tl.abs(x)
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.3, near, tl.where(x < 0.0, -far, far))
"""

_SQRT_HALF, _DENSITY = math.sqrt(0.5), 2 / math.sqrt(math.pi) * math.sqrt(0.5) * 0.5
_GELU_BETA, _GELU_KAPPA = math.sqrt(2 / math.pi), 0.044715


def _sum(call: _Call) -> str:
    return f"{call[0]} + {_times_alpha(call, 1)}"


def _difference(call: _Call) -> str:
    return f"{call[0]} - {_times_alpha(call, 1)}"


def _times_alpha(call: _Call, place: int) -> str:
    alpha = call.number(2, "alpha", 1)
    return call[place] if alpha == 1 else f"{literal(alpha)} * {call[place]}"


def _quotient(call: _Call) -> str:
    if call.node.kwargs.get("rounding_mode") is not None:
        raise BackendError(f"triton: {call.node.name} rounds its quotient to an integer")
    return call.divided(call[0], call[1])


def _power(call: _Call) -> str:
    x, exponent = call[0], call.number(1, "exponent", 1)
    powers = {
        2.0: f"{x} * {x}",
        3.0: f"{x} * {x} * {x}",
        1.0: x,
        0.5: call.root(x),
        -0.5: call.divided("1.0", call.root(x)),
        -1.0: call.divided("1.0", x),
    }
    if exponent not in powers:
        raise BackendError(f"triton: {call.node.name} has the exponent {exponent}; kernels have {sorted(powers)}")
    return powers[exponent]


def _sigmoid(call: _Call, x: str) -> str:
    return call.divided("1.0", f"1.0 + tl.exp(-({x}))")


def _extreme(sign: str) -> Callable[[_Call], str]:
    def text(call: _Call) -> str:
        a, b = call[0], call[1]
        return f"tl.where({a} != {a}, {a}, tl.where({b} != {b}, {b}, tl.where({a} {sign} {b}, {a}, {b})))"

    return text


def _limited(call: _Call, low: Any, high: Any) -> str:
    text = call[0]
    for bound, sign in ((low, "<"), (high, ">")):
        if bound is not None:
            text = f"tl.where({text} {sign} {call.text(bound)}, {call.text(bound)}, {text})"
    return text


def _gelu(call: _Call) -> str:
    x = call[0]
    if call.option(1, "approximate", "none") == "tanh":
        return f"0.5 * {x} * (1.0 + tanh_of({_GELU_BETA!r} * ({x} + {_GELU_KAPPA!r} * {x} * {x} * {x})))"
    return f"{x} * 0.5 * (1.0 + tl.erf({x} * {_SQRT_HALF!r}))"


def _gelu_backward(call: _Call) -> str:
    gradient, x = call[0], call[1]
    if call.option(2, "approximate", "none") == "tanh":
        inner = f"tanh_of({_GELU_BETA!r} * ({x} + {_GELU_KAPPA!r} * {x} * {x} * {x}))"
        slope = f"{_GELU_BETA!r} * (1.0 + {3 * _GELU_KAPPA!r} * {x} * {x})"
        return f"{gradient} * (0.5 * (1.0 + {inner}) + 0.5 * {x} * (1.0 - {inner} * {inner}) * {slope})"
    below = f"0.5 * (1.0 + tl.erf({x} * {_SQRT_HALF!r}))"
    return f"{gradient} * ({below} + {x} * {_DENSITY!r} * tl.exp(-0.5 * {x} * {x}))"


def _silu_backward(call: _Call) -> str:
    own = _sigmoid(call, call[1])
    return f"{call[0]} * {own} * (1.0 + {call[1]} * (1.0 - {own}))"


def _leaky(call: _Call) -> str:
    return f"tl.where({call[0]} > 0.0, {call[0]}, {call[0]} * {literal(call.number(1, 'negative_slope', 0.01))})"


def _leaky_backward(call: _Call) -> str:
    slope = literal(call.number(2, "negative_slope", 0.01))
    return f"tl.where({call[1]} > 0.0, {call[0]}, {call[0]} * {slope})"


def _compared(sign: str) -> Callable[[_Call], str]:
    return lambda call: f"{call[0]} {sign} {call[1]}"


def _where(call: _Call) -> str:
    return f"tl.where({call[0]}, {call[1]}, {call[2]})"


#: By name of the operator: those that equal ATen's bit for bit.
EXACT: dict[str, Callable[[_Call], str]] = {
    "aten._to_copy": lambda call: call[0],
    "aten.abs": lambda call: f"tl.abs({call[0]})",
    "aten.add": _sum,
    "aten.clamp": lambda call: _limited(call, call.option(1, "min", None), call.option(2, "max", None)),
    "aten.clamp_max": lambda call: _limited(call, None, call.node.args[1]),
    "aten.clamp_min": lambda call: _limited(call, call.node.args[1], None),
    "aten.div": _quotient,
    "aten.eq": _compared("=="),
    "aten.ge": _compared(">="),
    "aten.gt": _compared(">"),
    "aten.le": _compared("<="),
    "aten.leaky_relu": _leaky,
    "aten.leaky_relu_backward": _leaky_backward,
    "aten.logical_and": _compared("&"),
    "aten.logical_not": lambda call: f"{call[0]} == 0",
    "aten.logical_or": _compared("|"),
    "aten.lt": _compared("<"),
    "aten.masked_fill": lambda call: f"tl.where({call[1]}, {call[2]}, {call[0]})",
    "aten.maximum": _extreme(">"),
    "aten.minimum": _extreme("<"),
    "aten.mul": lambda call: f"{call[0]} * {call[1]}",
    "aten.ne": _compared("!="),
    "aten.neg": lambda call: f"{call[0]} * -1.0",  # in Triton 3.6 -x is 0 - x, which is 0 where x is
    "aten.reciprocal": lambda call: call.divided("1.0", call[0]),
    "aten.relu": lambda call: f"tl.where({call[0]} < 0.0, 0.0, {call[0]})",
    "aten.rsqrt": lambda call: call.divided("1.0", call.root(call[0])),
    "aten.rsub": lambda call: f"{_times_alpha(call, 1)} - {call[0]}",
    "aten.sigmoid_backward": lambda call: f"{call[0]} * (1.0 - {call[1]}) * {call[1]}",
    "aten.sub": _difference,
    "aten.threshold_backward": lambda call: f"tl.where({call[1]} <= {call[2]}, 0.0, {call[0]})",
    "aten.where": _where,
}

#: And all.
POINTWISE: dict[str, Callable[[_Call], str]] = {
    **EXACT,
    "aten.exp": lambda call: f"tl.exp({call[0]})",
    "aten.gelu": _gelu,
    "aten.gelu_backward": _gelu_backward,
    "aten.log": lambda call: f"tl.log({call[0]})",
    "aten.pow": _power,
    "aten.sigmoid": lambda call: _sigmoid(call, call[0]),
    "aten.silu": lambda call: call.divided(call[0], f"1.0 + tl.exp(-{call[0]})"),
    "aten.silu_backward": _silu_backward,
    "aten.sqrt": lambda call: call.root(call[0]),
    "aten.tanh": lambda call: f"tanh_of({call[0]})",
    "aten.tanh_backward": lambda call: f"{call[0]} * (1.0 - {call[1]} * {call[1]})",
}


def pointwise_text(node: Node, texts: Mapping[Node, str], carrier: str) -> PointwiseText:
    """The expression of a node, from names of blocks that hold its arguments.

    Args:
        node: of a graph; its operator is one of `POINTWISE`.
        texts: a name, or an atom, for each node that it reads.
        carrier: ``tl.float32`` or ``tl.float64``, in which the blocks are.

    Raises:
        BackendError: another operator, or arguments that no expression has; the message names the node.
    """
    made = POINTWISE.get(op_name(node))
    if made is None:
        raise BackendError(f"triton: no kernel computes {node.name} ({op_name(node) or node.target})")
    expression = made(_Call(node, texts, carrier == "tl.float64"))
    return PointwiseText(expression, _TANH if "tanh_of(" in expression else "")
