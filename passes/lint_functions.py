"""Checks of formulas for which a function without their cancellation, overflow or underflow exists.

Blanchard, Higham & Higham 2021, "Accurately computing the log-sum-exp and softmax functions", IMA J. Numer. Anal. 41;
Higham 2002, "Accuracy and Stability of Numerical Algorithms", sections 1.9 (variance) and 1.14 (expm1, log1p);
Mächler 2012, "Accurately computing log(1 - exp(-|a|))" (softplus).
"""

import math

from torch.fx import Node

from precc.formats import FloatFormat
from precc.passes.lint_check import Remark, Scope
from precc.passes.lint_patterns import (
    exponential,
    factors,
    format_of,
    guarded,
    is_nonpositive,
    is_shifted,
    node_at,
    plus_constant,
    summed,
    unscaled,
)
from precc.passes.products import (
    origin,
)
from precc.stored_nodes import op_name

__all__ = ["expm1", "log1p", "log_sigmoid", "log_softmax", "log_sum_exp", "softmax", "softplus", "variance"]

_SOFTMAX = frozenset({"aten._softmax", "aten._safe_softmax"})


def log_sum_exp(node: Node, scope: Scope) -> Remark | None:
    """``log(sum(exp(x)))`` without a shift by the maximum, weighted or guarded too, or of two terms."""
    argument = _of_log(node)
    total = None if argument is None else guarded(argument)
    two = total is not None and op_name(total) == "aten.add"
    exps = _added_exps(total)
    exp = exps[0]
    if exp is None or any(own is None or is_shifted(_only(own)) for own in exps):
        return None
    problem = (
        f"log(sum(exp(x))) without a shift is inf where an x is above {_overflow(exp):.4g}, and -inf where all are "
        f"below {_underflow(exp):.4g}, in {_name(exp)}"
    )
    better = "torch.logaddexp(x, y)" if two else "torch.logsumexp(x, dim)"
    return Remark(problem, f"{better}  # of weighted terms: x + log(weights)")


def softplus(node: Node, scope: Scope) -> Remark | None:
    """``log(1 + exp(x))`` of an x that may be large."""
    exp = exponential(_added_to_one(node))
    if exp is None or exp is not _added_to_one(node) or is_nonpositive(_only(exp)) or is_shifted(_only(exp)):
        return None
    lost = "" if op_name(node) == "aten.log1p" else f", and 0 where it is below {_last_digit(exp):.4g}"
    return Remark(
        f"log(1 + exp(x)) is inf where x is above {_overflow(exp):.4g}{lost}, in {_name(exp)}",
        "F.softplus(x)",
    )


def log1p(node: Node, scope: Scope) -> Remark | None:
    """``log(1 + x)`` or ``log(1 - x)``, where x is no integer and the whole is no softplus."""
    argument, fmt = _of_log(node), format_of(node)
    plus = None if argument is None else plus_constant(origin(argument))
    if plus is None or plus[2] != 1 or fmt is None or _has_its_own_form(plus[1], plus[0]) or format_of(plus[1]) is None:
        return None
    if plus[0] == 1 and softplus(node, scope) is not None:
        return None
    x = "x" if plus[0] == 1 else "-x"
    return Remark(
        f"log(1 {'+' if plus[0] == 1 else '-'} x) loses the digits of a small x: all of them below u = "
        f"{fmt.unit_roundoff:.3g}, in {fmt.name}",
        f"torch.log1p({x})",
    )


def expm1(node: Node, scope: Scope) -> Remark | None:
    """``exp(x) - 1`` or ``1 - exp(x)``."""
    plus, fmt = plus_constant(node), format_of(node)
    if plus is None or fmt is None or plus[0] * plus[2] != -1 or op_name(plus[1]) != "aten.exp":
        return None
    form, better = ("exp(x) - 1", "torch.expm1(x)") if plus[0] == 1 else ("1 - exp(x)", "-torch.expm1(x)")
    return Remark(
        f"{form} cancels where |x| is small: its relative error is about u / |x|, u = {fmt.unit_roundoff:.3g} in "
        f"{fmt.name}",
        better,
    )


def log_softmax(node: Node, scope: Scope) -> Remark | None:
    """``log(softmax(x))``, guarded, of selected classes, and with a softmax by hand too."""
    argument = _of_log(node)
    inner = None if argument is None else guarded(argument)
    if inner is None or format_of(inner) is None:
        return None
    if op_name(inner) not in _SOFTMAX and _exp_of_softmax(inner) is None:
        return None
    return Remark(
        f"log(softmax(x)) is -inf, or what a guard makes of it, where x is more than {-_underflow(inner):.4g} below "
        f"the largest, in {_name(inner)}",
        "F.log_softmax(x, dim)",
    )


def log_sigmoid(node: Node, scope: Scope) -> Remark | None:
    """``log(sigmoid(x))`` or ``log(1 - sigmoid(x))``."""
    argument = _of_log(node)
    inner = None if argument is None else guarded(argument)
    plus = None if inner is None else plus_constant(inner)
    complement = plus is not None and (plus[0], plus[2]) == (-1, 1.0)
    inner = plus[1] if plus is not None and complement else inner
    if inner is None or format_of(inner) is None or op_name(inner) != "aten.sigmoid":
        return None
    if complement:
        problem = f"log(1 - sigmoid(x)) is -inf where x is above {-_last_digit(inner):.4g}, in {_name(inner)}"
        return Remark(problem, "F.logsigmoid(-x)")
    problem = f"log(sigmoid(x)) is -inf where x is below {_underflow(inner):.4g}, in {_name(inner)}"
    return Remark(problem, "F.logsigmoid(x)")


def softmax(node: Node, scope: Scope) -> Remark | None:
    """``exp(x) / sum(exp(x))`` without a shift by the maximum."""
    exp = _exp_of_softmax(node)
    if exp is None or is_shifted(_only(exp)):
        return None
    return Remark(
        f"exp(x) / sum(exp(x)) without a shift is nan where an x is above {_overflow(exp):.4g} or all are below "
        f"{_underflow(exp):.4g}, in {_name(exp)}",
        "torch.softmax(x, dim)",
    )


def variance(node: Node, scope: Scope) -> Remark | None:
    """``mean(x * x) - mean(x)**2``, with sums and of two variables too."""
    fmt = format_of(node)
    terms = factors(summed(unscaled(node_at(node, 0)))) if op_name(node) == "aten.sub" else None
    means = factors(unscaled(node_at(node, 1))) if terms is not None else None
    if terms is None or means is None or fmt is None:
        return None
    averaged = [summed(unscaled(mean)) for mean in means]
    if averaged not in (list(terms), list(terms[::-1])):
        return None
    one = terms[0] is terms[1]
    what, better = (
        ("variance", "torch.var(x, dim, correction=0)")
        if one
        else ("covariance", "((x - x.mean()) * (y - y.mean())).mean()")
    )
    return Remark(
        f"{what} by a difference of {'squares' if one else 'products'} cancels: its relative error is about "
        f"u (1 + mean^2 / variance), u = {fmt.unit_roundoff:.3g} in {fmt.name}, and it may come out negative",
        better,
    )


def _of_log(node: Node) -> Node | None:
    argument = node.args[0] if op_name(node) == "aten.log" else None
    return argument if isinstance(argument, Node) else None


def _added_exps(node: Node | None) -> list[Node | None]:
    """The exp that a sum adds over dimensions, or the two that an addition adds; None for each term that is none."""
    if node is not None and op_name(node) == "aten.add":
        return [exponential(node_at(node, position)) for position in (0, 1)]
    return [exponential(summed(node))]


def _added_to_one(node: Node) -> Node | None:
    """The x of ``log(1 + x)`` or ``log1p(x)``."""
    if op_name(node) == "aten.log1p":
        return node_at(node, 0)
    argument = _of_log(node)
    plus = None if argument is None else plus_constant(origin(argument))
    return plus[1] if plus is not None and (plus[0], plus[2]) == (1, 1.0) else None


def _has_its_own_form(x: Node, sign: int) -> bool:
    """Whether ``log(1 + x)`` or ``log(1 - x)`` has a better form than log1p: that of a sigmoid."""
    return sign == -1 and op_name(x) == "aten.sigmoid"


def _exp_of_softmax(node: Node) -> Node | None:
    """The exp of a softmax by hand."""
    numerator, below = exponential(node_at(node, 0)), node_at(node, 1)
    if numerator is None or below is None or op_name(node) not in ("aten.div", "aten.mul"):
        return None
    if op_name(node) == "aten.mul":
        below = node_at(below, 0) if op_name(below) == "aten.reciprocal" else None
    added = exponential(summed(guarded(below))) if below is not None else None
    same = added is numerator or (added is not None and _only(added) is _only(numerator))
    return numerator if same else None


def _only(node: Node) -> Node:
    """The argument of a function of one tensor."""
    argument = node.args[0]
    assert isinstance(argument, Node)
    return origin(argument)


def _format(node: Node) -> FloatFormat:
    fmt = format_of(node)
    assert fmt is not None, f"{node} has no float format"
    return fmt


def _name(node: Node) -> str:
    return _format(node).name


def _overflow(node: Node) -> float:
    """Above this exp is infinite."""
    return math.log(_format(node).max)


def _underflow(node: Node) -> float:
    """Below this exp is 0: half of the smallest number is rounded to it."""
    return math.log(_format(node).smallest_subnormal / 2)


def _last_digit(node: Node) -> float:
    """Below this ``1 + exp(x)`` is 1."""
    return math.log(_format(node).unit_roundoff)
