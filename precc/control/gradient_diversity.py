"""Gradient diversity: do the last gradients of a tensor point the same way?

``diversity = sum_k ||g_k|| / ||sum_k g_k||`` in the 2-norm: 1 if all are parallel, about ``sqrt(n)`` for n independent
ones of one length, infinite if they cancel. As in AdaPT, gradients are normalised first, so the numerator is n.
(Kummer, Sidak, Reichmann, Gansterer 2021; after Yin et al. 2018, who square the norms.)
"""

import math

import torch
from torch import Tensor

__all__ = ["GradientSum", "gradient_diversity"]


def gradient_diversity(count: int, norm_of_sum: float) -> float:
    """Of `count` normalised gradients; at least 1, whatever rounding does to the norm.

    >>> gradient_diversity(4, 2.0), gradient_diversity(2, 0.0)
    (2.0, inf)
    """
    return max(1.0, count / norm_of_sum) if norm_of_sum > 0.0 else math.inf


class GradientSum:
    """The sum of the normalised gradients of one tensor, and how many there were; zeros have no direction."""

    def __init__(self, total: Tensor | None = None, count: int = 0) -> None:
        self.total, self.count = total, count

    def add(self, gradient: Tensor) -> bool:
        """Take one in, unless it is not finite: whether it is."""
        own = gradient.detach().double()  # squares of large and small ones would leave float32
        norm = float(own.norm())
        if not math.isfinite(norm):
            return False
        if norm > 0.0:
            unit = (own / norm).to(torch.promote_types(gradient.dtype, torch.float32))
            self.total = unit if self.total is None else self.total + unit
            self.count += 1
        return True

    @property
    def diversity(self) -> float:
        """Of what was taken in so far."""
        return gradient_diversity(self.count, 0.0 if self.total is None else float(self.total.norm()))
