"""Gains in closed form: the mean square of ``J_k n`` for white noise n of mean square 1, of each argument of an op.

Where a formula has squares of values beside others (those that a filter meets near a border, the weights of a layer
norm beside its inverse deviations), the two are taken as independent: their means are multiplied. Softmax is looked at
in some of its lines. Second order in the noise is left out.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.passes.condition_rules import is_real
from precc.passes.condition_sample import Sampler

__all__ = ["GAIN_RULES", "Call", "GainRule", "gain_of_differences"]

_STEP = 2.0**-10  # of the root mean square


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an op.

    Args:
        args: as in the graph, nodes among them.
        kwargs: likewise.
        value: of each node.
        square: mean square of a node's values.
        y: the result, or one of several.
        results: all of them.
        sampler: chooses lines.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    value: Callable[[Node], Any]
    square: Callable[[Node], float]
    y: Tensor
    results: Any
    sampler: Sampler

    def mean_square(self, position: int) -> float:
        """Of an argument; a number in the graph has its own."""
        own = self.args[position]
        return self.square(own) if isinstance(own, Node) else float(own) ** 2

    def tensor(self, position: int) -> Tensor | None:
        """An argument's value."""
        own = self.args[position]
        return self.value(own) if isinstance(own, Node) else None

    def mean_weight(self, position: int) -> float:
        """Mean square of an argument that is 1 where there is none."""
        return 1.0 if self.args[position] is None else self.mean_square(position)


#: Of a call to G**2 by the position of the argument, in lists by pairs; None where the formula does not hold.
GainRule = Callable[[Call], Mapping[Any, float] | None]


def _ones(call: Call) -> Mapping[Any, float]:
    """A copy of the first argument, or of a part of it."""
    return {0: 1.0}


def _parts(call: Call) -> Mapping[Any, float]:
    """Of tensors one behind the other."""
    return {(0, at): call.value(own).numel() / call.y.numel() for at, own in enumerate(call.args[0])}


def _padded(call: Call) -> Mapping[Any, float] | None:
    """Of what the result holds as a whole, beside constants."""
    x = call.tensor(0)
    return None if x is None or min(call.args[1]) < 0 else {0: x.numel() / call.y.numel()}


def _of_sum(first: int) -> GainRule:
    """Of ``a + alpha b``; the one without the factor stands at `first`."""

    def gains(call: Call) -> Mapping[Any, float]:
        alpha = call.kwargs.get("alpha", call.args[2] if len(call.args) > 2 else 1)
        return {first: 1.0, 1 - first: float(alpha) ** 2}

    return gains


def _mul(call: Call) -> Mapping[Any, float]:
    return {0: call.mean_square(1), 1: call.mean_square(0)}


def _div(call: Call) -> Mapping[Any, float] | None:
    return {0: 1 / float(call.args[1]) ** 2} if call.args[1] else None


def _mean(call: Call) -> Mapping[Any, float] | None:
    x = call.tensor(0)
    return None if x is None or not x.numel() else {0: call.y.numel() / x.numel()}


def _sum(call: Call) -> Mapping[Any, float] | None:
    x = call.tensor(0)
    return None if x is None or not call.y.numel() else {0: x.numel() / call.y.numel()}


def _dropout(call: Call) -> Mapping[Any, float] | None:
    share, training = call.args[1], call.args[2]
    if not training:
        return {0: 1.0}
    return None if share == 1 else {0: float(call.results[1].double().mean()) / (1 - share) ** 2}


def _softmax(call: Call) -> Mapping[Any, float]:
    """``sum_j (p_i (delta_ij - p_j))**2 = p_i**2 (1 - 2 p_i + S)`` with ``S = sum p_j**2``."""
    p = call.sampler.lines(call.y, [call.args[1]])
    squares = p.square()
    total = squares.sum(1)
    return {0: float((total + total.square() - 2 * (squares * p).sum(1)).mean()) / p.shape[1]}


def _log_softmax(call: Call) -> Mapping[Any, float]:
    """``sum_j (delta_ij - p_j)**2 = 1 - 2 p_i + S``."""
    p = call.sampler.lines(call.y, [call.args[1]]).exp()
    return {0: 1 - 2 / p.shape[1] + float(p.square().sum(1).mean())}


def _probability_loss(call: Call) -> Mapping[Any, float]:
    """``(dL/dx)**2`` and ``(dL/dt)**2`` of a cross-entropy of probabilities x and targets t, summed over elements."""
    x, target = call.tensor(0), call.tensor(1)
    assert x is not None
    assert target is not None
    x, target = x.double(), target.double()
    of_x = (x - target) / (x * (1 - x)).clamp(min=1e-12)  # as in torch
    of_target = (-x).log1p().clamp(min=-100) - x.log().clamp(min=-100)
    weight = call.tensor(2) if len(call.args) > 2 else None
    scale = 1.0 if weight is None else weight.double()
    is_mean = len(call.args) < 4 or call.args[3] == 1
    share = 1 / x.numel() ** 2 if is_mean else 1.0
    return {
        position: float((own * scale).square().sum()) * share / call.y.numel()
        for position, own in enumerate((of_x, of_target))
    }


def _along_lines(inverse: Tensor, eps: float, count: int) -> tuple[Tensor, Tensor]:
    """Of ``z = (x - mean) r``: ``r**2 (1 - (1 + 2 q - q**2) / n)``, and ``q = r**2 var``, the mean square of z."""
    inverse = inverse.double()
    q = 1 - inverse.square() * eps
    return inverse.square() * (1 - (1 + 2 * q - q * q) / count), q


def _batch_norm(call: Call) -> Mapping[Any, float] | None:
    _, weight, *_, training, _, eps = call.args
    if not training:
        return None
    gains, q = _along_lines(call.results[2], eps, call.y.numel() // call.y.shape[1])
    if weight is not None:
        gains = gains * call.value(weight).double().square()
    return {0: float(gains.mean()), 1: float(q.mean()), 2: 1.0}


def _layer_norm(call: Call) -> Mapping[Any, float]:
    gains, q = _along_lines(call.results[2], call.args[4], math.prod(call.args[1]))
    return {0: float(gains.mean()) * call.mean_weight(2), 2: float(q.mean()), 3: 1.0}


def _group_norm(call: Call) -> Mapping[Any, float]:
    channels, space, groups, eps = call.args[4:8]
    gains, q = _along_lines(call.results[2], eps, channels // groups * space)
    return {0: float(gains.mean()) * call.mean_weight(1), 1: float(q.mean()), 2: 1.0}


def _of_first(rule: GainRule) -> GainRule:
    """Of ops whose other results are integers, masks or statistics."""
    return lambda call: rule(call) if call.y is call.results[0] else None


def _added(rule: GainRule) -> GainRule:
    """Of a product to which its first argument is added."""

    def gains(call: Call) -> Mapping[Any, float]:
        alpha, beta = (float(call.kwargs.get(name, 1)) for name in ("alpha", "beta"))
        plain = rule(call)
        assert plain is not None
        return {0: beta * beta, **{position: alpha * alpha * gain for position, gain in plain.items()}}

    return gains


def _product(a: int, b: int) -> GainRule:
    """Of a matrix product: sums of so many terms each."""

    def gains(call: Call) -> Mapping[Any, float]:
        left = call.tensor(a)
        assert left is not None
        terms = left.shape[-1]
        return {a: terms * call.mean_square(b), b: terms * call.mean_square(a)}

    return gains


def _convolution(call: Call) -> Mapping[Any, float]:
    """Of sums over those taps of the filter that meet the input: near a border they are fewer."""
    x, weight = call.tensor(0), call.tensor(1)
    assert x is not None
    assert weight is not None
    stride, padding, dilation, transposed, _, groups = call.args[3:9]
    small, large = (x, call.y) if transposed else (call.y, x)
    meetings = 1
    met = torch.ones((), dtype=torch.float64, device=x.device)
    for dim, taps in enumerate(weight.shape[2:]):
        step, edge, apart = (own[dim if len(own) > 1 else 0] for own in (stride, padding, dilation))
        counts = _meetings(taps, small.shape[2 + dim], large.shape[2 + dim], step, edge, apart).to(x.device)
        meetings *= int(counts.sum())
        met = met.unsqueeze(-1) * counts
    of_x = float((weight.double().square().sum((0, 1)) * met).sum()) * len(x) / call.y.numel()
    channels = x.shape[1] * call.y.shape[1] // groups
    of_weight = call.mean_square(0) * len(x) * channels * meetings / call.y.numel()
    return {0: of_x, 1: of_weight, 2: 1.0}


def _meetings(taps: int, small: int, large: int, stride: int, padding: int, dilation: int) -> Tensor:
    """At how many places of the smaller side each tap meets the larger one."""
    at = torch.arange(small)[:, None] * stride - padding + torch.arange(taps) * dilation
    return ((at >= 0) & (at < large)).sum(0, dtype=torch.float64)


def gain_of_differences(op: Callable[..., Tensor], *args: Any, **kwargs: Any) -> list[list[float]]:
    """Of elementwise ops: ``G**2`` of each tensor in turn by differences, for rows of elements of the arguments."""
    exact = [own.double() if is_real(own) else own for own in args]
    y = op(*exact, **kwargs)
    signs = torch.randint(0, 2, y.shape, generator=torch.Generator().manual_seed(0)).to(y) * 2 - 1
    found = []
    for position, x in enumerate(exact):
        if is_real(x):
            step = _STEP * _finite_mean(x.square()).sqrt().unsqueeze(1)
            moved = op(*exact[:position], x + step * signs, *exact[position + 1 :], **kwargs)
            found.append(_finite_mean(((moved - y) / step).square()))
    return torch.stack(found, 1).tolist()


def _finite_mean(x: Tensor) -> Tensor:
    """Of rows; 0 where there is none: masks hold infinities."""
    mean = x.mean(1)
    if mean.isfinite().all():
        return mean
    finite = x.isfinite()
    return torch.where(finite, x, 0.0).sum(1) / finite.sum(1).clamp_min(1)


_aten = torch.ops.aten

#: Rules by op.
GAIN_RULES: Mapping[Any, GainRule] = {
    **dict.fromkeys((_aten.add.Tensor, _aten.add.Scalar, _aten.sub.Tensor, _aten.sub.Scalar), _of_sum(0)),
    **dict.fromkeys((_aten.rsub.Tensor, _aten.rsub.Scalar), _of_sum(1)),
    **dict.fromkeys((_aten.mul.Tensor, _aten.mul.Scalar), _mul),
    **dict.fromkeys((_aten.cat.default, _aten.stack.default), _parts),
    **dict.fromkeys((_aten._softmax.default, _aten._safe_softmax.default), _softmax),
    **dict.fromkeys((_aten.sum.default, _aten.sum.dim_IntList), _sum),
    **dict.fromkeys((_aten.mean.default, _aten.mean.dim), _mean),
    **dict.fromkeys(
        (
            _aten.embedding.default,
            _aten.flip.default,
            _aten.neg.default,
            _aten.repeat.default,
            _aten.select.int,
            _aten.slice.Tensor,
            _aten.split.Tensor,
            _aten.split_with_sizes.default,
            _aten.unbind.int,
        ),
        _ones,
    ),
    _aten.binary_cross_entropy.default: _probability_loss,
    _aten.div.Scalar: _div,
    _aten.constant_pad_nd.default: _padded,
    _aten.max_pool2d_with_indices.default: _of_first(_ones),
    _aten.native_dropout.default: _of_first(_dropout),
    _aten._log_softmax.default: _log_softmax,
    _aten._native_batch_norm_legit_functional.default: _of_first(_batch_norm),
    _aten.native_layer_norm.default: _of_first(_layer_norm),
    _aten.native_group_norm.default: _of_first(_group_norm),
    _aten.mm.default: _product(0, 1),
    _aten.bmm.default: _product(0, 1),
    _aten.addmm.default: _added(_product(1, 2)),
    _aten.baddbmm.default: _added(_product(1, 2)),
    _aten.convolution.default: _convolution,
}
