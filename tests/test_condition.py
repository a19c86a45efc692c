"""Condition numbers of nodes: every rule against Jacobians in float64, planted wrong rules, nets, and records."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._decomp import decomposition_table
from torch.nn import functional as F

from precc.analysis.condition import Condition, summaries
from precc.analysis.step_runs import StepRun, StepRunner, Values
from precc.analysis.traced_step import TracedStep, trace_step
from precc.grouped_product import GROUPED_PRODUCT
from precc.models.gpt import GPT
from precc.passes import rounding_pipeline
from precc.passes.condition import DIFFERENCES, RULES, ConditionNumbers, differences
from precc.passes.condition_products import PRODUCT_RULES, inner_products
from precc.passes.condition_rules import CONSTANT, COPY, Rule, is_real, ratio
from precc.passes.condition_sample import Sampler
from tests.zoo import ZOO

_aten = torch.ops.aten
Generator = torch.Generator
Call = tuple[tuple[Any, ...], dict[str, Any]]
Case = Callable[[Generator, int], Call]

#: So many calls of each op; kappas above it are equal: they say that nothing is left.
CALLS, LARGEST = 8, 1e9


def real(generator: Generator, *shape: int, exponent: int = 0) -> Tensor:
    """Numbers of 4 bits in 5 binades around ``2**exponent``, with zeros: sums and products of them are exact."""
    scale = 2.0 ** torch.randint(-2, 3, shape, generator=generator)
    return torch.randint(-8, 9, shape, generator=generator).double() * scale * 2.0**exponent


def nonzero(generator: Generator, *shape: int) -> Tensor:
    x = real(generator, *shape)
    return torch.where(x == 0, 0.25, x)


def positive(generator: Generator, *shape: int) -> Tensor:
    return nonzero(generator, *shape).abs()


def number(generator: Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def one(*others: Any, of: Callable[..., Tensor] = real, spread: int = 0, **named: Any) -> Case:
    """A matrix around ``2**(± spread)`` and fixed arguments."""

    def case(generator: Generator, index: int) -> Call:
        x = of(generator, 3, 4) * 2.0 ** number(generator, -spread, spread)
        return (x, *others), named

    return case


def two(of: Callable[..., Tensor] = real, spread: int = 0, **named: Any) -> Case:
    """Two that broadcast; the spread is that of both."""

    def case(generator: Generator, index: int) -> Call:
        scale = 2.0 ** number(generator, -spread, spread)
        other = ((3, 4), (4,), (3, 1), ())[index % 4]
        return (real(generator, 3, 4) * scale, of(generator, *other) * scale), named

    return case


def gradient(of: Callable[..., Tensor] = real, *others: Any, **named: Any) -> Case:
    """A gradient from tiny to huge, and what it is of."""

    def case(generator: Generator, index: int) -> Call:
        return (real(generator, 3, 4, exponent=number(generator, -60, 60)), of(generator, 3, 4), *others), named

    return case


def probabilities(generator: Generator, index: int) -> Call:
    return (
        (1 + 16 * unit(generator, 5)) / 18,
        unit(generator, 5),
        real(generator, 5) if index % 2 else None,
        index % 3,
    ), {}


def unit(generator: Generator, *shape: int) -> Tensor:
    """From 0 to 1, both included."""
    return torch.randint(0, 17, shape, generator=generator).double() / 16


def fixed(make: Callable[[Generator], tuple[Any, ...]], **named: Any) -> Case:
    return lambda generator, index: (make(generator), named)


def matrices(kind: str) -> Case:
    def case(generator: Generator, index: int) -> Call:
        m, k, n, items = (number(generator, 1, 4) for _ in range(4))
        before = (items,) if "bmm" in kind else ()
        pair = real(generator, *before, m, k, exponent=20), real(generator, *before, k, n, exponent=-50)
        return ((real(generator, *before, m, n), *pair) if "add" in kind else pair), {}

    return case


def grouped(generator: Generator, index: int) -> Call:
    offs = torch.tensor([1, 1, 4], dtype=torch.int32)
    a = real(generator, 5, 3) if index % 2 else real(generator, 3, 5)
    b = real(generator, 3, 3, 2) if index % 2 else real(generator, 5, 2)
    return (a, b, offs), {}


def convolution(generator: Generator, index: int) -> tuple[Tensor, Tensor, list[Any]]:
    dims, groups, transposed = 1 + index % 2, 1 + index // 2 % 2, index % 3 == 2
    x = real(generator, 2, 2 * groups, *[5] * dims)
    weight = real(generator, 2 * groups, 2, *[number(generator, 1, 3)] * dims)
    stride, padding, dilation = number(generator, 1, 3), number(generator, 0, 1), number(generator, 1, 2)
    return x, weight, [[stride] * dims, [padding] * dims, [dilation] * dims, transposed, [0] * dims, groups]


def forward(generator: Generator, index: int) -> Call:
    x, weight, options = convolution(generator, index)
    bias = None if index % 2 else real(generator, 2 * options[5])
    return (x, weight, bias, *options), {}


def backward(generator: Generator, index: int) -> Call:
    x, weight, options = convolution(generator, index)
    grad = real(generator, *_aten.convolution(x, weight, None, *options).shape)
    mask = [(index + number(generator, 0, 2)) % 3 == position for position in range(3)]
    return (grad, x, weight, [2 * options[5]], *options, mask), {}


def normalized(kind: str, *, back: bool = False) -> Case:
    def case(generator: Generator, index: int) -> Call:
        x, eps = real(generator, 3, 4, 2, exponent=number(generator, -3, 3)), 0.5 ** number(generator, 1, 20)
        channels = (4, 2) if kind == "layer" else (4,)
        weight, bias = (real(generator, *channels) if index % 3 else None for _ in range(2))
        running = real(generator, 4), positive(generator, 4)
        if kind == "statistics":
            return (x, weight, bias, *running, 0.1, eps), {}
        own: dict[str, tuple[Any, ...]] = {
            "layer": (x, [4, 2], weight, bias, eps),
            "group": (x, weight, bias, 3, 4, 2, 2, eps),
            "batch": (x, weight, bias, *running, True, 0.1, eps),
        }
        if not back:
            return own[kind], {}
        op = {"layer": _aten.native_layer_norm, "group": _aten.native_group_norm}.get(
            kind, _aten._native_batch_norm_legit_functional
        )
        grad, (_, mean, inverse) = real(generator, *x.shape), op(*own[kind])[:3]
        every = [True, *[weight is not None] * 2]
        backs: dict[str, tuple[Any, ...]] = {
            "layer": (grad, x, [4, 2], mean, inverse, weight, bias, every),
            "group": (grad, x, mean, inverse, weight, 3, 4, 2, 2, every),
            "batch": (grad, x, weight, *running, mean, inverse, True, eps, every),
        }
        return backs[kind], {}

    return case


def labels(generator: Generator, index: int) -> tuple[Tensor, Tensor, int, int]:
    x, target = real(generator, 4, 5).log_softmax(1), torch.randint(0, 5, (4,), generator=generator)
    return x, target, index % 3, int(target[0]) if index % 2 and bool((target != target[0]).any()) else -100


def loss(generator: Generator, index: int) -> Call:
    x, target, reduction, ignored = labels(generator, index)
    return (x, target, None, reduction, ignored), {}


def loss_gradient(generator: Generator, index: int) -> Call:
    x, target, reduction, ignored = labels(generator, index)
    total = (target != ignored).sum().double()
    g = real(generator, *((4,) if reduction == 0 else ()))
    return (g, x, target, None, reduction, ignored, total), {}


def pixels(case: Case) -> Case:
    """The same for images of classes."""

    def of_images(generator: Generator, index: int) -> Call:
        args, named = case(generator, index)
        shown = [
            a[..., None, None] if isinstance(a, Tensor) and a.dim() > (len(args) == 7 and i == 6) else a
            for i, a in enumerate(args)
        ]
        if len(args) == 7 and args[0].dim() == 0:
            shown[0] = args[0]
        return tuple(shown), named

    return of_images


def pooled(generator: Generator, index: int) -> Call:
    x = real(generator, 2, 2, 6, 6)
    y, places = _aten.max_pool2d_with_indices(x, [3, 3], [1, 2])
    return (real(generator, *y.shape), x, [3, 3], [1, 2], [0, 0], [1, 1], False, places), {}


def bags(generator: Generator, index: int) -> Call:
    ids = torch.randint(0, 4, (6,), generator=generator)
    return (real(generator, 4, 3), ids, torch.tensor([0, 2, 2, 5]), False, index % 2), {}


def bag_gradient(generator: Generator, index: int) -> Call:
    (table, ids, offsets, *_), _ = bags(generator, index)
    _, bag, sizes, highest = _aten._embedding_bag(table, ids, offsets, False, index % 2)
    grad = real(generator, 4, 3)
    return (grad, ids, offsets, bag, sizes, highest, 4, False, index % 2, False, None), {}


def ids(generator: Generator, *shape: int, below: int = 4) -> Tensor:
    return torch.randint(0, below, shape, generator=generator)


def softmax_gradient(function: Callable[..., Tensor]) -> Case:
    def case(generator: Generator, index: int) -> Call:
        y = function(real(generator, 3, 4), index % 2)
        return (real(generator, 3, 4), y, index % 2, torch.float64), {}

    return case


def along(*others: Any) -> Case:
    return lambda generator, index: ((real(generator, 3, 4), index % 2, *others), {})


def reduced(generator: Generator, index: int) -> Call:
    return (
        real(generator, 3, 4, exponent=100 * (index % 3 - 1)),
        [[0], [1], [0, 1], []][index % 4],
        index % 2 == 0,
    ), {}


def near(generator: Generator, *shape: int) -> Tensor:
    """Of at most 0.5."""
    return real(generator, *shape) / 64


#: Of each op in the registry that is no copy or constant.
CASES: dict[Any, Case] = {
    _aten.add.Tensor: two(spread=100),
    _aten.add.Scalar: one(2.0),
    _aten.sub.Tensor: two(spread=100, alpha=2),
    _aten.sub.Scalar: one(2.0),
    _aten.rsub.Tensor: two(alpha=2),
    _aten.rsub.Scalar: one(2.0, 4.0),
    _aten.mul.Tensor: two(spread=100),
    _aten.mul.Scalar: one(-3.0),
    _aten.div.Tensor: two(nonzero, spread=100),
    _aten.div.Scalar: one(-3.0),
    _aten.div.Tensor_mode: two(nonzero, rounding_mode="floor"),
    _aten.div.Scalar_mode: one(3.0, rounding_mode="trunc"),
    _aten.pow.Tensor_Scalar: one(3.0, spread=100),
    _aten.square.default: one(spread=100),
    _aten.sqrt.default: one(of=positive, spread=100),
    _aten.rsqrt.default: one(of=positive, spread=100),
    _aten.reciprocal.default: one(of=nonzero, spread=100),
    _aten.exp.default: one(),
    _aten.tanh.default: one(of=near, spread=3),
    _aten.sigmoid.default: one(),
    _aten.silu.default: one(),
    _aten.gelu.default: lambda g, i: ((real(g, 3, 4) / 16,), {"approximate": ["none", "tanh"][i % 2]}),
    _aten.log.default: one(of=positive, spread=100),
    _aten.sin.default: one(),
    _aten.cos.default: one(),
    _aten.tanh_backward.default: gradient(near),
    _aten.sigmoid_backward.default: gradient(unit),
    _aten.silu_backward.default: gradient(),
    _aten.gelu_backward.default: lambda g, i: (
        (real(g, 3, 4), real(g, 3, 4) / 8),
        {"approximate": ["none", "tanh"][i % 2]},
    ),
    _aten.mse_loss_backward.default: fixed(lambda g: (real(g), real(g, 3, 4), real(g, 3, 4), 1)),
    _aten._prelu_kernel.default: two(),
    _aten.addcdiv.default: fixed(lambda g: (real(g, 4), real(g, 4), nonzero(g, 4))),
    _aten.addcmul.default: fixed(lambda g: (real(g, 3, 4), real(g, 4), real(g, 3, 4))),
    _aten.asin.default: one(of=near),
    _aten.atan.default: one(spread=20),
    _aten.atan2.default: two(nonzero),
    _aten.clamp.default: one(-1.5, 2.5),
    _aten.clamp_max.default: one(1.5),
    _aten.clamp_min.default: one(1.5),
    _aten.cosh.default: one(),
    _aten.elu.default: one(),
    _aten.erf.default: one(of=near),
    _aten.erfc.default: one(of=near),
    _aten.exp2.default: one(),
    _aten.expm1.default: one(),
    _aten.hardsigmoid.default: one(),
    _aten.hardswish.default: one(),
    _aten.hardtanh.default: one(-1.5, 2.5),
    _aten.leaky_relu.default: one(),
    _aten.leaky_relu_backward.default: gradient(real, 0.01, False),
    _aten.log10.default: one(of=positive),
    _aten.log1p.default: one(of=positive),
    _aten.log2.default: one(of=positive),
    _aten.logaddexp.default: two(),
    _aten.masked_fill.Scalar: fixed(lambda g: (real(g, 3, 4), real(g, 3, 4) > 0, 5.0)),
    _aten.mish.default: one(),
    _aten.pow.Scalar: lambda g, i: ((2.0, real(g, 3, 4)), {}),
    _aten.pow.Tensor_Tensor: fixed(lambda g: (positive(g, 3, 4), real(g, 3, 4))),
    _aten.remainder.Scalar: one(3.0),
    _aten.sinh.default: one(),
    _aten.softplus.default: one(of=near),
    _aten.softplus_backward.default: gradient(near, 1.0, 20.0),
    _aten.tan.default: one(),
    _aten.avg_pool2d.default: fixed(lambda g: (real(g, 2, 2, 6, 6), [3, 3], [1, 2], [1, 1])),
    _aten._adaptive_avg_pool2d.default: fixed(lambda g: (real(g, 2, 2, 6, 6), [3, 2])),
    _aten._adaptive_avg_pool2d_backward.default: fixed(lambda g: (real(g, 2, 2, 3, 2), real(g, 2, 2, 6, 6))),
    _aten.avg_pool2d_backward.default: fixed(
        lambda g: (real(g, 2, 2, 4, 2), real(g, 2, 2, 6, 5), [3, 3], [1, 2], [0, 0], False, True, None)
    ),
    _aten.max_pool2d_with_indices_backward.default: pooled,
    _aten.upsample_bilinear2d.default: fixed(lambda g: (real(g, 1, 2, 3, 3), [5, 5], False)),
    _aten._embedding_bag_backward.default: bag_gradient,
    _aten.cumsum.default: along(),
    _aten.index_add.default: fixed(lambda g: (real(g, 4, 3), 0, ids(g, 6), real(g, 6, 3))),
    _aten.scatter_add.default: fixed(lambda g: (real(g, 4, 3), 0, ids(g, 6, 3), real(g, 6, 3))),
    _aten.sum.default: one(spread=100),
    _aten.sum.dim_IntList: reduced,
    _aten.mean.default: one(),
    _aten.mean.dim: reduced,
    _aten.linalg_vector_norm.default: one(2),
    _aten.logsumexp.default: fixed(lambda g: (real(g, 3, 4), [1])),
    _aten._softmax.default: along(False),
    _aten._safe_softmax.default: along(),
    _aten._log_softmax.default: lambda g, i: ((real(g, 3, 4) / 8, i % 2, False), {}),
    _aten._softmax_backward_data.default: softmax_gradient(torch.softmax),
    _aten._log_softmax_backward_data.default: softmax_gradient(torch.log_softmax),
    _aten.nll_loss_forward.default: loss,
    _aten.nll_loss2d_forward.default: pixels(loss),
    _aten.nll_loss_backward.default: loss_gradient,
    _aten.nll_loss2d_backward.default: pixels(loss_gradient),
    _aten.binary_cross_entropy_with_logits.default: lambda g, i: ((real(g, 5), unit(g, 5), None, None, i % 3), {}),
    _aten.binary_cross_entropy.default: probabilities,
    _aten.mse_loss.default: lambda g, i: ((real(g, 5), real(g, 5), i % 3), {}),
    _aten.embedding_dense_backward.default: fixed(lambda g: (real(g, 2, 5, 3), ids(g, 2, 5), 4, 1, False)),
    _aten._embedding_bag.default: bags,
    _aten.constant_pad_nd.default: one([1, 0, 2, 0]),
    _aten.index_put.default: lambda g, i: ((real(g, 4, 3), [torch.tensor([0, 2, 3])], real(g, 3, 3), i % 2 == 0), {}),
    _aten.native_layer_norm.default: normalized("layer"),
    _aten.native_group_norm.default: normalized("group"),
    _aten._native_batch_norm_legit_functional.default: normalized("batch"),
    _aten._native_batch_norm_legit_no_training.default: normalized("statistics"),
    _aten.native_layer_norm_backward.default: normalized("layer", back=True),
    _aten.native_group_norm_backward.default: normalized("group", back=True),
    _aten.native_batch_norm_backward.default: normalized("batch", back=True),
    _aten.mm.default: matrices("mm"),
    _aten.addmm.default: matrices("addmm"),
    _aten.bmm.default: matrices("bmm"),
    _aten.baddbmm.default: matrices("baddbmm"),
    GROUPED_PRODUCT: grouped,
    _aten.convolution.default: forward,
    _aten.convolution_backward.default: backward,
}

#: Of copies.
CASES |= {
    _aten._to_copy.default: one(),
    _aten.abs.default: one(),
    _aten.amax.default: one([1]),
    _aten.amin.default: one([0, 1]),
    _aten.cat.default: fixed(lambda g: ([real(g, 2, 3), real(g, 1, 3)],)),
    _aten.diagonal.default: one(),
    _aten.embedding.default: fixed(lambda g: (real(g, 4, 3), ids(g, 5))),
    _aten.flip.default: one([0]),
    _aten.gather.default: fixed(lambda g: (real(g, 4, 3), 0, ids(g, 2, 3))),
    _aten.index.Tensor: fixed(lambda g: (real(g, 4, 3), [ids(g, 5)])),
    _aten.index_select.default: fixed(lambda g: (real(g, 4, 3), 0, ids(g, 5))),
    _aten.lift_fresh_copy.default: one(),
    _aten.max.default: one(),
    _aten.max.dim: one(1),
    _aten.min.default: one(),
    _aten.min.dim: one(1),
    _aten.max_pool2d_with_indices.default: fixed(lambda g: (real(g, 1, 2, 6, 6), [2, 2])),
    _aten.maximum.default: two(),
    _aten.minimum.default: two(),
    _aten.native_dropout.default: one(0.5, True),
    _aten.native_dropout_backward.default: fixed(lambda g: (real(g, 3, 4), real(g, 3, 4) > 0, 2.0)),
    _aten.neg.default: one(),
    _aten.relu.default: one(),
    _aten.repeat.default: one([2, 2]),
    _aten.roll.default: one([1]),
    _aten.scatter.src: fixed(lambda g: (real(g, 3, 4), 1, torch.tensor([[0, 2], [1, 3], [3, 0]]), real(g, 3, 2))),
    _aten.select.int: one(0, 1),
    _aten.select_backward.default: fixed(lambda g: (real(g, 4), [3, 4], 0, 1)),
    _aten.select_scatter.default: fixed(lambda g: (real(g, 3, 4), real(g, 4), 0, 1)),
    _aten.slice.Tensor: one(0, 1, 3),
    _aten.slice_backward.default: one([6, 4], 0, 1, 4, 1),
    _aten.sort.default: one(),
    _aten.slice_scatter.default: fixed(lambda g: (real(g, 3, 4), real(g, 2, 4), 0, 1, 3)),
    _aten.split.Tensor: one(2),
    _aten.split_with_sizes.default: one([1, 2]),
    _aten.stack.default: fixed(lambda g: ([real(g, 3), real(g, 3)],)),
    _aten.threshold_backward.default: gradient(real, 0.0),
    _aten.topk.default: one(2),
    _aten.tril.default: one(),
    _aten.triu.default: one(),
    _aten.unbind.int: one(),
    _aten.where.self: fixed(lambda g: (real(g, 3, 4) > 0, real(g, 3, 4), real(g, 4))),
}

#: Ops whose derivatives torch does not have, or not of all arguments.
DECOMPOSED = {
    _aten.native_layer_norm.default, _aten.native_group_norm.default, _aten._native_batch_norm_legit_functional.default,
    _aten.native_layer_norm_backward.default,
    _aten.native_group_norm_backward.default, _aten.native_batch_norm_backward.default, _aten.nll_loss_backward.default,
    _aten.nll_loss2d_backward.default, _aten.mse_loss_backward.default, _aten.silu_backward.default,
}  # fmt: skip


def function_of(op: Any) -> Callable[..., Any]:
    """What an op computes, differentiable; of products without what is added."""
    if op in DECOMPOSED:
        return decomposition_table[op]
    plain: dict[Any, Callable[..., Any]] = {
        _aten.addmm.default: lambda bias, a, b: a @ b,
        _aten.baddbmm.default: lambda bias, a, b: a @ b,
        _aten.convolution.default: lambda x, weight, bias, *options: op(x, weight, None, *options),
        _aten._embedding_bag_backward.default: bag_gradient_by_sums,
        _aten._native_batch_norm_legit_no_training.default: by_statistics,
        _aten.native_dropout.default: dropout,
        _aten.linalg_vector_norm.default: lambda x, order: x.square().sum().sqrt(),
        _aten.binary_cross_entropy.default: loss_of_probabilities,
    }
    return plain.get(op, op)


def by_statistics(
    x: Tensor, weight: Any, bias: Any, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> Any:
    mean, variance, weight, bias = (own if own is None else own[:, None] for own in (mean, variance, weight, bias))
    return (x - mean) / (variance + eps).sqrt() * (1 if weight is None else weight) + (0 if bias is None else bias)


def loss_of_probabilities(x: Tensor, target: Tensor, weight: Tensor | None, reduction: int) -> Tensor:
    loss = -(target * x.log() + (1 - target) * (1 - x).log()) * (1 if weight is None else weight)
    return loss if reduction == 0 else loss.mean() if reduction == 1 else loss.sum()


def dropout(x: Tensor, share: float, training: bool) -> Any:
    torch.manual_seed(0)
    return _aten.native_dropout(x, share, training)


def bag_gradient_by_sums(g: Tensor, index: Tensor, offsets: Tensor, bag: Tensor, sizes: Tensor, *others: Any) -> Tensor:
    shares = g[bag] / (sizes[bag][:, None] if others[3] == 1 else 1)
    return torch.zeros(others[1], g.shape[1], dtype=g.dtype).index_add(0, index, shares)


def reference(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor | None]:
    """``sum_j |J_ij x_j| / |y_i|`` by automatic differentiation, of each result."""
    leaves, spec = torch.utils._pytree.tree_flatten((args, kwargs))
    places = [place for place, own in enumerate(leaves) if is_real(own)]
    if op in PRODUCT_RULES:
        places = places[len(places) - 2 :][:1] if "add" in str(op) else places[:1]

    def results(*values: Tensor) -> list[Any]:
        own = list(leaves)
        for place, value in zip(places, values, strict=True):
            own[place] = value
        own_args, own_kwargs = torch.utils._pytree.tree_unflatten(own, spec)
        found = function_of(op)(*own_args, **own_kwargs)
        return list(found) if isinstance(found, tuple | list) else [found]

    inputs = tuple(leaves[place].clone() for place in places)
    return [
        kappas_of(lambda *values, at=at: results(*values)[at], inputs, y) if is_real(y) else None
        for at, y in enumerate(results(*inputs))
    ]


def kappas_of(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    free = tuple(own.clone().requires_grad_() for own in inputs)
    if not function(*free).requires_grad:
        return torch.where(y.isfinite(), 0.0, math.nan).double()
    jacobians: Any = torch.autograd.functional.jacobian(function, inputs)
    sizes = [
        (own * x).abs().flatten(y.dim()).sum(-1) if x.dim() else (own * x).abs()
        for own, x in zip(jacobians, inputs, strict=True)
    ]
    numerator = torch.stack(sizes).sum(0)
    kappas = torch.where(numerator == 0, 0.0, torch.where(y == 0, math.inf, numerator / y.abs()))
    return torch.where(y.isfinite(), kappas, math.nan)


def wrong(op: Any, rule: Rule, call: Call) -> int:
    """Of how many results the numbers differ from the reference, or a bound is below it; in any order."""
    args, kwargs = call
    torch.manual_seed(0)
    value = op(*args, **kwargs)
    found = rule.kappas(Sampler(100_000, 0), value, *args, **kwargs)
    parts = found if isinstance(found, tuple) else (found,)
    count = 0
    for own, wanted in zip(parts, reference(op, args, kwargs), strict=False):
        if own is not None and wanted is not None and not (op in DECOMPOSED and own.numel() != wanted.numel()):
            count += differs(own, wanted, bound=rule.bound)
    return count


def differs(own: Tensor, wanted: Tensor, *, bound: bool) -> bool:
    if own.numel() != wanted.numel() or own.isnan().sum() != wanted.isnan().sum():
        return True
    pair = [x[~x.isnan()].flatten().sort().values.clamp_max(LARGEST) for x in (own, wanted)]
    if bound:
        return not bool((pair[0] >= pair[1] * (1 - 1e-8)).all())
    return not torch.allclose(*pair, rtol=1e-6, atol=1e-12)


def seeded(op: Any) -> Generator:
    return torch.Generator().manual_seed(sum(str(op).encode()))


CHECKED = [op for op, rule in RULES.items() if rule is not CONSTANT]


def test_all_rules_have_cases() -> None:
    assert set(CHECKED) == set(CASES)


@pytest.mark.parametrize("op", CHECKED, ids=str)
def test_rule_equals_the_jacobian_or_bounds_it(op: Any) -> None:
    generator = seeded(op)
    with torch.random.fork_rng():
        assert sum(wrong(op, RULES[op], CASES[op](generator, index)) for index in range(CALLS)) == 0


def _without_the_mean(sampler: Sampler, y: Any, x: Tensor, *others: Any) -> Any:
    lines = sampler.lines(x, [1, 2])
    return ratio(lines.abs(), lines - lines.mean(1, keepdim=True)).flatten(), None, None


#: Wrong rules that are as easily written as the right ones.
PLANTED = {
    _aten.add.Tensor: Rule("", lambda s, y, a, b: ratio((a.abs() + b.abs()).flatten(), (a - b).flatten())),
    _aten.mul.Tensor: COPY,
    _aten.sum.dim_IntList: Rule("", lambda s, y, x, dims, keep: ratio(x.abs().sum().reshape(1), x.sum())),
    _aten._softmax.default: Rule("", lambda s, y, x, dim, half: ((1 - y) * x.abs()).flatten()),
    _aten.tanh.default: Rule("", lambda s, y, x: (x * (1 - y * y)).abs().flatten()),
    _aten.relu.default: Rule("", lambda s, y, x: torch.ones_like(x).flatten()),
    _aten.log.default: Rule("", lambda s, y, x: y.abs().flatten()),
    _aten.mm.default: Rule("", lambda s, y, a, b: ratio(a.abs() @ b, a @ b).flatten()),
    _aten.sigmoid_backward.default: COPY,
    _aten.native_layer_norm.default: Rule("", _without_the_mean, bound=True),
    _aten.nll_loss_backward.default: COPY,
}


@pytest.mark.parametrize("op", PLANTED, ids=str)
def test_the_check_of_rules_sees_a_wrong_one(op: Any) -> None:
    generator = seeded(op)
    assert sum(wrong(op, PLANTED[op], CASES[op](generator, index)) for index in range(CALLS)) > 0


def test_constants_do_not_depend_on_numbers() -> None:
    for op in (op for op, rule in RULES.items() if rule is CONSTANT):
        found = RULES[op].kappas(Sampler(10, 0), torch.tensor([1.0, 0.0]))
        assert found.tolist() == [0.0, 0.0]  # type: ignore[union-attr]


@pytest.mark.parametrize("op", [_aten.lgamma.default, _aten.acosh.default], ids=str)
def test_differences_of_elementwise_ops_are_condition_numbers(op: Any) -> None:
    assert op not in RULES
    x = torch.linspace(2.5, 9, 20, dtype=torch.float64)
    found = differences(op, Sampler(100, 0), op(x), (x,), {})
    torch.testing.assert_close(found, reference(op, (x,), {})[0], rtol=1e-6, atol=0)


def test_differences_are_below_condition_numbers_and_draw_no_random_numbers() -> None:
    x = real(seeded(differences), 6, 6) + 40 * torch.eye(6)
    for op in (_aten.inverse.default, _aten.rrelu_with_noise.default):
        args = (x,) if op is _aten.inverse.default else (x, torch.zeros_like(x), 0.1, 0.3, True)
        before = torch.get_rng_state()
        value = op(*args)
        torch.set_rng_state(before)
        [found] = [differences(op, Sampler(100, 0), value, args, {})]
        assert torch.equal(torch.get_rng_state(), before)
        assert isinstance(found, Tensor)
        assert found.isfinite().all()
        if op is _aten.inverse.default:
            wanted = reference(op, args, {})[0]
            assert wanted is not None
            assert bool((found <= wanted.flatten() * (1 + 1e-6)).all())


class Small(nn.Module):
    """Most kinds of ops: embedding, attention, convolution, three norms, dropout, pooling, an LSTM's gates."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.attention = nn.Embedding(11, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.conv, self.bn, self.gn = nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), nn.GroupNorm(2, 8)
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.attention(self.table(tokens)).transpose(1, 2)
        hidden = F.silu(self.gn(F.gelu(self.bn(self.conv(hidden)))))
        states, _ = self.lstm(F.dropout(hidden, 0.25).transpose(1, 2))
        logits: Tensor = self.head(F.avg_pool1d(states.transpose(1, 2), 5).flatten(1))
        return logits


def step_of(net: nn.Module, args: tuple[Tensor, ...], classes: int) -> TracedStep:
    torch.manual_seed(1)

    def loss(output: Tensor) -> Tensor:
        flat = output.flatten(0, -2)
        return F.cross_entropy(flat, torch.arange(len(flat)) % classes)

    return trace_step(net, args, {}, loss, title="net", pipeline=rounding_pipeline(), fused_attention=False)


@pytest.fixture(scope="module")
def small() -> TracedStep:
    torch.manual_seed(0)
    return step_of(Small(), (torch.randint(0, 11, (4, 5)),), 3)


def argument(node: Any, values: Values) -> Tensor:
    value: Tensor = values[node.args[0]]
    return value


def computed_nodes(step: TracedStep) -> list[Any]:
    seen: list[Any] = []

    def watch(node: Any, value: Any, values: Values) -> None:
        parts = value if isinstance(value, tuple | list) else (value,)
        if node.op == "call_function" and any(is_real(part) for part in parts):
            seen.append(node)

    with torch.no_grad():
        StepRunner(step).run(argument, watch=watch)
    return seen


def test_every_floating_node_has_a_record_by_a_rule(small: TracedStep) -> None:
    nodes, found = computed_nodes(small), ConditionNumbers().run(small)
    assert set(nodes) == set(found)
    assert not [node.name for node in nodes if found[node].rule == DIFFERENCES.name]
    assert all(record.elements > 0 and not math.isnan(record.mean) for record in found.values())


def test_watching_changes_nothing(small: TracedStep) -> None:
    watcher = ConditionNumbers(samples=8).watcher(small)
    inputs = {
        name: value.clone().requires_grad_() if name in small.parameters else value
        for name, value in small.inputs.items()
    }
    before = torch.get_rng_state()
    plain = StepRunner(small).run(argument, inputs=inputs)
    watched = StepRunner(small).run(argument, inputs=inputs, watch=watcher.watch)
    assert torch.equal(torch.get_rng_state(), before)
    assert plain.loss.requires_grad
    for one_run, other in zip(tensors(plain), tensors(watched), strict=True):
        assert torch.equal(one_run, other)
    found, alone = watcher.result(), ConditionNumbers(samples=8).run(small)
    assert found.keys() == alone.keys()  # values differ in the last digits where operators are opened
    assert all(own.elements == alone[node].elements for node, own in found.items())


def tensors(run: StepRun) -> list[Tensor]:
    return [run.loss, *run.gradients.values()]


@pytest.mark.parametrize("samples", [10**6, 64])
def test_products_have_the_condition_numbers_of_a_direct_computation(samples: int) -> None:
    torch.manual_seed(0)
    step = step_of(GPT(context=8, width=16, layers=1), (torch.randint(0, 128, (2, 8)),), 128)
    found = ConditionNumbers(samples).run(step)
    checked = 0

    def watch(node: Any, value: Any, values: Values) -> None:
        nonlocal checked
        if node.target in (_aten.mm.default, _aten.addmm.default, _aten.bmm.default):
            a, b = (values[own].double() for own in node.args[-2:])
            kappas = ((a.abs() @ b.abs()) / (a @ b).abs()).nan_to_num(0.0).flatten().sort().values
            if samples > 10**5:
                assert found[node].maximum == pytest.approx(float(kappas[-1]), rel=1e-9)
                assert found[node].median == pytest.approx(float(kappas[(len(kappas) + 1) // 2 - 1]), rel=1e-9)
                assert found[node].elements == kappas.numel()
            else:
                assert found[node].elements <= samples + 16
                assert 0 <= found[node].median <= found[node].maximum <= kappas[-1] * (1 + 1e-9)
            checked += 1

    with torch.no_grad():
        StepRunner(step).run(argument, watch=watch)
    assert checked == 21


def test_a_convolutions_sample_is_part_of_all() -> None:
    generator = seeded(_aten.convolution)
    x, weight = real(generator, 4, 6, 9, 9), real(generator, 8, 3, 3, 3)
    options: tuple[Any, ...] = ([2, 2], [1, 1], [1, 1], False, [0, 0], 2)
    y = _aten.convolution(x, weight, None, *options)
    grad = real(generator, *y.shape)
    for op, args in (
        (_aten.convolution.default, (x, weight, None, *options)),
        (_aten.convolution_backward.default, (grad, x, weight, None, *options, [True, False, False])),
        (_aten.convolution_backward.default, (grad, x, weight, None, *options, [False, True, False])),
    ):
        few, everything = (RULES[op].kappas(Sampler(own, 0), y, *args) for own in (100, 10**6))
        pairs = [(few, everything)] if isinstance(few, Tensor) else list(zip(few, everything, strict=True))
        for part, whole in pairs:
            if isinstance(part, Tensor):
                assert isinstance(whole, Tensor)
                assert 30 <= part.numel() < whole.numel()
                assert bool(torch.isin(part.float(), whole.float()).all())


def test_inner_products_that_cancel() -> None:
    a = torch.tensor([[1.0, -1.0], [0.0, 0.0], [1e30, 1e-30]])
    b = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert inner_products(a, b).tolist() == [[math.inf, 1.0], [0.0, 0.0], [1.0, 1.0]]


def record(kappas: Tensor, values: Tensor) -> Condition:
    [found] = summaries(kappas[None].double(), values[None])
    return Condition(*found, "rule", True)


def test_records() -> None:
    found = record(
        torch.tensor([0.0, 1.0, 2.0, math.inf, math.nan, 1e300], dtype=torch.float64),
        torch.tensor([0.0, 1.0, math.inf, 0.0, math.nan, math.nan]),
    )
    assert (found.infinite, found.nonfinite, found.elements, found.bound) == (1 / 6, 0.5, 6, True)
    assert (found.median, found.p90, found.maximum, found.mean) == (1.0, 1e300, 1e300, 2.5e299)
    assert found.rms == pytest.approx(5e299)
    nothing = record(torch.empty(0), torch.empty(0))
    assert (nothing.elements, nothing.infinite) == (0, 0)
    assert math.isnan(nothing.mean)
    lost = record(torch.tensor([math.inf, math.inf]), torch.zeros(2))
    assert (lost.infinite, lost.nonfinite) == (1, 0)
    assert math.isnan(lost.maximum)


def test_quantiles_are_of_the_smallest_that_so_many_do_not_exceed() -> None:
    kappas = torch.randperm(1000).double() + 1
    found = record(kappas, kappas)
    assert (found.median, found.p90, found.p99, found.maximum) == (500, 900, 990, 1000)


def test_rows_do_not_touch_each_other() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0], [math.inf, 1.0, 0.0], [math.nan, 5.0, 1e200]], dtype=torch.float64)
    values = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [math.nan, math.inf, 3e38]])
    apart = [summaries(rows[at : at + 1], values[at : at + 1])[0] for at in range(3)]
    assert summaries(rows, values) == apart


def test_samples_are_spread_and_the_same_in_each_run() -> None:
    first, second, other = (Sampler(100, seed).positions(10_000, 100) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(first // 100, torch.arange(100))
    assert torch.equal(Sampler(100, 0).positions(7, 100), torch.arange(7))


@pytest.mark.parametrize("name", ["recommender", "unet", "gpt2"])
def test_nets_of_the_zoo_need_no_differences(name: str) -> None:
    entry = ZOO[name]
    torch.manual_seed(0)
    inputs = entry.inputs(2, torch.Generator().manual_seed(0))
    step = trace_step(
        entry.factory(), (), inputs, entry.loss, title=name, pipeline=rounding_pipeline(), fused_attention=False
    )
    found = ConditionNumbers(samples=64).run(step)
    assert set(found) == set(computed_nodes(step))
    assert all(record.rule != DIFFERENCES.name for record in found.values())


def one_by_one(step: TracedStep, samples: int) -> dict[Any, list[tuple[Any, ...]]]:
    """Of each node that calls an op, and of each of its results, by one call of its rule."""
    found: dict[Any, list[tuple[Any, ...]]] = {}
    sampler = Sampler(samples, 0)

    def watch(node: Any, value: Any, values: Values) -> None:
        if node.op != "call_function" or node.target not in RULES or node.target in EXACT:
            return
        args: Any = torch.fx.node.map_arg(node.args, values.__getitem__)
        kwargs: Any = torch.fx.node.map_arg(node.kwargs, values.__getitem__)
        parts = value if isinstance(value, tuple | list) else (value,)
        reads = torch.utils._pytree.tree_leaves((args, kwargs))
        if not any(map(is_real, parts)) or not any(map(is_real, reads)):
            return
        kappas = RULES[node.target].kappas(sampler, value, *args, **kwargs)
        pairs = zip(kappas if isinstance(kappas, tuple) else (kappas,), parts, strict=True)
        found[node] = [
            summaries(sampler.raw(own)[None], sampler.raw(y)[None])[0]
            for own, y in pairs
            if own is not None and is_real(y)
        ]

    with torch.no_grad():
        StepRunner(step).run(argument, watch=watch)
    return found


#: Views and copies of nodes, which share a record with each other.
EXACT = {_aten.clone.default}


@pytest.mark.parametrize("samples", [1024, 16])
def test_rules_of_many_nodes_at_once_are_those_of_each(small: TracedStep, samples: int) -> None:
    found, alone = ConditionNumbers(samples).run(small), one_by_one(small, samples)
    assert len(alone) > 100
    for node, [first, *_] in alone.items():
        record = found[node]
        numbers = (
            *(record.mean, record.maximum, record.median, record.p90, record.p99, record.rms),
            *(record.infinite, record.nonfinite, record.elements),
        )
        assert numbers == pytest.approx(first, rel=1e-5, nan_ok=True), node.name  # float32 sums in another order
