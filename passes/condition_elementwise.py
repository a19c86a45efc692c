"""Rules of condition numbers of elementwise ops, and which ops copy elements or are constants."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from precc.condition_numbers import ACTIVATIONS
from precc.passes.condition_rules import CONSTANT, COPY, Rule, copied, elementwise, is_real, ratio, size

__all__ = ["AT_ONE_PLACE", "ELEMENTWISE"]


def _degree(degree: float, y: Tensor) -> Tensor:
    """Of products of powers: the sum of the exponents' magnitudes."""
    return copied(y) * degree


def _add(a: Any, b: Any, alpha: float = 1) -> Tensor:
    numerator = torch.as_tensor(size(a) + size(b, alpha), dtype=torch.float64)
    return ratio(numerator, torch.as_tensor(a + alpha * b))


def _mul(a: Any, b: Any) -> Tensor:
    return _degree(is_real(a) + is_real(b), a * b)


def _div(a: Any, b: Any, rounding_mode: str | None = None) -> Tensor:
    return _degree(is_real(a) + is_real(b) if rounding_mode is None else 0, a / b)


def _power(x: Tensor, exponent: float) -> Tensor:
    return _degree(abs(exponent), x**exponent)


def _activation(name: str) -> Callable[..., Tensor]:
    """``|x f'(x) / f(x)|`` of `precc.condition_numbers`, but 0 at 0 in the place of the limit: 0 has no error."""

    def function(x: Tensor, approximate: str = "none") -> Tensor:
        if approximate != "none":
            return derivative(torch.ops.aten.gelu.default)(x, approximate=approximate)
        return torch.where(x == 0, 0.0, torch.where(x.isfinite(), ACTIVATIONS[name](x), math.nan))

    return function


def _of_gradient(other: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Of ``g h(x)``: 1 for g, and ``|x h'(x) / h(x)|``, the other function, for x."""

    def function(g: Tensor, x: Tensor, **options: Any) -> Tensor:
        if options.get("approximate", "none") != "none":
            return derivative(torch.ops.aten.gelu_backward.default)(g, x, **options)
        return torch.where(g == 0, 0.0, torch.where(g.isfinite() & x.isfinite(), 1 + other(x), math.nan))

    return function


def _tanh_gradient(g: Tensor, y: Tensor) -> Tensor:
    """Of ``g (1 - y y)``, both being arguments."""
    return ratio(g.abs() * ((1 - y * y).abs() + 2 * y * y), g * (1 - y * y))


def _sigmoid_gradient(g: Tensor, y: Tensor) -> Tensor:
    """Of ``g y (1 - y)``."""
    return ratio((g * y).abs() * ((1 - y).abs() + (1 - 2 * y).abs()), g * y * (1 - y))


def _silu_slope(x: Tensor) -> Tensor:
    """Of ``s (1 + x (1 - s))`` for ``s = sigmoid x``; its derivative is ``s (1 - s) (2 + x (1 - 2 s))``."""
    s, rest = x.sigmoid(), (-x).sigmoid()
    return ratio((x * rest * (2 + x * (rest - s))).abs(), 1 + x * rest)


def _gelu_slope(x: Tensor) -> Tensor:
    """Of ``cdf + x pdf``; its derivative is ``pdf (2 - x x)``. Both times ``e**(x x / 2)`` where they are small."""
    half, low = x * x / 2, x < 0
    scaled = torch.special.erfcx(torch.where(low, -x, 0.0) * math.sqrt(0.5)) / 2
    pdf = torch.where(low, 1.0, torch.exp(-half)) / math.sqrt(2 * math.pi)
    cdf = torch.where(low, scaled, torch.special.ndtr(x))
    return ratio((x * pdf * (2 - x * x)).abs(), cdf + x * pdf)


def _mse_gradient(g: Tensor, a: Tensor, b: Tensor, *reduction: int) -> Tensor:
    """Of ``c g (a - b)``."""
    return ratio(g.abs() * ((a - b).abs() + size(a) + size(b)), g * (a - b))


def derivative(op: Any) -> Callable[..., Tensor]:
    """By automatic differentiation: an elementwise op has a diagonal Jacobian for each argument."""

    def function(*args: Any, **kwargs: Any) -> Tensor:
        with torch.enable_grad():
            free = [own.detach().requires_grad_() if is_real(own) else own for own in args]
            real = [own for own in free if is_real(own)]
            y = op(*free, **kwargs)
            slopes = torch.autograd.grad(y.sum(), real, allow_unused=True)
        terms = [(x * slope).abs() for x, slope in zip(real, slopes, strict=True) if slope is not None]
        total = torch.stack(terms).sum(0) if terms else torch.zeros_like(y)
        return ratio(total.detach(), y.detach())

    return function


_aten = torch.ops.aten
_SLOPE = "|x f'(x) / f(x)|"
_ARAR = f"activation: {_SLOPE} (El Arar, Filip, Mary, Riccietti 2025)"
_GRADIENT = "gradient of an activation: 1 + |x h'(x) / h(x)| of g h(x) (chain rule)"
_POWER = "product of powers: the sum of magnitudes of exponents (Higham 2002, 1.6)"
_SUM = "sum of two: (|a| + |b|) / |a + b| (Higham 2002, 1.7)"
_DERIVATIVE = "elementwise: sum |x dy/dx| / |y|, differentiated automatically (Higham 2002, 1.6)"

_FORMULAS: tuple[tuple[str, Callable[..., Tensor], tuple[Any, ...]], ...] = (
    (_SUM, _add, (_aten.add.Tensor, _aten.add.Scalar)),
    (_SUM, lambda a, b, alpha=1: _add(a, b, -alpha), (_aten.sub.Tensor, _aten.sub.Scalar)),
    (_SUM, lambda a, b, alpha=1: _add(b, a, -alpha), (_aten.rsub.Tensor, _aten.rsub.Scalar)),
    (_POWER, _mul, (_aten.mul.Tensor, _aten.mul.Scalar)),
    (_POWER, _div, (_aten.div.Tensor, _aten.div.Scalar, _aten.div.Tensor_mode, _aten.div.Scalar_mode)),
    (_POWER, _power, (_aten.pow.Tensor_Scalar,)),
    (_POWER, lambda x: _power(x, 2), (_aten.square.default,)),
    (_POWER, lambda x: _degree(0.5, x.sqrt()), (_aten.sqrt.default,)),
    (_POWER, lambda x: _degree(0.5, x.rsqrt()), (_aten.rsqrt.default,)),
    (_POWER, lambda x: _degree(1, x.reciprocal()), (_aten.reciprocal.default,)),
    (_ARAR, _activation("exp"), (_aten.exp.default,)),
    (_ARAR, _activation("tanh"), (_aten.tanh.default,)),
    (_ARAR, _activation("sigmoid"), (_aten.sigmoid.default,)),
    (_ARAR, _activation("silu"), (_aten.silu.default,)),
    (_ARAR, _activation("gelu"), (_aten.gelu.default,)),
    ("logarithm: 1 / |log x| (Higham 2002, 1.6)", lambda x: ratio(torch.ones_like(x), x.log()), (_aten.log.default,)),
    (f"sine: {_SLOPE}", lambda x: ratio((x * x.cos()).abs(), x.sin()), (_aten.sin.default,)),
    (f"cosine: {_SLOPE}", lambda x: ratio((x * x.sin()).abs(), x.cos()), (_aten.cos.default,)),
    (_GRADIENT, _tanh_gradient, (_aten.tanh_backward.default,)),
    (_GRADIENT, _sigmoid_gradient, (_aten.sigmoid_backward.default,)),
    (_GRADIENT, _of_gradient(_silu_slope), (_aten.silu_backward.default,)),
    (_GRADIENT, _of_gradient(_gelu_slope), (_aten.gelu_backward.default,)),
    ("gradient of a square: 1 + (|a| + |b|) / |a - b|", _mse_gradient, (_aten.mse_loss_backward.default,)),
)

#: Other functions of elements at one place, differentiated automatically.
_BY_DERIVATIVE = """
_prelu_kernel addcdiv addcmul asin atan atan2 clamp clamp_max clamp_min cosh elu erf erfc exp2 expm1 hardsigmoid
hardswish hardtanh leaky_relu leaky_relu_backward log10 log1p log2 logaddexp masked_fill.Scalar mish pow.Scalar
pow.Tensor_Tensor remainder.Scalar sinh softplus softplus_backward tan
"""

_COPIES = """
_to_copy abs amax amin cat diagonal embedding flip gather index.Tensor index_select lift_fresh_copy max max.dim
max_pool2d_with_indices maximum min min.dim minimum native_dropout native_dropout_backward neg relu repeat roll
scatter.src select.int select_backward select_scatter slice.Tensor slice_backward slice_scatter sort split.Tensor
split_with_sizes stack threshold_backward topk tril triu unbind.int where.self
"""

#: Ops that read floating-point numbers, on which their results do not depend, or by steps.
_CONSTANTS = """
bernoulli bernoulli.p ceil empty_like floor full_like histc new_empty new_full new_ones new_zeros ones_like rand_like
randn_like round sgn sign trunc zeros_like
"""


def _overloads(names: str) -> Iterator[Any]:
    for name in names.split():
        packet, _, overload = name.partition(".")
        yield getattr(getattr(_aten, packet), overload or "default")


def _rules() -> Iterator[tuple[Any, Rule]]:
    for name, function, targets in _FORMULAS:
        yield from ((target, elementwise(name, function)) for target in targets)
    for target in _overloads(_BY_DERIVATIVE):
        yield target, elementwise(_DERIVATIVE, derivative(target))
    yield from ((target, COPY) for target in _overloads(_COPIES))
    yield from ((target, CONSTANT) for target in _overloads(_CONSTANTS))


#: Rules by op.
ELEMENTWISE: dict[Any, Rule] = dict(_rules())

#: Ops whose elements depend on those of tensor arguments at the same place alone, with a factor that no size decides.
AT_ONE_PLACE: frozenset[Any] = frozenset(
    {
        *(target for _, _, targets in _FORMULAS for target in targets),
        *_overloads(_BY_DERIVATIVE),
        *_overloads("abs maximum minimum relu threshold_backward where.self"),
    }
) - {_aten.mse_loss_backward.default}
