"""Interval rules of products of matrices and of convolutions: ``x1 y1 - x0 y0 = (x1 - x0) y1 + x0 (y1 - y0)``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from precc.analysis.intervals import Interval, add, bilinear, scale
from precc.passes.interval_rules import Norms, Pairs, Rule, Value, unbroadcast

__all__ = ["PRODUCT_RULES"]

_aten = torch.ops.aten


def _matmul(x: Interval, y: Interval) -> Interval:
    return bilinear(torch.matmul, x, y, x.shape[-1])


def _transposed(x: Interval) -> Interval:
    return x.map(lambda end: end.mT)


def _product_slopes(grad: Interval, x: Interval, y: Interval) -> Pairs:
    yield x, _matmul(grad, _transposed(y))
    yield y, _matmul(_transposed(x), grad)


def _product_norms(x: Interval, y: Interval) -> Norms:
    yield x, _largest(torch.matmul, torch.ones_like(x.low), y.magnitude, x.shape[-1])
    yield y, _largest(torch.matmul, x.magnitude, torch.ones_like(y.low), x.shape[-1])


def _largest(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, terms: int) -> float:
    return float(bilinear(function, Interval(x, x), Interval(y, y), terms).high.max())


def _added(bias: Interval, x: Interval, y: Interval, *, beta: float = 1, alpha: float = 1) -> Value:
    return add(scale(bias, beta), scale(_matmul(x, y), alpha))


def _added_slopes(
    grad: Interval, bias: Interval, x: Interval, y: Interval, *, beta: float = 1, alpha: float = 1
) -> Pairs:
    yield bias, scale(unbroadcast(grad, bias.shape), beta)
    yield from _product_slopes(scale(grad, alpha), x, y)


def _added_norms(bias: Interval, x: Interval, y: Interval, *, beta: float = 1, alpha: float = 1) -> Norms:
    yield bias, abs(beta)
    for argument, norm in _product_norms(x, y):
        yield argument, norm * abs(alpha) * (1 + 2.0**-50)


def _convolved(*options: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def function(x: Tensor, weight: Tensor) -> Tensor:
        result: Tensor = _aten.convolution.default(x, weight, None, *options)
        return result

    return function


def _terms(weight: Interval, transposed: bool) -> int:
    """Products in a sum: those of one filter; of a transposed one with all of the channels that it reads."""
    return weight.low.numel() // max(1, 1 if transposed else weight.shape[0])


def _convolution(x: Interval, weight: Interval, bias: Interval | None, *options: Any) -> Value:
    product = bilinear(_convolved(*options), x, weight, _terms(weight, options[3]))
    return product if bias is None else add(product, bias.map(lambda end: end.view(-1, *(1,) * (weight.low.dim() - 2))))


def _convolution_slopes(grad: Interval, x: Interval, weight: Interval, bias: Interval | None, *options: Any) -> Pairs:
    def back(wanted: int, rows: Tensor, own_x: Tensor, own_weight: Tensor) -> Tensor:
        mask = [wanted == 0, wanted == 1, False]
        grads = [_aten.convolution_backward(row, own_x, own_weight, None, *options, mask)[wanted] for row in rows]
        return torch.stack(grads)

    def for_input(rows: Tensor, own_weight: Tensor) -> Tensor:
        return back(0, rows, x.low, own_weight)

    def for_weight(rows: Tensor, own_x: Tensor) -> Tensor:
        return back(1, rows, own_x, weight.low)

    yield x, bilinear(for_input, grad, weight, weight.low.numel())
    yield weight, bilinear(for_weight, grad, x, grad.low[0].numel())
    if bias is not None:
        shape = (len(bias.low), *(1,) * (grad.low.dim() - 3))
        yield bias, unbroadcast(grad, shape).map(lambda end: end.flatten(1))


def _convolution_norms(x: Interval, weight: Interval, bias: Interval | None, *options: Any) -> Norms:
    function, terms = _convolved(*options), _terms(weight, options[3])
    yield x, _largest(function, torch.ones_like(x.low), weight.magnitude, terms)
    yield weight, _largest(function, x.magnitude, torch.ones_like(weight.low), terms)
    if bias is not None:
        yield bias, 1.0


#: Rules of products.
PRODUCT_RULES: dict[Any, Rule] = {
    _aten.addmm.default: Rule(_added, _added_slopes, _added_norms),
    _aten.baddbmm.default: Rule(_added, _added_slopes, _added_norms),
    _aten.bmm.default: Rule(_matmul, _product_slopes, _product_norms),
    _aten.convolution.default: Rule(_convolution, _convolution_slopes, _convolution_norms),
    _aten.mm.default: Rule(_matmul, _product_slopes, _product_norms),
}
