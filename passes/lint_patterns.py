"""What the checks of the lint ask of a node: constants, guards, shifts by a maximum, sums and squares.

All of it looks through views, copies and conversions: `precc.passes.products.origin`.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.formats import FloatFormat, format_of_dtype
from precc.passes.products import (
    origin,
)
from precc.stored_nodes import op_name

__all__ = [
    "constant",
    "exponential",
    "factors",
    "format_of",
    "guarded",
    "is_nonpositive",
    "is_shifted",
    "name_of",
    "node_at",
    "plus_constant",
    "square_of",
    "summed",
    "unscaled",
    "value_of",
]

#: The largest constant that keeps a value from 0 and is no part of the formula.
_LARGEST_GUARD = 1e-2

_SELECTIONS = frozenset(
    f"aten.{name}" for name in ("gather", "index", "index_select", "select", "slice", "take", "unbind")
)
_CLAMPS = frozenset({"aten.clamp", "aten.clamp_min"})
_SUMS = frozenset({"aten.sum", "aten.mean"})
_MEANS_BY_WINDOW = frozenset({"aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", "aten._adaptive_avg_pool2d"})
_FILLED = {"aten.ones": 1.0, "aten.ones_like": 1.0, "aten.zeros": 0.0, "aten.zeros_like": 0.0}
#: Position of the number that fills the tensor.
_FILLED_WITH = {"aten.full": 1, "aten.full_like": 1, "aten.scalar_tensor": 0}
#: Ops that keep each value, at other places or beside others.
_PLACES = _SELECTIONS | {f"aten.{name}" for name in ("cat", "constant_pad_nd", "flip", "roll", "stack", "where")}
_MAXIMA = frozenset(
    f"aten.{name}"
    for name in ("amax", "cummax", "logcumsumexp", "logsumexp", "max", "maximum", "scatter_reduce", "sort", "topk")
)
_OF_A_MAXIMUM = _PLACES | {f"aten.{name}" for name in ("add", "clamp", "div", "masked_fill", "mul", "nan_to_num")}
_AFFINE = _PLACES | {f"aten.{name}" for name in ("add", "clamp_min", "div", "masked_fill", "mul", "neg", "rsub", "sub")}
_LOG_PROBABILITIES = frozenset({"aten._log_softmax", "aten.log_sigmoid_forward"})
_NONNEGATIVE = frozenset(
    f"aten.{name}" for name in ("abs", "exp", "linalg_vector_norm", "relu", "sigmoid", "softplus", "square")
)


def value_of(node: Node) -> Tensor | None:
    """The fake tensor of a node, the first one of several; None if it has none."""
    value = node.meta.get("val")
    first = value[0] if isinstance(value, tuple | list) and value else value
    return first if isinstance(first, Tensor) else None


def format_of(node: Node) -> FloatFormat | None:
    """The float format of a node's values; None of integers and what is no tensor."""
    value = value_of(node)
    found = None if value is None else format_of_dtype(value.dtype)
    return found if isinstance(found, FloatFormat) else None


def node_at(node: Node, position: int) -> Node | None:
    """The node whose values an argument shows; None if the argument is no node, or is not there."""
    argument = node.args[position] if position < len(node.args) else None
    return origin(argument) if isinstance(argument, Node) else None


def name_of(node: Node | None) -> str:
    """Name of the ATen op, of a result out of several that of the op which computes them; empty for others."""
    if node is None:
        return ""
    if node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem":
        return name_of(node_at(node, 0))
    return op_name(node)


def constant(argument: Any) -> float | None:
    """The number that an argument is everywhere; None if it is none, or not known."""
    if isinstance(argument, int | float) and not isinstance(argument, bool):
        return float(argument)
    if not isinstance(argument, Node):
        return None
    node = origin(argument)
    if op_name(node).startswith("aten.lift_fresh"):
        return constant(node.args[0])
    if node.op == "get_attr":
        return _held(node)
    position = _FILLED_WITH.get(op_name(node))
    return _FILLED.get(op_name(node)) if position is None else constant(node.args[position])


def _held(node: Node) -> float | None:
    """The number in a tensor that the graph holds."""
    held = getattr(node.graph.owning_module, str(node.target), None)
    known = type(held) in (Tensor, torch.nn.Parameter) and held is not None and held.numel() == 1
    return float(held.item()) if known and held is not None and not held.is_complex() else None


def plus_constant(node: Node) -> tuple[int, Node, float] | None:
    """Sign, x and c of a node that is ``x + c`` or ``-x + c``; None if it is neither."""
    name, alpha = op_name(node), node.kwargs.get("alpha", 1)
    if name not in ("aten.add", "aten.sub", "aten.rsub") or alpha != 1 or len(node.args) < 2:
        return None
    first, second = node.args[:2]
    if name == "aten.rsub":
        first, second, name = second, first, "aten.sub"
    left, right = constant(first), constant(second)
    if right is not None and left is None:
        return 1, origin(first), right if name == "aten.add" else -right  # type: ignore[arg-type]  # no constant
    if left is not None and right is None:
        return 1 if name == "aten.add" else -1, origin(second), left  # type: ignore[arg-type]  # likewise
    return None


def guarded(node: Node) -> Node:
    """What a node shows apart from a guard against 0 and from a selection: x of ``(x + 1e-6).clamp(min=1e-6)[i]``."""
    while True:
        node = origin(node)
        name, plus = op_name(node), plus_constant(node)
        inner = node_at(node, 0)
        if plus is not None and plus[0] == 1 and 0 < plus[2] <= _LARGEST_GUARD:
            node = plus[1]
        elif name in _CLAMPS | _SELECTIONS and inner is not None:
            node = inner
        else:
            return node


def exponential(node: Node | None) -> Node | None:
    """The exp that a node is, perhaps times something or masked; None if it is none."""
    if node is None:
        return None
    positions = {"aten.mul": (0, 1), "aten.where": (1, 2), "aten.masked_fill": (0,)}.get(op_name(node), ())
    candidates = (node, *(node_at(node, position) for position in positions))
    return next((own for own in candidates if own is not None and _is_real_exp(own)), None)


def _is_real_exp(node: Node) -> bool:
    return op_name(node) == "aten.exp" and format_of(node) is not None


def summed(node: Node | None) -> Node | None:
    """What a sum or mean over dimensions adds; None if the node is none."""
    return node_at(node, 0) if node is not None and op_name(node) in _SUMS | _MEANS_BY_WINDOW else None


def unscaled(node: Node | None) -> Node | None:
    """The node without the constants that it is multiplied or divided by."""
    while node is not None and (scaled := _scaled(node)) is not None:
        node = scaled[1]
    return node


def _scaled(node: Node) -> tuple[float, Node] | None:
    """Factor c and x of a node that is ``c * x`` or ``x / c``, of which the sign alone is right; None if neither."""
    for own, other in ((1, 0), (0, 1)) if op_name(node) == "aten.mul" else ((1, 0),):
        scales = op_name(node) in ("aten.mul", "aten.div") and not node.kwargs  # a rounded quotient has some
        factor = constant(node.args[own]) if scales else None
        inner = node_at(node, other)
        if factor is not None and inner is not None:
            return factor, inner
    return None


def factors(node: Node | None) -> tuple[Node, Node] | None:
    """The two factors of a product of elements, or of a square; None if the node is neither."""
    first = None if node is None else node_at(node, 0)
    if node is None or first is None:
        return None
    if op_name(node) == "aten.square" or (op_name(node) == "aten.pow" and constant(node.args[1]) == 2):
        return first, first
    second = node_at(node, 1) if op_name(node) == "aten.mul" else None
    return None if second is None else (first, second)


def square_of(node: Node | None) -> Node | None:
    """What a node is the square of; None if it is none."""
    pair = factors(node)
    return pair[0] if pair is not None and pair[0] is pair[1] else None


def is_shifted(node: Node) -> bool:
    """Whether x of exp(x) had a maximum subtracted, is bounded above, or is the logarithm of a probability."""
    return any(_shifts(own) for own in _upstream(node, _AFFINE))


def _shifts(node: Node) -> bool:
    name = op_name(node)
    if name in ("aten.sub", "aten.neg"):
        subtracted = node_at(node, 1 if name == "aten.sub" else 0)
        return subtracted is not None and any(name_of(own) in _MAXIMA for own in _upstream(subtracted, _OF_A_MAXIMUM))
    bounded = name == "aten.clamp_max" or (name == "aten.clamp" and constant(_argument(node, 2, "max")) is not None)
    return bounded or name_of(node) in _LOG_PROBABILITIES


def _argument(node: Node, position: int, name: str) -> Any:
    return node.args[position] if position < len(node.args) else node.kwargs.get(name)


def _upstream(node: Node, through: frozenset[str]) -> Iterator[Node]:
    """A node and those that it is computed from by these ops."""
    waiting, seen = [origin(node)], set[Node]()
    while waiting:
        own = waiting.pop()
        if own not in seen:
            seen.add(own)
            yield own
            waiting += [origin(argument) for argument in own.all_input_nodes] if op_name(own) in through else []


def is_nonpositive(node: Node) -> bool:
    """Whether no value of a node can be above 0, by its form: ``-abs(x)``, ``-0.5 * x**2``."""
    sign, own = 1.0, origin(node)
    while True:
        negated = node_at(own, 0) if op_name(own) == "aten.neg" else None
        scaled = (-1.0, negated) if negated is not None else _scaled(own)
        if scaled is None:
            return sign < 0 and (name_of(own) in _NONNEGATIVE or square_of(own) is not None)
        sign, own = math.copysign(sign, sign * scaled[0]), scaled[1]
