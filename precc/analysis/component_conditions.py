"""Condition numbers of a forward product's components, together with the activation that follows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ComponentConditions"]

#: Quantiles that are kept: at 0, 1/64, ... 1.
_QUANTILES = 65

#: Of a channel, or of a product. Behind a rectifier half of the condition numbers are 0, and so may a median be.
_NINE_IN_TEN = 0.9


@dataclass(frozen=True, slots=True)
class ComponentConditions:
    """``kappa_phi * kappa_v`` of a sample of components, with ``kappa_v = |W| |h| / |W h + b|``.

    By so much relative errors of a component's terms grow until behind the activation, to first order (El Arar, Filip,
    Mary and Riccietti 2025, arXiv 2503.15568). Infinite where the sum is 0 and its terms are not.

    Args:
        activation: what follows, by its name in `precc.condition_numbers.ACTIVATIONS`; ``"identity"`` if nothing there.
        channels: for each channel of the result what nine in ten of its components do not exceed.
        quantiles: of all of them, equally far from one another, from the smallest to the largest.
    """

    activation: str
    channels: tuple[float, ...]
    quantiles: tuple[float, ...]

    @classmethod
    def of(cls, activation: str, kappas: Tensor) -> "ComponentConditions":
        """From a sample ``[channels, components]``.

        >>> ComponentConditions.of("relu", torch.tensor([[1.0, 2.0, 3.0], [5.0, 6.0, torch.inf]])).channels
        (3.0, inf)
        """
        if not kappas.numel():
            return cls(activation, (math.nan,) * len(kappas), (math.nan,) * _QUANTILES)
        ordered = kappas.flatten().sort().values
        ranks = (torch.linspace(0, 1, _QUANTILES, dtype=torch.float64) * (len(ordered) - 1)).round().long()
        count = max(1, math.ceil(_NINE_IN_TEN * kappas.shape[1]))
        return cls(activation, tuple(kappas.kthvalue(count, 1).values.tolist()), tuple(ordered[ranks].tolist()))

    @property
    def p90(self) -> float:
        """What nine in ten of all components do not exceed."""
        return self.quantiles[math.ceil(_NINE_IN_TEN * (_QUANTILES - 1))]

    def share_within(self, tau: float) -> float:
        """The share of components whose condition number is no larger, to 1/128.

        >>> ComponentConditions("identity", (1.0,), tuple(float(k) for k in range(65))).share_within(31.5)
        0.4921875
        """
        within = sum(own <= tau for own in self.quantiles)
        return min(1.0, max(0.0, (within - 0.5) / (_QUANTILES - 1))) if 0 < within < _QUANTILES else float(within > 0)
