"""Condition numbers of a layer's parts: by how much relative errors of inputs grow into those of outputs.

With ``v = W h`` and an activation phi, first order and componentwise, the relative error of ``phi(v_i)`` is at most
``kappa_phi(v_i) * kappa_v,i`` times that of the terms of the dot product (El Arar, Filip, Mary, Riccietti 2025, arXiv
2503.15568). It says nothing of overflow, nor of sums so long that n times the unit roundoff is not small.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from precc.errors import FormatError, expected_one_of
from precc.float64_functions import exp_minus, scaled_erfc, x_over_sinh

__all__ = ["ACTIVATIONS", "Activation", "activation_condition", "check_activation", "inner_product_condition"]

Activation = str | Callable[[Tensor], Tensor]


def activation_condition(v: Tensor, activation: Activation) -> Tensor:
    """``kappa_phi(v) = |v phi'(v) / phi(v)|``, elementwise, as float64.

    Args:
        v: values before the activation, a tensor of floats of any shape.
        activation: a name in `ACTIVATIONS`, or a function from a float64 tensor of v to one of kappa_phi.

    Raises:
        FormatError: not a tensor of floats, no such activation, or a function that returns other than numbers of at
            least 0 in the shape of `v`.

    Where the quotient is 0 / 0 it is the limit: 1 at 0 for identity, tanh, silu, gelu. relu has 0 for negative v, and 1
    at 0, where a small error may still turn it on. NaN stays NaN. The named ones are specified to the bit
    (`precc.float64_functions`); those of silu and gelu, which are 0 somewhere, have a small absolute error there.

    >>> activation_condition(torch.tensor([-2.0, 0.0, 2.0]), "relu").tolist()
    [0.0, 1.0, 1.0]
    >>> activation_condition(torch.tensor([-2.0, 0.0, 2.0]), "tanh")
    tensor([0.1466, 1.0000, 0.1466], dtype=torch.float64)
    """
    if not isinstance(v, Tensor) or not v.is_floating_point():
        raise FormatError("a condition number of an activation is that of a tensor of floats")
    with torch.no_grad():
        found = check_activation(activation)(v.to(torch.float64, copy=True))  # which a function may change
    fits = isinstance(found, Tensor) and (found.dtype, found.device) == (torch.float64, v.device)
    if not fits or found.shape != v.shape or bool((found < 0).any()):
        raise FormatError("the function of an activation returns float64 numbers of at least 0, in the shape of v")
    return found


def inner_product_condition(v: Tensor, magnitude: Tensor) -> Tensor:
    """``kappa_v = magnitude / |v|``, elementwise, as float64, for ``magnitude = |W| |h|`` or a bound of it.

    Infinite where v is 0 and magnitude is not, or v is not finite; 1 where both are 0: all terms are.

    Args:
        v: the sums, a tensor of floats.
        magnitude: float64, in the shape of `v`.

    >>> inner_product_condition(torch.tensor([0.5, 0.0, 0.0]), torch.tensor([2.0, 3.0, 0.0], dtype=torch.float64))
    tensor([4., inf, 1.], dtype=torch.float64)
    """
    quotient = magnitude / v.double().abs()
    quotient = torch.where(v.isfinite() & ~quotient.isnan(), quotient, math.inf)
    return torch.where((v == 0) & (magnitude == 0), 1.0, quotient)


def check_activation(activation: Activation) -> Callable[[Tensor], Tensor]:
    """The function that a name means; a function as it is.

    Raises:
        FormatError: neither.
    """
    if callable(activation):
        return activation
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise FormatError(f"no condition number of an activation {activation!r}: {expected_one_of(ACTIVATIONS)}")
    return ACTIVATIONS[activation]


def _constant(v: Tensor) -> Tensor:
    return torch.where(v.isnan(), v, 1.0)


def _relu(v: Tensor) -> Tensor:
    return torch.where(v.isnan(), v, (v >= 0).double())


def _sigmoid(v: Tensor) -> Tensor:
    """``|v| (1 - sigmoid(v))``."""
    return _times(v, _complement(v)).abs()


def _silu(v: Tensor) -> Tensor:
    """``|1 + v (1 - sigmoid(v))|``."""
    return (1 + _times(v, _complement(v))).abs()


def _complement(v: Tensor) -> Tensor:
    """``1 - sigmoid(v)``, in which nothing cancels."""
    power = exp_minus(v.abs())
    return torch.where(v > 0, power, 1.0) / (1 + power)


def _times(v: Tensor, ratio: Tensor) -> Tensor:
    """Their product, 0 where the ratio is: it goes to 0 faster than v to infinity."""
    return torch.where(ratio == 0, ratio, v * ratio)


def _gelu(v: Tensor) -> Tensor:
    """``|1 + v pdf(v) / cdf(v)|``, of the normal distribution: ``x Phi(x)``, not its approximation by tanh."""
    size = v.abs()
    scaled = scaled_erfc(size * math.sqrt(0.5))
    power = exp_minus(size * size * 0.5)
    below = math.sqrt(2 / math.pi) / scaled
    above = power * (1 / math.sqrt(2 * math.pi)) / (1 - power * scaled * 0.5)
    return (1 + _times(v, torch.where(v < 0, below, above))).abs()


#: The activations by name, each the function from v to kappa_phi, both float64.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": _constant,
    "relu": _relu,
    "tanh": lambda v: x_over_sinh(2 * v.abs()),
    "sigmoid": _sigmoid,
    "silu": _silu,
    "gelu": _gelu,
    "exp": torch.abs,
}
