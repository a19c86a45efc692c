"""The step of a linear model: against G, as long as the radius, and what it promises.

The objective is ``F(x) = f(x) + wd / 2 * ||x||**2`` with gradient ``g_F = g + wd * x``. The direction is the heavy ball
``G = mu * G_old + g_F``, or, as the source may be read too, ``G = G_old + mu * g_F``; both begin with ``G = g_F``. The
step is ``p = -radius * G / ||G||``. The model is linear in f and exact in the decay, so it promises
``pred = -<g, p> - wd * (<x, p> + ||p||**2 / 2)``, which is ``radius * <g, G> / ||G||`` without decay.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["MOMENTUM_FORMS", "LinearStep", "Values", "norm_of", "propose"]

MOMENTUM_FORMS = ("heavy_ball", "gradient")

Values = dict[Tensor, Tensor]  #: one tensor a parameter


@dataclass(frozen=True, slots=True)
class LinearStep:
    """A step from x.

    Args:
        values: p.
        direction: G, to be held for the next step.
        gradient_norm: ``||g_F||_2``.
        decay_reduction: decrease of the decay term, exact.
        predicted_reduction: decrease of the objective that the model promises.
    """

    values: Values
    direction: Values
    gradient_norm: float
    decay_reduction: float
    predicted_reduction: float


def propose(
    gradients: Values,
    held: Values,
    groups: Sequence[Mapping[str, Any]],
    radius: float,
    *,
    form: str = "heavy_ball",
) -> LinearStep | None:
    """The step against G; None where G is zero. Where G points uphill, it is dropped for the gradient.

    Args:
        gradients: of f, for the parameters that have one.
        held: G of the last accepted step, where there is one.
        groups: an optimizer's ``param_groups``, with ``momentum`` and ``weight_decay``.
        radius: length of the step in the 2-norm over all parameters.
        form: one of `MOMENTUM_FORMS`; groups without momentum follow the gradient in both.
    """
    objective, direction = {}, {}
    for group in groups:
        for parameter in (p for p in group["params"] if p in gradients):
            own = gradients[parameter] + group["weight_decay"] * parameter.detach()
            objective[parameter] = own
            direction[parameter] = _turned(held.get(parameter), own, group["momentum"], form)
    if _dot(objective, direction) <= 0:
        direction = objective
    length = norm_of(direction)
    if length == 0.0:
        return None
    values = {p: (-radius / length) * towards for p, towards in direction.items()}
    decay = _decay_reduction(values, groups)
    return LinearStep(values, direction, norm_of(objective), decay, decay - _dot(gradients, values))


def norm_of(values: Values) -> float:
    """The 2-norm over all parameters, in double precision."""
    return math.sqrt(_dot(values, values))


def _turned(held: Tensor | None, gradient: Tensor, momentum: float, form: str) -> Tensor:
    """The next G."""
    if held is None or not momentum:
        return gradient
    return momentum * held + gradient if form == "heavy_ball" else held + momentum * gradient


def _decay_reduction(step: Values, groups: Sequence[Mapping[str, Any]]) -> float:
    """``wd / 2 * (||x||**2 - ||x + p||**2)``, computed from p, without cancellation."""
    total = 0.0
    for group in groups:
        here = {p: p.detach() for p in group["params"] if p in step}
        ahead = {p: step[p] for p in here}
        total -= group["weight_decay"] * (_dot(here, ahead) + 0.5 * _dot(ahead, ahead))
    return total


def _dot(first: Values, second: Values) -> float:
    """Inner product over the parameters of the second, in double precision."""
    terms: Iterable[Tensor] = ((first[p].double() * second[p].double()).sum() for p in second)
    return math.fsum(term.item() for term in terms)
