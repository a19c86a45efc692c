"""Interval rules of ops on elements, and of ops that move, select or make values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from precc.analysis.curves import EXP, GELU, GELU_TANH, LOG, RSQRT, SIGMOID, SILU, SQRT, TANH, Curve, Pieces, power
from precc.analysis.intervals import Interval, add, divide, multiply, point, scale, square
from precc.passes.interval_rules import (
    Norms,
    Pairs,
    Rule,
    Value,
    WithoutRule,
    curve,
    interval,
    selection,
    unbroadcast,
)
from precc.round_op import ROUND

__all__ = ["CONSTANTS", "ELEMENTWISE", "SELECTIONS"]

_aten = torch.ops.aten


def _of_sum(x: Value, y: Value, sign: int, alpha: float) -> tuple[tuple[Value, float], ...]:
    return (x, 1.0), (y, sign * alpha)


def _sum(sign: int, *, swapped: bool = False) -> Rule:
    """``x + sign alpha y``; swapped: ``y + sign alpha x``."""

    def terms(x: Value, y: Value, alpha: float) -> tuple[tuple[Value, float], ...]:
        return _of_sum(y, x, sign, alpha) if swapped else _of_sum(x, y, sign, alpha)

    def value(x: Value, y: Value, alpha: float = 1) -> Value:
        first, second = (scale(interval(term), factor) for term, factor in terms(x, y, alpha))
        return add(first, second)

    def slopes(grad: Interval, x: Value, y: Value, alpha: float = 1) -> Pairs:
        for term, factor in terms(x, y, alpha):
            if isinstance(term, Interval):
                yield term, scale(unbroadcast(grad, term.shape), factor)

    def norms(x: Value, y: Value, alpha: float = 1) -> Norms:
        return ((term, abs(factor)) for term, factor in terms(x, y, alpha) if isinstance(term, Interval))

    return Rule(value, slopes, norms)


def _binary(value: Callable[[Value, Value], Value], partials: Callable[[Interval, Interval], tuple[Any, Any]]) -> Rule:
    """An op on two values, with the slopes with respect to each."""

    def pairs(x: Value, y: Value) -> list[tuple[Interval, Interval]]:
        found = zip((x, y), partials(interval(x), interval(y)), strict=True)
        return [(argument, slope) for argument, slope in found if isinstance(argument, Interval)]

    def slopes(grad: Interval, x: Value, y: Value) -> Pairs:
        for argument, slope in pairs(x, y):
            yield argument, unbroadcast(multiply(grad, slope), argument.shape)

    def norms(x: Value, y: Value) -> Norms:
        return ((argument, float(slope.magnitude.max())) for argument, slope in pairs(x, y))

    return Rule(value, slopes, norms)


def _product(x: Value, y: Value) -> Value:
    return square(x) if x is y else multiply(interval(x), interval(y))


def _quotient(x: Value, y: Value) -> Value:
    return divide(interval(x), interval(y))


def _quotient_partials(x: Interval, y: Interval) -> tuple[Interval, Interval]:
    """``x1/y1 - x0/y0 = (x1 - x0) / y1 - x0 (y1 - y0) / (y0 y1)``."""
    outer = divide(divide(x, y), y)
    return divide(point(1.0), y), Interval(-outer.high, -outer.low)


def _larger(x: Value, y: Value) -> Value:
    x, y = interval(x), interval(y)
    return Interval(torch.maximum(x.low, y.low), torch.maximum(x.high, y.high))


def _smaller(x: Value, y: Value) -> Value:
    x, y = interval(x), interval(y)
    return Interval(torch.minimum(x.low, y.low), torch.minimum(x.high, y.high))


def _shares(first_wins: Tensor, second_wins: Tensor) -> tuple[Interval, Interval]:
    """Slopes of a choice: 1 for the one that surely wins, 0 for the other one, and between them if it is open."""
    return (
        Interval(first_wins.double(), (~second_wins).double()),
        Interval((second_wins & ~first_wins).double(), (~first_wins).double()),
    )


def _larger_partials(x: Interval, y: Interval) -> tuple[Interval, Interval]:
    first = x.low >= y.high
    return _shares(first, (y.low >= x.high) & ~first)


def _smaller_partials(x: Interval, y: Interval) -> tuple[Interval, Interval]:
    first = x.high <= y.low
    return _shares(first, (y.high <= x.low) & ~first)


def _condition(chosen: Value) -> Tensor:
    if not isinstance(chosen, Tensor):
        raise WithoutRule("what is chosen depends on values that are intervals")
    return chosen


def _where(chosen: Value, x: Value, y: Value) -> Value:
    condition, first, second = _condition(chosen), interval(x), interval(y)
    return Interval(torch.where(condition, first.low, second.low), torch.where(condition, first.high, second.high))


def _where_slopes(grad: Interval, chosen: Value, x: Value, y: Value) -> Pairs:
    condition = _condition(chosen)
    for argument, own in ((x, condition), (y, ~condition)):
        if isinstance(argument, Interval):
            kept = grad.map(lambda end, own=own: torch.where(own, end, 0.0))  # type: ignore[misc]
            yield argument, unbroadcast(kept, argument.shape)


def _where_norms(chosen: Value, x: Value, y: Value) -> Norms:
    return ((argument, 1.0) for argument in (x, y) if isinstance(argument, Interval))


def _fill(x: Value, mask: Value, number: Value) -> Value:
    return _where(_condition(mask), number, x)


def _fill_slopes(grad: Interval, x: Value, mask: Value, number: Value) -> Pairs:
    return _where_slopes(grad, _condition(mask), number, x)


def _gelu(approximate: str = "none") -> Curve:
    return GELU if approximate == "none" else GELU_TANH


def _clamp(low: float | None = None, high: float | None = None) -> Pieces:
    breaks = tuple(float(end) for end in (low, high) if end is not None)
    if any(isinstance(end, Tensor | Interval) for end in (low, high)) or not breaks or breaks != tuple(sorted(breaks)):
        raise WithoutRule(f"clamped between {low} and {high}")
    slopes = (*(() if low is None else (0.0,)), 1.0, *(() if high is None else (0.0,)))
    return Pieces(lambda x: x.clamp(low, high), breaks, slopes)


def _leaky(slope: float = 0.01) -> Pieces:
    return Pieces(lambda x: torch.where(x > 0, x, x * slope), (0.0,), (slope, 1.0))


_RELU = Pieces(torch.relu, (0.0,), (0.0, 1.0))
_ABS = Pieces(torch.abs, (0.0,), (-1.0, 1.0))
_MINUS = Pieces(torch.neg, (), (-1.0,))


#: Rules of ops on elements.
ELEMENTWISE: dict[Any, Rule] = {
    _aten.abs.default: curve(_ABS),
    _aten.add.Scalar: _sum(1),
    _aten.add.Tensor: _sum(1),
    _aten.clamp.default: curve(_clamp),
    _aten.clamp_min.default: curve(lambda low: _clamp(low)),
    _aten.clamp_max.default: curve(lambda high: _clamp(None, high)),
    _aten.div.Scalar: _binary(_quotient, _quotient_partials),
    _aten.div.Tensor: _binary(_quotient, _quotient_partials),
    _aten.exp.default: curve(EXP),
    _aten.gelu.default: curve(_gelu),
    _aten.hardtanh.default: curve(lambda low=-1.0, high=1.0: _clamp(low, high)),
    _aten.leaky_relu.default: curve(_leaky),
    _aten.log.default: curve(LOG),
    _aten.masked_fill.Scalar: Rule(_fill, _fill_slopes, lambda x, mask, number: _where_norms(mask, x, number)),
    _aten.maximum.default: _binary(_larger, _larger_partials),
    _aten.minimum.default: _binary(_smaller, _smaller_partials),
    _aten.mul.Scalar: _binary(_product, lambda x, y: (y, x)),
    _aten.mul.Tensor: _binary(_product, lambda x, y: (y, x)),
    _aten.neg.default: curve(_MINUS),
    _aten.pow.Tensor_Scalar: curve(power),
    _aten.reciprocal.default: Rule(
        lambda x: _quotient(1.0, x),
        lambda grad, x: [(x, multiply(grad, _quotient_partials(point(1.0), x)[1]))],
        lambda x: [(x, float(_quotient_partials(point(1.0), x)[1].magnitude.max()))],
    ),
    _aten.relu.default: curve(_RELU),
    _aten.rsqrt.default: curve(RSQRT),
    _aten.rsub.Scalar: _sum(-1, swapped=True),
    _aten.sigmoid.default: curve(SIGMOID),
    _aten.silu.default: curve(SILU),
    _aten.sqrt.default: curve(SQRT),
    _aten.sub.Scalar: _sum(-1),
    _aten.sub.Tensor: _sum(-1),
    _aten.tanh.default: curve(TANH),
    _aten.where.self: Rule(_where, _where_slopes, _where_norms),
}


def _rows_of(weight: Tensor, indices: Tensor, *options: Any) -> Tensor:
    """An embedding; its gradient is here that of the value, also where training leaves a row as it is."""
    return weight[indices]


def _copied(x: Tensor, **options: Any) -> Tensor:
    """To another dtype: in exact arithmetic the same number; an integer becomes one of float64."""
    dtype = options.get("dtype") or x.dtype
    if x.is_floating_point() and not dtype.is_floating_point:
        raise WithoutRule(f"real numbers become {dtype}")
    return x.double() if dtype.is_floating_point else x.to(dtype)


def _joined(function: Callable[..., Tensor], split: Callable[..., Any], offset: int) -> Rule:
    """`torch.cat` or `torch.stack`; the dimension of rows is counted from 0 on, without their leading one."""

    def dimension(parts: list[Interval], dim: int) -> int:
        return dim % (parts[0].low.dim() + offset)

    def value(parts: list[Value], dim: int = 0) -> Value:
        if all(isinstance(part, Tensor) for part in parts):
            return function(parts, dim)
        known = [interval(part) for part in parts]
        return Interval(function([x.low for x in known], dim), function([x.high for x in known], dim))

    def slopes(grad: Interval, parts: list[Value], dim: int = 0) -> Pairs:
        known = [interval(part) for part in parts]
        along = dimension(known, dim) + 1
        lows, highs = split(grad.low, known, along), split(grad.high, known, along)
        found = zip(parts, lows, highs, strict=True)
        return ((part, Interval(low, high)) for part, low, high in found if isinstance(part, Interval))

    def norms(parts: list[Value], dim: int = 0) -> Norms:
        return ((part, 1.0) for part in parts if isinstance(part, Interval))

    return Rule(value, slopes, norms)


#: Rules of ops that move or select values, and of rounding, whose error is added to the interval apart.
SELECTIONS: dict[Any, Rule] = {
    ROUND: selection(lambda x, plan, row: x),
    _aten._to_copy.default: selection(_copied),
    _aten.detach.default: selection(lambda x: x),  # which cuts gradients, and no values
    _aten.cat.default: _joined(torch.cat, lambda g, parts, dim: g.split([x.shape[dim - 1] for x in parts], dim), 0),
    _aten.embedding.default: selection(_rows_of),
    _aten.stack.default: _joined(torch.stack, lambda g, parts, dim: g.unbind(dim), 1),
} | {
    op: selection(op)
    for op in (
        _aten._unsafe_view.default,
        _aten.alias.default,
        _aten.clone.default,
        _aten.constant_pad_nd.default,
        _aten.expand.default,
        _aten.flip.default,
        _aten.permute.default,
        _aten.repeat.default,
        _aten.reshape.default,
        _aten.select.int,
        _aten.slice.Tensor,
        _aten.split.Tensor,
        _aten.split_with_sizes.default,
        _aten.squeeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.t.default,
        _aten.transpose.int,
        _aten.tril.default,
        _aten.unbind.int,
        _aten.unsqueeze.default,
        _aten.view.default,
    )
}

#: Ops without interval arguments whose floats are exactly what they say.
CONSTANTS = frozenset(
    {
        _aten.arange.default,
        _aten.arange.start,
        _aten.arange.start_step,
        _aten.full.default,
        _aten.full_like.default,
        _aten.ones.default,
        _aten.ones_like.default,
        _aten.scalar_tensor.default,
        _aten.zeros.default,
        _aten.zeros_like.default,
    }
)
