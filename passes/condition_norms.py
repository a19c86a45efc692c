"""Rules of condition numbers of normalizations and their gradients, upper bounds by the triangle inequality.

``z_i = (x_i - mean) r`` with ``r = 1 / sqrt(var + eps)`` along a line of n elements, ``y_i = w_i z_i + b_i``. Since
``dz_i/dx_j = r (delta_ij - (1 + z_i z_j) / n)``, the numerator for x is at most ``r`` times
``|x_i| |1 - (1 + z_i z_i) / n| + sum_(j != i) (1 + |z_i z_j|) |x_j| / n``. A gradient reads mean and r as arguments.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precc.passes.condition_rules import Rule, ratio
from precc.passes.condition_sample import Sampler
from precc.passes.interval_rules import WithoutRule

__all__ = ["NORM_RULES"]

_aten = torch.ops.aten
_Maybe = Tensor | None


@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines of a normalization, whole, and what of others belongs to them.

    Args:
        of: a tensor in the shape of x to its lines ``[lines, n]``.
        affine: weight or bias to what meets the lines, ``[lines or 1, n or 1]``.
        statistic: a statistic of each line to ``[lines, 1]``.
    """

    of: Callable[[Tensor], Tensor]
    affine: Callable[[Tensor], Tensor]
    statistic: Callable[[Tensor], Tensor]


def _affine(lines: _Lines, own: _Maybe, without: float, few: Tensor) -> Tensor:
    """Weight or bias as it meets these elements of the lines."""
    if own is None:
        return torch.full((1, 1), without, dtype=torch.float64, device=few.device)
    met = lines.affine(own)
    return (met if met.shape[1] == 1 else met[:, few]).double()


def _mean(x: Tensor) -> Tensor:
    """Of numbers of both signs, which may cancel."""
    return x.double().mean(1, keepdim=True)


def _mean_size(x: Tensor) -> Tensor:
    """Of numbers that are at least 0, in their own precision."""
    return x.mean(1, keepdim=True).double()


def _forward(
    sampler: Sampler, lines: _Lines, x: Tensor, weight: _Maybe, bias: _Maybe, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of y, for some elements of each line of x; of the mean, and r, which are exact."""
    mean, sizes, count = _mean(x), x.abs(), x.shape[1]
    centered = x - mean.to(x)
    inverse = (_mean_size(centered.square()) + eps).rsqrt()
    mean_size, correlation = _mean_size(sizes), _mean_size(centered.abs_().mul_(sizes)) * inverse
    few = sampler.columns_of(x)
    scale, shift = _affine(lines, weight, 1.0, few), _affine(lines, bias, 0.0, few)
    taken = x[:, few].double()
    z = (taken - mean) * inverse
    own = (1 + z * z) / count
    of_x = inverse * (taken.abs() * ((1 - own).abs() - own) + mean_size + z.abs() * correlation).clamp_min_(0)
    of_y = ratio(scale.abs() * (of_x + z.abs() * (weight is not None)) + shift.abs(), scale * z + shift)
    return of_y.flatten(), ratio(mean_size, mean).flatten(), (inverse * correlation).flatten()


def _layer_lines(sampler: Sampler, x: Tensor, shape: Sequence[int]) -> _Lines:
    dims = range(x.dim() - len(shape), x.dim())

    terms = math.prod(shape)
    return _Lines(
        lambda own: sampler.lines(own, dims),
        lambda own: own.reshape(1, -1),
        lambda own: sampler.lines(own, dims, terms),
    )


def _channel_lines(sampler: Sampler, x: Tensor) -> _Lines:
    dims = [dim for dim in range(x.dim()) if dim != 1]

    def of_channel(own: Tensor) -> Tensor:
        return sampler.lines(own.view(-1, 1), [1], x.numel() // x.shape[1])

    return _Lines(lambda own: sampler.lines(own, dims), of_channel, of_channel)


def _group_lines(sampler: Sampler, sizes: Sequence[int]) -> _Lines:
    batch, channels, space, groups = sizes
    shape = (batch, groups, channels // groups, space)

    def of(own: Tensor) -> Tensor:
        return sampler.lines(own.reshape(shape), [2, 3])

    def affine(own: Tensor) -> Tensor:
        return of(own.view(1, groups, channels // groups, 1).expand(shape))

    def statistic(own: Tensor) -> Tensor:
        return sampler.lines(own.reshape(batch, groups, 1, 1), [2, 3], shape[2] * space)

    return _Lines(of, affine, statistic)


def _layer(
    sampler: Sampler, y: Any, x: Tensor, shape: Sequence[int], weight: _Maybe, bias: _Maybe, eps: float
) -> tuple[Tensor, ...]:
    lines = _layer_lines(sampler, x, shape)
    return _forward(sampler, lines, lines.of(x), weight, bias, eps)


def _group(sampler: Sampler, y: Any, x: Tensor, weight: _Maybe, bias: _Maybe, *last: Any) -> tuple[Tensor, ...]:
    lines = _group_lines(sampler, last[:4])
    return _forward(sampler, lines, lines.of(x), weight, bias, last[4])


def _batch(
    sampler: Sampler,
    y: Any,
    x: Tensor,
    weight: _Maybe,
    bias: _Maybe,
    mean: Tensor,
    variance: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, ...]:
    if not training:
        raise WithoutRule("batch normalization by given statistics in the form of one that trains")
    lines = _channel_lines(sampler, x)
    own, count = lines.of(x), x.numel() // x.shape[1]
    centered = own - _mean(own).to(own)
    old = [(1 - momentum) * lines.statistic(statistic).double() for statistic in (mean, variance)]
    unbiased = momentum * count / (count - 1)
    new = momentum * _mean(own), unbiased * _mean_size(centered.square())
    sizes = momentum * _mean_size(own.abs()), 2 * unbiased * _mean_size((centered * own).abs_())
    running = [ratio(a.abs() + b, a + c).flatten() for a, b, c in zip(old, sizes, new, strict=True)]
    return *_forward(sampler, lines, own, weight, bias, eps), *running


def _by_statistics(
    sampler: Sampler, y: Any, x: Tensor, weight: _Maybe, bias: _Maybe, mean: Tensor, variance: Tensor, *last: float
) -> tuple[_Maybe, ...]:
    """Elementwise in x, mean and variance: ``d r / d var = -r / (2 (var + eps))``. Exact."""
    lines = _channel_lines(sampler, x)
    x, mean, variance = (own.double() for own in (lines.of(x), lines.statistic(mean), lines.statistic(variance)))
    inverse = (variance + last[1]).rsqrt()
    z = (x - mean) * inverse
    every = torch.arange(x.shape[1], device=x.device)
    scale, shift = _affine(lines, weight, 1.0, every), _affine(lines, bias, 0.0, every)
    parts = inverse * (x.abs() + mean.abs()) + z.abs() * variance / (2 * (variance + last[1]))
    parts = parts + z.abs() * (weight is not None)
    return ratio(scale.abs() * parts + shift.abs(), scale * z + shift).flatten(), None, None


def _backward(
    sampler: Sampler, lines: _Lines, grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: _Maybe
) -> Tensor:
    """Of ``r (g_i - mean g - z_i mean(g z))``, g being the gradient times the weight: in g, w, x, mean and r.

    The gradient and x are lines, of which some elements are taken.
    """
    mean, inverse = lines.statistic(mean), lines.statistic(inverse)
    g = grad if weight is None else grad * lines.affine(weight)
    products, sizes, few = (x - mean) * inverse * g, g.abs(), sampler.columns_of(x)
    correlation, average, spread = _mean(products), _mean(g), _mean_size(sizes * x.abs())
    mean_size, mean_product = _mean_size(sizes), _mean_size(products.abs_())
    x, g, mean, inverse = x[:, few].double(), g[:, few].double(), mean.double(), inverse.double()
    z = (x - mean) * inverse
    of_g = (g.abs() + mean_size + z.abs() * mean_product) * (1 if weight is None else 2)
    of_inverse = (g - average - 3 * z * correlation).abs()
    of_x = inverse * (x.abs() * correlation.abs() + z.abs() * spread)
    of_mean = inverse * mean.abs() * (correlation + z * average).abs()
    return ratio(inverse * (of_g + of_inverse + of_x + of_mean), inverse * (g - average - z * correlation)).flatten()


def _sums(g: Tensor, x: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``sum g z`` in g, x, mean and r, and of ``sum g``, along lines."""
    sizes, products = g.abs(), (x - mean) * inverse * g
    of_weight = (x.abs() + mean.abs()).mul_(inverse).mul_(sizes)
    pairs = (_mean_size(of_weight) + 2 * _mean_size(products.abs()), _mean(products)), (_mean_size(sizes), _mean(g))
    of_sums = [ratio(*pair).flatten() for pair in pairs]
    return of_sums[0], of_sums[1]


def _layer_backward(
    sampler: Sampler,
    y: Any,
    grad: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    inverse: Tensor,
    weight: _Maybe,
    bias: _Maybe,
    mask: Sequence[bool],
) -> tuple[_Maybe, ...]:
    outer = range(x.dim() - len(shape))
    lines = _layer_lines(sampler, x, shape)
    found = _backward(sampler, lines, lines.of(grad), lines.of(x), mean, inverse, weight) if mask[0] else None
    g, own = sampler.lines(grad, outer), sampler.lines(x, outer)
    return found, *_sums(g, own, mean.reshape(1, -1), inverse.reshape(1, -1))


def _group_backward(
    sampler: Sampler, y: Any, grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: _Maybe, *last: Any
) -> tuple[_Maybe, ...]:
    batch, channels, space, groups = last[:4]
    shape = (batch, groups, channels // groups, space)
    lines = _group_lines(sampler, last[:4])
    found = _backward(sampler, lines, lines.of(grad), lines.of(x), mean, inverse, weight) if last[4][0] else None
    statistics = (own.reshape(batch, groups, 1, 1) for own in (mean, inverse))
    tensors = (grad.reshape(shape), x.reshape(shape), *statistics)
    g, own, mean, inverse = (sampler.lines(part.expand(shape), [0, 3]) for part in tensors)
    return found, *_sums(g, own, mean, inverse)


def _batch_backward(
    sampler: Sampler,
    y: Any,
    grad: Tensor,
    x: Tensor,
    weight: _Maybe,
    running: Any,
    variance: Any,
    mean: Tensor,
    inverse: Tensor,
    training: bool,
    eps: float,
    mask: Sequence[bool],
) -> tuple[_Maybe, ...]:
    if not training:
        raise WithoutRule("a gradient of batch normalization by given statistics")
    lines = _channel_lines(sampler, x)
    g, own = lines.of(grad), lines.of(x)
    found = _backward(sampler, lines, g, own, mean, inverse, weight) if mask[0] else None
    return found, *_sums(g, own, lines.statistic(mean), lines.statistic(inverse))


_NAME = "normalization: sums of magnitudes in dz_i/dx_j (triangle inequality; Higham 2002, 1.6)"
_EXACT = "normalization by given statistics: sum |x_j dy_i/dx_j| / |y_i| (Higham 2002, 1.6)"
_GRADIENT = "gradient of a normalization: sums of magnitudes of its terms (triangle inequality; Higham 2002, 1.6)"

#: Rules by op.
NORM_RULES: dict[Any, Rule] = {
    _aten.native_layer_norm.default: Rule(_NAME, _layer, bound=True),
    _aten.native_group_norm.default: Rule(_NAME, _group, bound=True),
    _aten._native_batch_norm_legit_functional.default: Rule(_NAME, _batch, bound=True),
    _aten._native_batch_norm_legit_no_training.default: Rule(_EXACT, _by_statistics),
    _aten.native_layer_norm_backward.default: Rule(_GRADIENT, _layer_backward, bound=True),
    _aten.native_group_norm_backward.default: Rule(_GRADIENT, _group_backward, bound=True),
    _aten.native_batch_norm_backward.default: Rule(_GRADIENT, _batch_backward, bound=True),
}
