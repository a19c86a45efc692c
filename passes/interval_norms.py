"""Interval rules of normalizations over a layer, groups of channels, or a batch.

``z = (x - mean) / sqrt(var + eps)`` along n elements, then ``y = z w + b``. Always ``|z| <= sqrt(n - 1)``. The slope
is ``rstd (g_j - mean g - z_j mean(g z))``: loose, for its parts are bounded apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precc.analysis.curves import RSQRT
from precc.analysis.intervals import Interval, add, gamma, intersect, multiply, outward, point, square, subtract, whole
from precc.passes.interval_rules import Norms, Pairs, Rule, Value, WithoutRule, first_of, unbroadcast

__all__ = ["NORMS"]

_aten = torch.ops.aten
_View = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a normalization sees its argument.

    Args:
        rows: the argument as [..., n], normalized along the last dimension.
        back: and back.
        affine: the shape in which weight and bias meet the argument.
        eps: added to the variance.
    """

    rows: _View
    back: _View
    affine: tuple[int, ...]
    eps: float


def _centered(x: Interval) -> Interval:
    """``x_i - mean x = (1 - 1/n) x_i - (sum of the others) / n`` along the last dimension."""
    low, high, size = x.low, x.high, x.magnitude
    spread = (high - low) / x.shape[-1]
    margin = gamma(x.shape[-1]) * (4 * size + size.mean(-1, keepdim=True))
    return outward(low - high.mean(-1, keepdim=True) + spread, high - low.mean(-1, keepdim=True) - spread, margin)


def _mean(x: Interval) -> Interval:
    margin = gamma(x.shape[-1]) * x.magnitude.mean(-1, keepdim=True)
    return outward(x.low.mean(-1, keepdim=True), x.high.mean(-1, keepdim=True), margin)


def _normalized(x: Interval, eps: float) -> tuple[Interval, Interval]:
    """``z`` and ``1 / sqrt(var + eps)``."""
    if eps <= 0:
        raise WithoutRule(f"a normalization with eps = {eps}")
    centered, most = _centered(x), math.sqrt(x.shape[-1] - 1) * (1 + 2.0**-50)
    variance = intersect(_mean(square(centered)), 0.0, math.inf)
    inverse = RSQRT.value(add(variance, point(eps)))
    return intersect(multiply(centered, inverse), -most, most), inverse


def _pulled(grad: Interval, z: Interval, inverse: Interval) -> Interval:
    correlation = multiply(z, _mean(multiply(grad, z)))
    return multiply(inverse, subtract(_centered(grad), correlation))


def _affine(x: Interval, weight: Interval | None, bias: Interval | None, shape: tuple[int, ...]) -> Interval:
    if weight is not None:
        x = multiply(x, weight.map(lambda end: end.view(shape)))
    return x if bias is None else add(x, bias.map(lambda end: end.view(shape)))


def _normalization(layout: _Layout, x: Interval, weight: Interval | None, bias: Interval | None) -> Interval:
    z, _ = _normalized(x.map(layout.rows), layout.eps)
    return _affine(z.map(layout.back), weight, bias, layout.affine)


def _affine_slopes(
    grad: Interval, z: Interval, weight: Interval | None, bias: Interval | None, shape: tuple[int, ...]
) -> tuple[Interval, list[tuple[Interval, Interval]]]:
    """Rows of z, and those of weight and bias."""
    found = []
    for argument, factor in ((weight, z), (bias, None)):
        if argument is not None:
            rows = grad if factor is None else multiply(grad, factor)
            own = unbroadcast(rows, shape).map(lambda end, of=argument: end.reshape(-1, *of.shape))  # type: ignore[misc]
            found.append((argument, own))
    return (grad if weight is None else multiply(grad, weight.map(lambda end: end.view(shape)))), found


def _normalization_slopes(
    grad: Interval, layout: _Layout, x: Interval, weight: Interval | None, bias: Interval | None
) -> Pairs:
    z, inverse = _normalized(x.map(layout.rows), layout.eps)
    inner, found = _affine_slopes(grad, z.map(layout.back), weight, bias, layout.affine)
    rows = _pulled(inner.map(torch.vmap(layout.rows)), z, inverse)
    yield x, rows.map(torch.vmap(layout.back))
    yield from found


def _normalization_norms(layout: _Layout, x: Interval, weight: Interval | None, bias: Interval | None) -> Norms:
    """``rstd |w_i| (2 + |z_i|)``, for the mean of all ``|z|`` is at most 1."""
    z, inverse = _normalized(x.map(layout.rows), layout.eps)
    sums = (inverse.high * (2 + z.magnitude) * (1 + 2.0**-50)).expand(z.shape)
    size = 1.0 if weight is None else weight.magnitude.view(layout.affine)
    yield x, float((layout.back(sums) * size).max()) * (1 + 2.0**-50)
    yield from _affine_norms(z, weight, bias)


def _affine_norms(z: Interval, weight: Interval | None, bias: Interval | None) -> Norms:
    if weight is not None:
        yield weight, float(z.magnitude.max())
    if bias is not None:
        yield bias, 1.0


def _over_layer(x: Interval, shape: list[int], weight: Any, bias: Any, eps: float) -> tuple[_Layout, Any, Any]:
    dims = len(shape)

    def back(rows: Tensor) -> Tensor:
        return rows.reshape(x.shape)

    return _Layout(lambda end: end.flatten(-dims), back, tuple(shape), eps), weight, bias


def _over_groups(
    x: Interval, weight: Any, bias: Any, batch: int, channels: int, size: int, groups: int, eps: float
) -> tuple[_Layout, Any, Any]:
    def rows(end: Tensor) -> Tensor:
        return end.reshape(batch * groups, -1)

    affine = (1, channels, *(1,) * (x.low.dim() - 2))
    return _Layout(rows, lambda end: end.reshape(x.shape), affine, eps), weight, bias


def _over_batch(
    x: Interval, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float
) -> tuple[_Layout, Any, Any]:
    if not training:
        raise WithoutRule("batch normalization by given statistics in the form of one that trains")
    moved = x.low.movedim(1, 0).shape

    def back(rows: Tensor) -> Tensor:
        return rows.reshape(moved).movedim(0, 1)

    affine = (1, x.shape[1], *(1,) * (x.low.dim() - 2))
    return _Layout(lambda end: end.movedim(1, 0).flatten(1), back, affine, eps), weight, bias


def _rule(layout: Callable[..., tuple[_Layout, Any, Any]], statistics: int) -> Rule:
    """Of its results the first one has bounds; the others, its statistics, have none."""

    def value(x: Interval, *others: Any) -> Value:
        return _normalization(*_arranged(layout, x, others)), *(whole(()) for _ in range(statistics))

    def slopes(grads: list[Interval | None], x: Interval, *others: Any) -> Pairs:
        return _normalization_slopes(first_of(grads), *_arranged(layout, x, others))

    def norms(x: Interval, *others: Any) -> Norms:
        return _normalization_norms(*_arranged(layout, x, others))

    return Rule(value, slopes, norms)


def _arranged(layout: Callable[..., tuple[_Layout, Any, Any]], x: Interval, others: tuple[Any, ...]) -> Any:
    chosen, weight, bias = layout(x, *others)
    return chosen, x, weight, bias


@dataclass(frozen=True, slots=True)
class _Standardized:
    """``z = (x - mean) r`` for ``r = 1 / sqrt(var + eps)``, and the shape in which mean and var meet x."""

    centered: Interval
    inverse: Interval
    inverse_slope: Interval
    shape: tuple[int, ...]

    @property
    def z(self) -> Interval:
        return multiply(self.centered, self.inverse)


def _standardized(x: Interval, mean: Interval, variance: Interval, eps: float) -> _Standardized:
    shape = (1, x.shape[1], *(1,) * (x.low.dim() - 2))
    mean, added = (own.map(lambda end: end.view(shape)) for own in (mean, add(variance, point(eps))))
    return _Standardized(subtract(x, mean), RSQRT.value(added), RSQRT.slope(added), shape)


def _by_statistics(x: Interval, weight: Any, bias: Any, mean: Interval, variance: Interval, *last: float) -> Value:
    found = _standardized(x, mean, variance, last[1])
    return _affine(found.z, weight, bias, found.shape), whole(()), whole(())


def _by_statistics_slopes(
    grads: list[Interval | None], x: Interval, weight: Any, bias: Any, mean: Interval, variance: Interval, *last: float
) -> Pairs:
    found = _standardized(x, mean, variance, last[1])
    inner, others = _affine_slopes(first_of(grads), found.z, weight, bias, found.shape)
    rows = multiply(inner, found.inverse)
    yield x, rows
    for argument, own in (
        (mean, Interval(-rows.high, -rows.low)),
        (variance, multiply(multiply(inner, found.centered), found.inverse_slope)),
    ):
        yield argument, unbroadcast(own, found.shape).map(lambda end: end.flatten(1))
    yield from others


def _by_statistics_norms(
    x: Interval, weight: Any, bias: Any, mean: Interval, variance: Interval, *last: float
) -> Norms:
    found = _standardized(x, mean, variance, last[1])
    size = point(1.0) if weight is None else weight.map(lambda end: end.view(found.shape))
    slope = float(multiply(found.inverse, size).magnitude.max())
    yield x, slope
    yield mean, slope
    yield variance, float(multiply(multiply(found.centered, found.inverse_slope), size).magnitude.max())
    yield from _affine_norms(found.z, weight, bias)


#: Rules of normalizations.
NORMS: dict[Any, Rule] = {
    _aten._native_batch_norm_legit_functional.default: _rule(_over_batch, 4),
    _aten._native_batch_norm_legit_no_training.default: Rule(
        _by_statistics, _by_statistics_slopes, _by_statistics_norms
    ),
    _aten.native_group_norm.default: _rule(_over_groups, 2),
    _aten.native_layer_norm.default: _rule(_over_layer, 2),
}
