"""Checks of the small numbers that keep a divisor, or the argument of a logarithm, from 0.

A number at or below half of the smallest subnormal of a format is rounded to 0 in it, and guards nothing.
"""

from typing import Any

from torch.fx import Node

from precc.formats import FloatFormat
from precc.passes.lint_check import Remark, Scope
from precc.passes.lint_patterns import constant, format_of, name_of, node_at, plus_constant, square_of, summed, unscaled
from precc.stored_nodes import op_name

__all__ = ["divisor_without_eps", "vanishing_eps"]

_FLOORS = {"aten.clamp": "clamp", "aten.clamp_min": "clamp", "aten.maximum": "maximum"}
_VARIANCES = frozenset({"aten.var", "aten.var_mean"})
_SPREADS = frozenset({"aten.linalg_vector_norm", "aten.std", "aten.std_mean"}) | _VARIANCES


def vanishing_eps(node: Node, scope: Scope) -> Remark | None:
    """An eps of a norm, an added constant or the floor of a clamp below the smallest number of the dtype."""
    found = _eps_of_norm(node) or _added(node) or _floor(node)
    if found is None:
        return None
    what, eps, fmt = found
    if eps >= fmt.smallest_subnormal:
        return None
    dtype = f"torch.finfo(torch.{fmt.name})"
    problem = f"{what} {eps:.3g} {_becomes(eps, fmt)}"
    return Remark(problem, f"eps={fmt.smallest_normal:.2g}  # {dtype}.tiny; or x.float() before")


def _becomes(eps: float, fmt: FloatFormat) -> str:
    if eps == 0:
        return f"guards nothing: equal values are divided by 0, in {fmt.name}"
    least = fmt.smallest_subnormal
    rounded = "is rounded to 0" if eps <= least / 2 else f"is rounded to {least:.3g}"
    return f"{rounded} in {fmt.name}, whose smallest positive number is {least:.3g}"


def _eps_of_norm(node: Node) -> tuple[str, float, FloatFormat] | None:
    """Of an ATen op with an argument of that name, what it is called, its value, and the format of the input."""
    schema: Any = getattr(node.target, "_schema", None)
    positions = [k for k, own in enumerate(schema.arguments) if own.name == "eps"] if schema is not None else []
    source = node.args[0] if node.args else None
    fmt = format_of(source) if isinstance(source, Node) else None
    if not positions or fmt is None or positions[0] >= len(node.args):
        return None
    eps = constant(node.args[positions[0]])
    return None if eps is None else (f"eps of {op_name(node).removeprefix('aten.')}:", eps, fmt)


def _added(node: Node) -> tuple[str, float, FloatFormat] | None:
    plus, fmt = plus_constant(node), format_of(node)
    return None if plus is None or fmt is None or plus[2] <= 0 else ("the added constant", plus[2], fmt)


def _floor(node: Node) -> tuple[str, float, FloatFormat] | None:
    name, fmt = op_name(node), format_of(node)
    if name not in _FLOORS or fmt is None or len(node.args) < 2:
        return None
    floor = constant(node.args[1])
    return None if floor is None or floor <= 0 else (f"the floor of {_FLOORS[name]}:", floor, fmt)


def divisor_without_eps(node: Node, scope: Scope) -> Remark | None:
    """A division by a norm, standard deviation or variance as it is; those of parameters are seldom 0."""
    divisor = node_at(node, 0) if op_name(node) in ("aten.rsqrt", "aten.reciprocal") else None
    divisor = node_at(node, 1) if op_name(node) == "aten.div" else divisor
    what = _spread(divisor, roots=op_name(node) != "aten.rsqrt")
    reduced = node_at(divisor, 0) if divisor is not None else None
    if divisor is None or not what or (reduced is not None and reduced.name in scope.step.parameters):
        return None
    if op_name(node) == "aten.rsqrt":
        return Remark(f"rsqrt of {what} is inf where all values are equal or 0", "torch.rsqrt(variance + eps)")
    return Remark(
        f"division by {what} is inf or nan where that is 0", "x / (divisor + eps), or x / divisor.clamp(min=eps)"
    )


def _spread(node: Node | None, *, roots: bool) -> str:
    """What a node is that may well be 0; empty for others."""
    name = name_of(node)
    if name in _SPREADS:
        return {"aten.linalg_vector_norm": "a norm"}.get(name, "a variance" if name in _VARIANCES else "a deviation")
    if node is None or name not in ("aten.sqrt", "aten.sum", "aten.mean"):
        return ""
    if name == "aten.sqrt" and roots:
        inner = unscaled(node_at(node, 0))
        return "the root of a variance or sum of squares" if _spread(inner, roots=False) else ""
    return "a sum of squares" if not roots and square_of(summed(node)) is not None else ""
