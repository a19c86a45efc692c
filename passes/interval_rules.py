"""What a rule of an op is: the interval of its values, and its slopes between two points of the intervals.

The slopes of a function over a box are intervals S with ``f(x) - f(y) = S (x - y)`` for all x, y in it. They compose:
rows ``g`` of a product of slopes times those of one more op are again such rows (Neumaier 1990, Interval Methods for
Systems of Equations, 2.3). Rows have one leading dimension more than the value that they belong to.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precc.analysis.curves import Curve, Pieces
from precc.analysis.intervals import Interval, gamma, multiply, outward, point, reduced_to

__all__ = [
    "Norms",
    "Pairs",
    "Rule",
    "Value",
    "WithoutRule",
    "curve",
    "exactly",
    "first_of",
    "interval",
    "linear",
    "selection",
    "unbroadcast",
]

#: What a node computes: an interval, an exact tensor of integers or booleans, several of them, or a number.
Value = Any

#: Of arguments that are intervals, their rows or (in norms) one number; an argument may come twice, which adds up.
Pairs = Iterable[tuple[Interval, Interval]]
Norms = Iterable[tuple[Interval, float]]


class WithoutRule(Exception):
    """A call of an op that has a rule is of a form that has none; the message says why."""


def no_norms(*args: Any, **kwargs: Any) -> Norms:
    """No norm is known: infinite for every argument."""
    return ()


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule of one op; the functions take the node's arguments, with values in the place of nodes.

    Args:
        value: interval of the result, or a tuple for several.
        slopes: rows of the result (of several results a list; None for one that is not used) and the arguments, to
            rows of each argument that is an interval.
        norms: the largest sum of magnitudes of slopes in a row, by argument; an upper bound. None left out is infinite.
    """

    value: Callable[..., Value]
    slopes: Callable[..., Pairs]
    norms: Callable[..., Norms] = no_norms


def interval(x: Value) -> Interval:
    """A number or value as an interval."""
    if isinstance(x, Interval):
        return x
    return point(x)


def exactly(x: Value) -> Tensor | None:
    """The one tensor that an argument is.

    Raises:
        WithoutRule: it is an interval of several.
    """
    if isinstance(x, Interval):
        if not x.is_point:
            raise WithoutRule("an argument that must be known exactly is an interval")
        return x.low
    if x is not None and not isinstance(x, Tensor):
        raise WithoutRule(f"an argument that must be a tensor is {x!r}")
    return x


def first_of(grads: list[Interval | None]) -> Interval:
    """The rows of the first of several results.

    Raises:
        WithoutRule: another one is used.
    """
    grad, *others = grads
    if grad is None or any(other is not None for other in others):
        raise WithoutRule("what is used is not its first result alone")
    return grad


def _only(position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check that no argument but one is an interval."""
    others = (*args[:position], *args[position + 1 :], *kwargs.values())
    if any(isinstance(other, Interval) for other in others):
        raise WithoutRule("an argument that must be known exactly is an interval")


def unbroadcast(rows: Interval, shape: torch.Size | tuple[int, ...]) -> Interval:
    """Rows of a broadcast tensor to rows of the tensor of this shape."""
    count, extra = rows.shape[0], rows.low.dim() - 1 - len(shape)
    sums = reduced_to(rows, (count, *(1,) * extra, *shape))
    return sums.map(lambda end: end.reshape(count, *shape))


def _pulled_back(function: Callable[[Tensor], Tensor], shape: torch.Size, rows: Interval, terms: int) -> Interval:
    """Rows through the transpose of a linear function with coefficients of at least 0.

    So many terms at most are summed up; 0: as many as there are, of coefficients 1, which is exact if it is one.
    """
    with torch.enable_grad():
        x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        out = function(x)

    def back(grads: Tensor) -> Tensor:
        return torch.stack([torch.autograd.grad(out, x, row, retain_graph=True)[0] for row in grads])

    if terms == 0:
        terms = int(back(torch.ones_like(rows.low[:1])).max()) if x.numel() else 1
        if terms <= 1:
            return rows.map(back)
    return outward(back(rows.low), back(rows.high), gamma(terms) * back(rows.magnitude))


def selection(function: Callable[..., Any], position: int = 0) -> Rule:
    """Every element of the result is an element of one argument, or a constant; nothing is rounded."""

    def value(*args: Any, **kwargs: Any) -> Value:
        x = args[position]
        _only(position, args, kwargs)
        if not isinstance(x, Interval):
            return function(*args, **kwargs)
        ends = [function(*args[:position], end, *args[position + 1 :], **kwargs) for end in (x.low, x.high)]
        if isinstance(ends[0], Tensor):
            return Interval(ends[0], ends[1])
        return tuple(Interval(low, high) for low, high in zip(*ends, strict=True))

    def slopes(grad: Any, *args: Any, **kwargs: Any) -> Pairs:
        x = args[position]

        def call(y: Tensor) -> Any:
            return function(*args[:position], y, *args[position + 1 :], **kwargs)

        if isinstance(grad, Interval):
            yield x, _pulled_back(call, x.shape, grad, 0)
            return
        for index, own in enumerate(grad):
            if own is not None:
                yield x, _pulled_back(lambda y, index=index: call(y)[index], x.shape, own, 0)  # type: ignore[misc]

    def norms(*args: Any, **kwargs: Any) -> Norms:
        yield args[position], 1.0

    return Rule(value, slopes, norms)


def linear(function: Callable[..., Tensor], sign: int = 1) -> Rule:
    """A sum or mean of elements of the first argument, with constant coefficients of one sign."""

    def magnitudes(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return sign * function(x, *args, **kwargs)

    def value(x: Interval, *args: Any, **kwargs: Any) -> Value:
        first, second = (x.low, x.high) if sign > 0 else (x.high, x.low)
        margin = gamma(x.low.numel()) * magnitudes(x.magnitude, *args, **kwargs)
        return outward(function(first, *args, **kwargs), function(second, *args, **kwargs), margin)

    def slopes(grad: Interval, x: Interval, *args: Any, **kwargs: Any) -> Pairs:
        rows = _pulled_back(lambda y: magnitudes(y, *args, **kwargs), x.shape, grad, grad.low[0].numel())
        yield x, rows if sign > 0 else Interval(-rows.high, -rows.low)

    def norms(x: Interval, *args: Any, **kwargs: Any) -> Norms:
        sums = magnitudes(torch.ones_like(x.low), *args, **kwargs)
        yield x, float(sums.max()) * (1 + gamma(x.low.numel()))

    return Rule(value, slopes, norms)


def curve(chosen: Curve | Pieces | Callable[..., Curve | Pieces]) -> Rule:
    """A function of one number, or the choice of one by the other arguments."""

    def function(*args: Any, **kwargs: Any) -> Curve | Pieces:
        return chosen if isinstance(chosen, Curve | Pieces) else chosen(*args, **kwargs)

    def value(x: Interval, *args: Any, **kwargs: Any) -> Value:
        _only(0, (x, *args), kwargs)
        return function(*args, **kwargs).value(x)

    def slopes(grad: Interval, x: Interval, *args: Any, **kwargs: Any) -> Pairs:
        yield x, multiply(grad, function(*args, **kwargs).slope(x))

    def norms(x: Interval, *args: Any, **kwargs: Any) -> Norms:
        yield x, float(function(*args, **kwargs).slope(x).magnitude.max())

    return Rule(value, slopes, norms)
