"""How noisy the gradient of a batch is: its variance, from what a training has at hand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from precc.analysis.metric import metric_norm
from precc.errors import ControllerError

__all__ = [
    "GradientNoise",
    "MicroBatches",
    "NoiseSource",
    "adam_metric",
    "adam_moments",
    "noise_of_moments",
    "noise_of_parts",
    "rounding_of_halves",
]

Vector = Mapping[str, Tensor]


class NoiseSource(Enum):
    """Where a variance is from."""

    MICRO_BATCHES = "micro-batches"
    RANKS = "ranks"
    HALVES = "halves of the batch"
    MOMENTS = "moments of Adam"


@dataclass(frozen=True, slots=True)
class GradientNoise:
    """The variance of the gradient of a batch.

    Args:
        variance: ``E ||g - E g||**2`` in the square of the gradient's norm, 2-norm or that of a metric.
        source: where it is from.
    """

    variance: float
    source: NoiseSource


def noise_of_parts(parts: Sequence[Vector], metric: Vector) -> float:
    """Of a sum of k independent parts c, which are given: ``k / (k - 1) * sum ||c - mean||**2``.

    Of two halves of a batch, with gradients a and b of their means, the parts are a / 2 and b / 2, and it is
    ``||a - b||**2 / 4``.

    >>> from torch import tensor
    >>> halves = [{"w": tensor([1.0, 0.5])}, {"w": tensor([0.0, 0.5])}]
    >>> noise_of_parts(halves, {})
    1.0

    Raises:
        ControllerError: fewer than two parts.
    """
    k = len(parts)
    if k < 2:
        raise ControllerError(f"the noise of {k} part is not known: it takes two at least")
    mean = {name: sum(part[name] for part in parts) / k for name in parts[0]}
    squares = (metric_norm({name: part[name] - own for name, own in mean.items()}, metric) ** 2 for part in parts)
    return k / (k - 1) * sum(squares)


def rounding_of_halves(first: Vector, second: Vector, metric: Vector) -> tuple[float, float]:
    """Of the errors a and b of the gradients of two halves of a batch: what persists from batch to batch, what passes.

    What persists is their inner product, ``<a, b>``, or 0 where that is negative: errors by chance are independent, and
    what both have in common all batches have. The rest of ``||(a + b) / 2||**2`` passes.

    >>> from torch import tensor
    >>> rounding_of_halves({"w": tensor([1.0, 0.5])}, {"w": tensor([1.0, -0.5])}, {})
    (0.75, 0.25)
    """
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    apart = {name: (first[name] - second[name]) / 2 for name in first}
    whole, half = metric_norm(mean, metric) ** 2, metric_norm(apart, metric) ** 2
    persisting = max(whole - half, 0.0)
    return persisting, whole - persisting


def noise_of_moments(first: Vector, second: Vector, metric: Vector) -> float:
    """From the running means m of gradients and v of their squares, both without bias: ``sum M * max(v - m**2, 0)``.

    The means reach over many steps, so what the gradient itself changed by in that time counts as noise; and m has a
    noise of its own, by which the estimate is too low: ``(1 - beta) / (1 + beta)`` of it, 5% at 0.9.
    """
    spread = {name: (second[name] - first[name].square()).clamp(min=0.0).sqrt() for name in first}
    return metric_norm(spread, metric) ** 2


def adam_metric(parameters: Mapping[str, Tensor], state: Mapping[Tensor, Any], groups: Any) -> dict[str, Tensor]:
    """Weights ``1 / (sqrt(v) + eps)`` of the squares in Adam's norm, v without bias; none of an optimizer without v.

    Of AMSGrad v is the largest so far.
    """
    options = {own: group for group in groups for own in group["params"]}
    found = {}
    for name, own in parameters.items():
        key = "max_exp_avg_sq" if options[own].get("amsgrad") else "exp_avg_sq"
        second = _unbiased(state.get(own), options[own], key, 1)
        if second is not None:
            found[name] = 1.0 / (second.sqrt() + options[own]["eps"])
    return found


def adam_moments(
    parameters: Mapping[str, Tensor], state: Mapping[Tensor, Any], groups: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """The running means m and v of all parameters, without bias; None if the optimizer does not have them."""
    options = {own: group for group in groups for own in group["params"]}
    first, second = (
        {name: _unbiased(state.get(own), options[own], key, beta) for name, own in parameters.items()}
        for beta, key in enumerate(("exp_avg", "exp_avg_sq"))
    )
    known = {name: own for name, own in first.items() if own is not None and second[name] is not None}
    squares = {name: own for name, own in second.items() if own is not None and name in known}
    return (known, squares) if known else None


def _unbiased(state: Any, group: Mapping[str, Any], key: str, beta: int) -> Tensor | None:
    if not state or key not in state or "betas" not in group:
        return None
    steps = float(state["step"])
    moment: Tensor = state[key]
    return moment / (1 - group["betas"][beta] ** steps) if steps else None


@dataclass(eq=False)
class MicroBatches:
    """Watches how one gradient is accumulated from several backwards.

    Kept are sums of squares and one copy of the gradient, however many there are.

    Args:
        parameters: by name.
        metric: of the norm.
    """

    parameters: Mapping[str, Tensor]
    metric: Vector
    _total: dict[str, Tensor] = field(default_factory=dict)
    _squares: dict[str, list[float]] = field(default_factory=dict)  # of each part
    _hooks: list[RemovableHandle] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, own in self.parameters.items():
            self._hooks.append(own.register_post_accumulate_grad_hook(self._seeing(name)))

    def _seeing(self, name: str) -> Any:
        def see(parameter: Tensor) -> None:
            total = parameter.grad
            if total is None:
                return
            part = total - self._total[name] if name in self._total else total
            self._squares.setdefault(name, []).append(metric_norm({name: part}, self.metric) ** 2)
            self._total[name] = total.detach().clone()

        return see

    def close(self) -> None:
        """Watch no more."""
        for hook in self._hooks:
            hook.remove()

    @property
    def count(self) -> int:
        """Backwards; what a parameter did not take part in adds nothing to it."""
        return max(map(len, self._squares.values()), default=0)

    @property
    def total(self) -> float:
        """Norm of the sum of all parts."""
        return metric_norm(self._total, self.metric)

    @property
    def part(self) -> float:
        """Root mean square of the norms of the parts."""
        return math.sqrt(sum(map(sum, self._squares.values())) / max(self.count, 1))

    @property
    def variance(self) -> float | None:
        """Of the mean of the parts: ``sum ||c - mean||**2 / (k * (k - 1))``; None of fewer than two."""
        k = self.count
        if k < 2:
            return None
        return max(sum(map(sum, self._squares.values())) - self.total**2 / k, 0.0) / (k * (k - 1))
