"""What small errors in front of a kink do to the gradient: some of its elements appear, vanish, or go another way.

A rectifier passes the gradient where its argument z is positive; max-pooling passes it to the largest element, whose
distance to the next one is z. Where an error carries z over 0, the gradient changes by a whole element: no derivative
says so. If z itself varies as much as its error does (deviation t of both, independent and normal), the chance of it is
close to ``1/4 exp(-z**2 / (2 a**2))`` with ``a = 4 t / pi``: it is exact at z = 0, and so is its integral over z,
``t sqrt(2 / pi)``. With c the change of ``<g, r>``, ``Jbar * g`` at a rectifier and ``(Jbar_1 - Jbar_2) * g`` at a
maximum, its mean square is ``sum of the chance * c**2``.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FlipSample"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FlipSample:
    """Of one rectifier or pooling.

    Args:
        node: whose errors are those of z.
        ratios: ``|z| / t`` for a known set of errors, those of all forward slots at once, [samples].
        squares: ``c**2`` of what each of them stands for, [probes, samples].
        drawn: mean square of those errors.
        near_zero: whether z is a value near 0, and not the distance of two values.
    """

    node: str
    ratios: Tensor
    squares: Tensor
    drawn: float
    near_zero: bool

    @classmethod
    def of(
        cls, node: str, z: Tensor, errors: Tensor, change: Tensor, weight: Tensor, *, near_zero: bool
    ) -> "FlipSample":
        """From sampled z, draws of errors [draws, samples], and changes [probes, samples] that stand for so many."""
        n = len(errors)
        unbiased = math.sqrt(n / 2) * math.exp(math.lgamma(n / 2) - math.lgamma((n + 1) / 2))  # from n draws
        deviation = errors.square().mean(0).sqrt() * unbiased
        may = (z != 0) & (deviation != 0)
        drawn = float((errors.square() * weight).mean(0).sum() / weight.sum()) if len(weight) else 0.0
        return cls(node, z[may].abs() / deviation[may], (change.square() * weight)[:, may], drawn, near_zero)

    def variance(self, mean_square: float) -> Tensor:
        """Mean square of the change of ``<g, r>`` for each probe, where z has errors of this mean square."""
        if not self.drawn or not mean_square:
            return torch.zeros(self.squares.shape[0], dtype=torch.float64)
        width = 4 / math.pi * math.sqrt(mean_square / self.drawn)
        return self.squares @ (torch.exp(-((self.ratios / width) ** 2) / 2) / 4)
