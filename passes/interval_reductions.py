"""Interval rules of softmax and its kin, maxima and poolings, and losses."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from precc.analysis.intervals import (
    Interval,
    checked,
    down,
    gamma,
    intersect,
    multiply,
    outward,
    scale,
    square,
    subtract,
    up,
    whole,
)
from precc.passes.interval_rules import Norms, Pairs, Rule, Value, WithoutRule, exactly, first_of, linear, unbroadcast

__all__ = ["REDUCTIONS"]

_aten = torch.ops.aten

#: Above the relative errors of exp and log (`precc.analysis.curves`), and of what underflows in them.
_RELATIVE = 2.0**-48
_SMALLEST = 2.0**-1000


def _sum_of(x: Interval, dims: Any, *, keepdim: bool = True) -> Interval:
    """Its sum over dimensions."""
    margin = gamma(x.low.numel()) * x.magnitude.sum(dims, keepdim=keepdim)
    return outward(x.low.sum(dims, keepdim=keepdim), x.high.sum(dims, keepdim=keepdim), margin)


def _of_others(x: Tensor, dim: int) -> Tensor:
    """The sum of all other elements along a dimension, in which nothing cancels."""
    before = x.cumsum(dim).roll(1, dim)
    after = x.flip(dim).cumsum(dim).roll(1, dim).flip(dim)
    first = torch.arange(x.shape[dim], device=x.device) == 0
    shape = [-1 if d == dim % x.dim() else 1 for d in range(x.dim())]
    return torch.where(first.view(shape), 0.0, before) + torch.where(first.flip(0).view(shape), 0.0, after)


def _exponentials(x: Interval, dim: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """``exp(low - m), exp(high - m), m`` for m the largest high, and the relative error of sums of them."""
    most = x.high.amax(dim, keepdim=True)
    most = torch.where(most.isfinite(), most, 0.0)
    size = (most - x.low).clamp(0, 2000)  # of the rounding of low - m, which exp makes relative
    error = float(size.max() * 2.0**-52) + _RELATIVE + gamma(x.shape[dim])
    return torch.exp(x.low - most), torch.exp(x.high - most), most, error


def _softmax(x: Interval, dim: int, *options: Any) -> Interval:
    """``e^x_i / (e^x_i + sum of the others)``, which rises in x_i and falls in the others."""
    if x.low.dim() == 0:
        return Interval(torch.ones_like(x.low), torch.ones_like(x.high))
    low, high, _, error = _exponentials(x, dim)
    low, high = (low - _SMALLEST).clamp_min(0), high + _SMALLEST
    least = low / (low + _of_others(high, dim) + _SMALLEST) * (1 - 4 * error)
    most = high / (high + _of_others(low, dim)) * (1 + 4 * error)
    return intersect(outward(least, most), 0.0, 1.0)


def _softmax_slopes(grad: Interval, x: Interval, dim: int, *options: Any) -> Pairs:
    """``s_j (g_j - sum g_i s_i)``; the sum is a mean of the g_i."""
    if x.low.dim() == 0:
        return
    dim = dim % x.low.dim() + 1
    s = _softmax(x, dim - 1)
    mean = _sum_of(multiply(grad, s), dim)
    mean = intersect(mean, grad.low.amin(dim, keepdim=True), grad.high.amax(dim, keepdim=True))
    yield x, multiply(s, subtract(grad, mean))


def _softmax_norms(x: Interval, dim: int, *options: Any) -> Norms:
    """``2 s (1 - s)``, at most a half."""
    yield x, 0.5


def _log_softmax(x: Interval, dim: int, *options: Any) -> Interval:
    """``x_i - m - log(e^(x_i - m) + sum of the others)``."""
    low, high, most, error = _exponentials(x, dim)
    above, below = low + _of_others(high, dim), high + _of_others(low, dim)
    below = torch.where(below < _SMALLEST, 0.0, below)
    size = (x.magnitude + most.abs() + 4) * _RELATIVE
    least = x.low - most - torch.log(above + _SMALLEST)
    greatest = x.high - most - torch.log(below)
    margin = size + 4 * error + (least.abs() + greatest.abs().nan_to_num(0, 0, 0)) * _RELATIVE
    return intersect(checked(least - margin, greatest + margin), -float("inf"), 0.0)


def _log_softmax_slopes(grad: Interval, x: Interval, dim: int, *options: Any) -> Pairs:
    """``g_j - s_j sum g_i``."""
    dim = dim % x.low.dim() + 1
    yield x, subtract(grad, multiply(_softmax(x, dim - 1), _sum_of(grad, dim)))


def _log_softmax_norms(x: Interval, dim: int, *options: Any) -> Norms:
    """``2 (1 - s)``."""
    yield x, 2.0


def _kept(x: Tensor, dims: list[int], keepdim: bool, rows: int = 0) -> Tensor:
    """A reduced tensor with the reduced dimensions again, of size 1; behind so many of rows."""
    if keepdim:
        return x
    for dim in sorted(dims):
        x = x.unsqueeze(dim + rows)
    return x


def _dims(x: Interval, dims: Any) -> list[int]:
    given = dims if isinstance(dims, list | tuple) else [dims]
    return sorted(dim % x.low.dim() for dim in given) or list(range(x.low.dim()))


def _logsumexp(x: Interval, dims: Any, keepdim: bool = False) -> Interval:
    def at(end: Tensor) -> Tensor:
        return torch.logsumexp(end, _dims(x, dims), keepdim)

    low, high, error = at(x.low), at(x.high), gamma(x.low.numel()) + 4 * _RELATIVE
    return outward(low - error * (1 + low.abs()), high + error * (1 + high.abs()), _SMALLEST)


def _logsumexp_slopes(grad: Interval, x: Interval, dims: Any, keepdim: bool = False) -> Pairs:
    chosen = _dims(x, dims)
    if len(chosen) != 1:
        raise WithoutRule("logsumexp over several dimensions")
    yield x, multiply(grad.map(lambda end: _kept(end, chosen, keepdim, 1)), _softmax(x, chosen[0]))


def _chances(windows: Interval, dim: int) -> Interval:
    """Slopes of a maximum: 1 for the one that surely is it, in [0, 1] for those that may be, else 0."""
    candidates = windows.high >= windows.low.amax(dim, keepdim=True)
    alone = candidates.sum(dim, keepdim=True) == 1
    return Interval((candidates & alone).double(), candidates.double())


def _amax(x: Interval, dims: Any = (), keepdim: bool = False) -> Interval:
    return x.map(lambda end: end.amax(_dims(x, dims), keepdim))


def _amax_slopes(grad: Interval, x: Interval, dims: Any = (), keepdim: bool = False) -> Pairs:
    chosen = _dims(x, dims)
    moved = x.map(lambda end: end.movedim(chosen, list(range(len(chosen)))).flatten(0, len(chosen) - 1))
    shares = _chances(moved, 0).map(
        lambda end: end.unflatten(0, [x.shape[d] for d in chosen]).movedim(list(range(len(chosen))), chosen)
    )
    yield x, multiply(grad.map(lambda end: _kept(end, chosen, keepdim, 1)), shares)


def _window_places(shape: torch.Size, options: tuple[Any, ...]) -> Tensor:
    """Of each window (last) its places (before it) in a flat image with one more element, at its end, for padding."""
    defaults: tuple[Any, ...] = ((), (), 0, 1, False)
    kernel, stride, padding, dilation, ceil = (*options, *defaults[len(options) :])
    if ceil:
        raise WithoutRule("pooling with ceil_mode")
    height, width = shape[-2:]
    numbers = torch.arange(1, height * width + 1, dtype=torch.float64).view(1, 1, height, width)
    places = F.unfold(numbers, kernel, dilation, padding, stride or kernel)[0].long() - 1
    return torch.where(places < 0, height * width, places)


def _windows(x: Interval, places: Tensor) -> Interval:
    return x.map(lambda end: F.pad(end.flatten(-2), (0, 1), value=-float("inf"))[..., places])


def _max_pool(x: Interval, *options: Any) -> Value:
    """The maxima, and their places, of which nothing is known."""
    most = x.map(lambda end: F.max_pool2d(end, *options))
    return most, whole(most.shape)


def _max_pool_slopes(grads: list[Interval | None], x: Interval, *options: Any) -> Pairs:
    grad = first_of(grads)
    places = _window_places(x.shape, options)
    shares = _chances(_windows(x, places), -2)
    rows = multiply(grad.map(lambda end: end.flatten(-2).unsqueeze(-2)), shares)

    def back(end: Tensor) -> Tensor:
        sums = torch.zeros(*end.shape[:-2], x.shape[-2] * x.shape[-1] + 1, dtype=torch.float64)
        sums.index_add_(-1, places.flatten(), end.flatten(-2))
        return sums[..., :-1].reshape(*end.shape[:-2], *x.shape[-2:])

    if places.unique().numel() == places.numel():
        yield x, rows.map(back)
    else:
        yield x, outward(back(rows.low), back(rows.high), gamma(places.shape[0]) * back(rows.magnitude))


def _norm_1(x: Interval, *options: Any, **named: Any) -> Norms:
    yield x, 1.0


def _nll(x: Tensor, target: Tensor, weight: Value, reduction: int, ignored: int) -> Tensor:
    result: Tensor = _aten.nll_loss_forward.default(x, target, exactly(weight), reduction, ignored)[0]
    return result


_NLL = linear(_nll, -1)


def _nll_value(x: Interval, target: Tensor, weight: Value, reduction: int, ignored: int) -> Value:
    own = exactly(weight)
    if isinstance(target, Interval):
        raise WithoutRule("classes that are not known exactly")
    if own is not None and bool((own < 0).any()):
        raise WithoutRule("negative weights of classes")
    total = _aten.nll_loss_forward.default(x.low, target, own, reduction, ignored)[1]
    found = _NLL.value(x, target, weight, reduction, ignored)
    margin = gamma(target.numel()) * total
    return found, outward(total, total, margin)


def _nll_slopes(grads: list[Interval | None], x: Interval, *others: Any) -> Pairs:
    return _NLL.slopes(first_of(grads), x, *others)


def _error_sum(x: Interval, y: Interval, reduction: int = 1) -> Value:
    squares = square(subtract(x, y))
    if reduction == 0:
        return squares
    total = _sum_of(squares, list(range(squares.low.dim())), keepdim=False)
    return total if reduction == 2 else multiply(total, _share(squares))


def _share(x: Interval) -> Interval:
    part = torch.tensor(1 / x.low.numel(), dtype=torch.float64)
    return Interval(down(part), up(part))


def _error_slopes(grad: Interval, x: Interval, y: Interval, reduction: int = 1) -> Pairs:
    """``d1**2 - d0**2 = (d1 + d0) (d1 - d0)`` for ``d = x - y``."""
    difference = subtract(x, y)
    if reduction != 0:
        grad = grad.map(lambda end: end.reshape(-1, *(1,) * difference.low.dim()))
    rows = multiply(grad, scale(difference, 2.0))
    rows = multiply(rows, _share(difference)) if reduction == 1 else rows
    yield x, unbroadcast(rows, x.shape)
    yield y, unbroadcast(Interval(-rows.high, -rows.low), y.shape)


def _sum_all(x: Tensor, dims: Any = None, keepdim: bool = False, **options: Any) -> Tensor:
    return x.sum(dims or list(range(x.dim())), keepdim=keepdim)


def _mean(x: Tensor, dims: Any = None, keepdim: bool = False, **options: Any) -> Tensor:
    return x.mean(dims or list(range(x.dim())), keepdim=keepdim)


def _average(x: Tensor, *options: Any) -> Tensor:
    result: Tensor = _aten.avg_pool2d.default(x, *options)
    return result


#: Rules of reductions.
REDUCTIONS: dict[Any, Rule] = {
    _aten._adaptive_avg_pool2d.default: linear(_aten._adaptive_avg_pool2d.default),
    _aten._log_softmax.default: Rule(_log_softmax, _log_softmax_slopes, _log_softmax_norms),
    _aten._safe_softmax.default: Rule(_softmax, _softmax_slopes, _softmax_norms),
    _aten._softmax.default: Rule(_softmax, _softmax_slopes, _softmax_norms),
    _aten.amax.default: Rule(_amax, _amax_slopes, _norm_1),
    _aten.avg_pool2d.default: linear(_average),
    _aten.logsumexp.default: Rule(_logsumexp, _logsumexp_slopes, _norm_1),
    _aten.max_pool2d_with_indices.default: Rule(_max_pool, _max_pool_slopes, _norm_1),
    _aten.mean.default: linear(_mean),
    _aten.mean.dim: linear(_mean),
    _aten.mse_loss.default: Rule(_error_sum, _error_slopes),
    _aten.nll_loss_forward.default: Rule(_nll_value, _nll_slopes, _NLL.norms),
    _aten.sum.default: linear(_sum_all),
    _aten.sum.dim_IntList: linear(_sum_all),
}
