"""Text of device functions for the condition numbers of activations, made of the functions that specify them.

`precc.condition_numbers.ACTIVATIONS` are float64 operations in a fixed order: each is recorded as a graph, and each
node of that written as one line.
"""

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.fx import Node, symbolic_trace

from precc.backends.triton.emit.device_functions import JIT
from precc.condition_numbers import ACTIVATIONS
from precc.errors import BackendError

__all__ = ["activation_text"]

_SIGNS: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.lshift: "<<",
}


@lru_cache(maxsize=32)
def activation_text(name: str) -> tuple[str, str]:
    """Name and text of ``f(v)``, kappa_phi of float64 values.

    Raises:
        BackendError: an operation that has no text yet.
    """
    graph = symbolic_trace(_function(ACTIVATIONS[name])).graph
    lines = []
    for node in graph.nodes:
        if node.op == "output":
            lines.append(f"return {_operand(node.args[0])}")
        elif node.op != "placeholder":
            lines.append(f"{node.name} = {_expression(node)}")
    (argument,) = (node.name for node in graph.nodes if node.op == "placeholder")
    body = "".join(f"    {line}\n" for line in lines)
    return f"condition_of_{name}", f"{JIT}def condition_of_{name}({argument}):\n{body}"


def _function(activation: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """One that can be traced: a built-in has no signature."""

    def condition(v: torch.Tensor) -> torch.Tensor:
        return activation(v)

    return condition


def _expression(node: Node) -> str:
    args = [_operand(argument) for argument in node.args]
    if node.target is operator.truediv and not isinstance(node.args[0], Node):  # as torch: number times reciprocal
        return f"(1.0 / {args[1]}) * {args[0]}"
    if node.target in _SIGNS:
        return f"{args[0]} {_SIGNS[node.target]} {args[1]}"
    if node.target is torch.where:
        return f"tl.where({', '.join(args)})"
    if node.target is torch.full_like:
        return f"tl.zeros_like({args[0]}) + {args[1]}"
    if node.target in ("abs", torch.abs):
        return f"tl.abs({args[0]})"
    if node.target == "isnan":
        return f"{args[0]} != {args[0]}"
    if node.target == "round":  # to even, of 0 to 2**52
        return f"({args[0]} + {2.0**52!r}) - {2.0**52!r}"
    if node.target in ("double", "long"):
        return f"{args[0]}.to(tl.{'float64' if node.target == 'double' else 'int64'})"
    if node.target == "view" and node.args[1] is torch.float64:
        return f"{args[0]}.to(tl.float64, bitcast=True)"
    raise BackendError(f"triton: the condition number of an activation has an operation without text: {node.target}")


def _operand(value: Any) -> str:
    if isinstance(value, Node):
        return value.name
    return str(value) if isinstance(value, torch.dtype) else repr(value)
