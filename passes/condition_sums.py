"""Rules of condition numbers of sums, softmax and losses.

A sum has ``sum |x| / |sum x|`` (Higham 2002, 4.1); softmax and its logarithm are those of Blanchard, Higham, Higham
2021, Accurately computing the log-sum-exp and softmax functions, element by element. Lines along the dimension are
taken whole.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from precc.passes.condition_rules import Rule, copied, in_two, is_real, linear, ratio
from precc.passes.condition_sample import Sampler
from precc.passes.interval_rules import WithoutRule

__all__ = ["SUMS"]

_aten = torch.ops.aten


def _dims(x: Tensor, dims: Any) -> Sequence[int]:
    if dims is None or dims == []:
        return range(x.dim())
    return [dims] if isinstance(dims, int) else list(dims)


def _summed(sampler: Sampler, y: Tensor, x: Tensor, dims: Any = None, *args: Any) -> tuple[Tensor]:
    return (sampler.lines(x, _dims(x, dims)),)


def _sum(lines: Tensor, **kwargs: Any) -> Tensor:
    return ratio(lines.abs().sum(-1).double(), lines.double().sum(-1))


def _norm(sampler: Sampler, y: Tensor, x: Tensor, order: float = 2, *args: Any, **kwargs: Any) -> Tensor:
    """1 for ``(sum |x|**p)**(1/p)``, p > 0: ``sum |x| |x|**(p-1) / |y|**p``."""
    if order <= 0:
        raise WithoutRule(f"a norm of order {order}")
    return copied(sampler.raw(y))


def _logsumexp(sampler: Sampler, y: Tensor, x: Tensor, dims: Any, *args: Any, **kwargs: Any) -> Tensor:
    lines = sampler.lines(x, _dims(x, dims)).double()
    return ratio(_weighted(lines.softmax(1), lines).sum(1), lines.logsumexp(1))


def _weighted(p: Tensor, x: Tensor) -> Tensor:
    """``p |x|``, 0 where p is: it goes to 0 faster than x to -infinity."""
    return torch.where(p == 0, 0.0, p * x.abs())


def _along(name: str, function: Callable[..., Tensor]) -> Rule:
    """Of a function of lines, and of a gradient's, for an op with the dimension behind them."""

    def taken(sampler: Sampler, y: Tensor, *args: Any) -> list[Tensor]:
        tensors = [own for own in args if isinstance(own, Tensor)]
        dim = args[len(tensors)]
        return [sampler.lines(own, [dim]) for own in tensors]

    return in_two(name, taken, lambda *lines, **kwargs: function(*(own.double() for own in lines)))


def _softmax(x: Tensor) -> Tensor:
    """``|x_i| (1 - p_i) + sum_(j != i) p_j |x_j|``; 0 where p_i is, and in lines without a finite number."""
    p = x.softmax(-1)
    terms = _weighted(p, x)
    others = (terms.sum(-1, keepdim=True) - terms).clamp_min(0)
    masked = (p == 0) | (x == -math.inf).all(-1, keepdim=True)
    return torch.where(masked, 0.0, (1 - p) * x.abs() + others)


def _log_softmax(x: Tensor) -> Tensor:
    """``(|x_i| (1 - p_i) + sum_(j != i) p_j |x_j|) / |x_i - lse|``."""
    p = x.softmax(-1)
    terms = _weighted(p, x)
    return ratio((1 - p) * x.abs() + (terms.sum(-1, keepdim=True) - terms).clamp_min(0), x.log_softmax(-1))


def _softmax_gradient(g: Tensor, y: Tensor) -> Tensor:
    """Of ``y_i (g_i - s)``, ``s = sum_j y_j g_j``: both g and y are arguments."""
    terms = (y * g).abs()
    s, others = (y * g).sum(-1, keepdim=True), terms.sum(-1, keepdim=True) - terms
    own = g.abs() * (1 - y).abs() + (g * (1 - y) - s).abs()
    return ratio(y.abs() * (own + 2 * others.clamp_min(0)), y * (g - s))


def _log_softmax_gradient(g: Tensor, y: Tensor) -> Tensor:
    """Of ``g_i - e**y_i sum_j g_j``."""
    p, total, sizes = y.exp(), g.sum(-1, keepdim=True), g.abs()
    others = p * (sizes.sum(-1, keepdim=True) - sizes).clamp_min(0)
    return ratio(sizes * (1 - p).abs() + others + _weighted(p, y) * total.abs(), g - p * total)


def _nll_loss(
    sampler: Sampler, y: Any, x: Tensor, target: Tensor, weight: Any, reduction: int, ignored: int
) -> tuple[Tensor, Tensor]:
    """A sum or mean of one element of each line; the second result is the number of labels."""
    if weight is not None:
        raise WithoutRule("a loss with weights of classes")
    known = target != ignored
    index = torch.where(known, target, 0).unsqueeze(1 if x.dim() > 1 else 0)
    picked = x.gather(1 if x.dim() > 1 else 0, index).squeeze(1 if x.dim() > 1 else 0).double() * known
    each = copied(sampler.raw(picked)) if reduction == 0 else ratio(picked.abs().sum(), picked.sum()).reshape(1)
    return each, torch.zeros(1, dtype=torch.float64, device=x.device)


def _nll_gradient(
    sampler: Sampler, y: Tensor, g: Tensor, x: Tensor, target: Tensor, weight: Any, reduction: int, *others: Any
) -> Tensor:
    """Of ``-g``, in a mean divided by the number of labels, at one place of each line."""
    if weight is not None:
        raise WithoutRule("a loss with weights of classes")
    return copied(sampler.raw(y)) * (1 + (reduction == 1))


def _logits_loss(
    sampler: Sampler, y: Tensor, x: Tensor, target: Tensor, weight: Any = None, positive: Any = None, reduction: int = 1
) -> Tensor:
    """Of ``(1 - t) x + log(1 + e**-x)``, the cross-entropy of logits."""
    if weight is not None or positive is not None:
        raise WithoutRule("a loss with weights")
    x, target = x.double(), target.double()
    sizes = (x * (x.sigmoid() - target)).abs() + (x * target).abs()
    return _reduced(sampler, sizes, (1 - target) * x + F.softplus(-x), reduction)


def _probability_loss(
    sampler: Sampler, y: Tensor, x: Tensor, target: Tensor, weight: Any = None, reduction: int = 1
) -> Tensor:
    """Of ``-w (t log x + (1 - t) log(1 - x))``, with logarithms of at least -100; perturbed, x would leave [0, 1]."""
    x, target = x.double(), target.double()
    positive, negative = x.log().clamp(min=-100), (-x).log1p().clamp(min=-100)
    loss = -(target * positive + (1 - target) * negative)
    of_x = torch.where(
        (x > 0) & (x < 1), (x - target).abs() / (1 - x), x * target
    )  # at the ends, of what is no constant
    sizes = of_x + (target * (positive - negative)).abs()
    if weight is not None:
        weight = weight.double().expand(loss.shape)
        sizes, loss = (sizes + loss.abs()) * weight.abs(), loss * weight
    return _reduced(sampler, sizes, loss, reduction)


def _mse_loss(sampler: Sampler, y: Tensor, a: Tensor, b: Tensor, reduction: int = 1) -> Tensor:
    """Of ``(a - b)**2``."""
    a, b = a.double(), b.double()
    return _reduced(sampler, 2 * (a - b).abs() * (a.abs() + b.abs()), (a - b).square(), reduction)


def _reduced(sampler: Sampler, numerator: Tensor, loss: Tensor, reduction: int) -> Tensor:
    if reduction == 0:
        return sampler.take(ratio(numerator, loss))
    return ratio(numerator.sum(), loss.sum()).reshape(1)


def _table_gradient(sampler: Sampler, y: Tensor, g: Tensor, index: Tensor, rows: int, *options: Any) -> Tensor:
    """Sums of rows of the gradient, for some columns."""
    columns = sampler.rows_of(g.shape[-1], max(rows, index.numel())).to(g.device)
    g = g[..., columns].double()
    return ratio(*(_aten.embedding_dense_backward(own, index, rows, *options) for own in (g.abs(), g))).flatten()


def _bags(sampler: Sampler, y: Any, table: Tensor, index: Tensor, offsets: Tensor, *options: Any) -> tuple[Any, ...]:
    """Sums or means of rows, for some columns; weights of samples have no rule."""
    if len(options) > 3 and is_real(options[3]):
        raise WithoutRule("a bag with weights of its samples")
    table = table[:, sampler.rows_of(table.shape[1], index.numel()).to(table.device)].double()
    numerator, values = (_aten._embedding_bag(own, index, offsets, *options)[0] for own in (table.abs(), table))
    highest = len(options) > 1 and options[1] == 2
    return (copied(values) if highest else ratio(numerator, values)).flatten(), None, None, None


def _pad(sampler: Sampler, y: Tensor, x: Tensor, pad: Any, value: float = 0.0) -> Tensor:
    if value:
        raise WithoutRule("padding by a number that is not 0")
    return copied(sampler.raw(y))


def _put(sampler: Sampler, y: Tensor, x: Tensor, index: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    if not accumulate:
        return copied(sampler.raw(y))
    sums = [
        _aten.index_put(a, index, b, True)
        for a, b in ((x.double().abs(), values.double().abs()), (x.double(), values.double()))
    ]
    return sampler.take(ratio(*sums))


_SUM = "sum: sum |x| / |sum x| (Higham 2002, 4.1)"
_SOFTMAX = "softmax: |x_i| (1 - p_i) + sum_(j != i) p_j |x_j| (Blanchard, Higham, Higham 2021)"
_LOG = "log-softmax: (|x_i| (1 - p_i) + sum_(j != i) p_j |x_j|) / |y_i| (Blanchard, Higham, Higham 2021)"
_LSE = "log-sum-exp: sum p_j |x_j| / |y| (Blanchard, Higham, Higham 2021)"
_CHAIN = "gradient of a softmax: sum of |x_j dy_i/dx_j| / |y_i|, all terms (chain rule)"
_LOSS = "loss: sum of |x_j dy/dx_j| / |y|, all terms (Higham 2002, 1.6)"
_COPY = "copy: 1 where y is not 0 (relative errors are kept as they are)"

#: Sums with coefficients of one sign, of which a few items of the batch are enough.
_BY_ITEM = (
    _aten.avg_pool2d.default,
    _aten._adaptive_avg_pool2d.default,
    _aten._adaptive_avg_pool2d_backward.default,
    _aten.avg_pool2d_backward.default,
    _aten.max_pool2d_with_indices_backward.default,
    _aten.upsample_bilinear2d.default,
)

_WHOLE = (
    _aten._embedding_bag_backward.default,
    _aten.cumsum.default,
    _aten.index_add.default,
    _aten.scatter_add.default,
)

#: Rules by op.
SUMS: dict[Any, Rule] = {
    **{op: linear(_SUM, op, by_item=True) for op in _BY_ITEM},
    **{op: linear(_SUM, op) for op in _WHOLE},
    **{
        op: in_two(_SUM, _summed, _sum)
        for op in (_aten.sum.default, _aten.sum.dim_IntList, _aten.mean.default, _aten.mean.dim)
    },
    _aten.linalg_vector_norm.default: Rule("norm: 1 (Higham 2002, 6.1)", _norm),
    _aten.logsumexp.default: Rule(_LSE, _logsumexp),
    _aten._softmax.default: _along(_SOFTMAX, _softmax),
    _aten._safe_softmax.default: _along(_SOFTMAX, _softmax),
    _aten._log_softmax.default: _along(_LOG, _log_softmax),
    _aten._softmax_backward_data.default: _along(_CHAIN, _softmax_gradient),
    _aten._log_softmax_backward_data.default: _along(_CHAIN, _log_softmax_gradient),
    _aten.nll_loss_forward.default: Rule(_LOSS, _nll_loss),
    _aten.nll_loss2d_forward.default: Rule(_LOSS, _nll_loss),
    _aten.nll_loss_backward.default: Rule(_LOSS, _nll_gradient),
    _aten.nll_loss2d_backward.default: Rule(_LOSS, _nll_gradient),
    _aten.binary_cross_entropy_with_logits.default: Rule(_LOSS, _logits_loss),
    _aten.binary_cross_entropy.default: Rule(_LOSS, _probability_loss),
    _aten.mse_loss.default: Rule(_LOSS, _mse_loss),
    _aten.embedding_dense_backward.default: Rule(_SUM, _table_gradient),
    _aten._embedding_bag.default: Rule(_SUM, _bags),
    _aten.constant_pad_nd.default: Rule(_COPY, _pad),
    _aten.index_put.default: Rule(_SUM, _put),
}
