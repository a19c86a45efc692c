"""How the loss answers to errors in the values of a slot, summed over all values by their magnitude.

The mean of an error is a sum of terms of both signs, ``sum(Jbar * d)`` and ``1/2 sum(d**2 * d2L/dv2)``: from a sample
of the values it would be uncertain by more than itself. What an error is depends on the value, not on the adjoint: so
the relative errors ``r = d / v`` are averaged over the sampled values of a magnitude, and multiply the sums of
``Jbar * v`` and ``v**2 * d2L/dv2`` over all values of that magnitude. There are sixteen magnitudes an octave, of each
sign.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["LossSums", "MagnitudeMeans", "magnitudes_of", "summed"]

#: Bits of a float32 behind those that number a magnitude: its sign, its exponent, and four of its significand.
_DROPPED = 19
_COUNT = 1 << (32 - _DROPPED)


def magnitudes_of(values: Tensor) -> Tensor:
    """Number of the magnitude of each value, with its sign; one dimension, int16."""
    bits = values.detach().reshape(-1).float().view(torch.int32)
    return ((bits >> _DROPPED) & (_COUNT - 1)).short()


def summed(numbers: Tensor, terms: Tensor) -> Tensor:
    """Sums of terms over the values of each magnitude, [all magnitudes]."""
    return torch.bincount(numbers, terms.reshape(-1).double(), _COUNT).double()  # of no values it is of integers


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LossSums:
    """Of one slot.

    Args:
        numbers: of the magnitudes that have values, ascending, [magnitudes].
        slopes: sum of ``Jbar * v``, with Jbar the derivative of the loss, [magnitudes].
        curvatures: sum of ``v**2 * d2L/dv2``, from each of some displacements of all slots, [draws, magnitudes]. Slots
            that read the same values are displaced together, so that it holds where all of them round alike; where one
            does alone, the mixed derivatives between them are counted too much.
        lost: sum of ``v * (change of Jbar)`` where all slots have the errors m of e2m1 in values that it loses,
            [magnitudes].
        moments: sum of ``v * m``, [magnitudes].
        squares: sum of ``v**2``, [magnitudes].
    """

    numbers: Tensor
    slopes: Tensor
    curvatures: Tensor
    lost: Tensor
    moments: Tensor
    squares: Tensor

    @classmethod
    def of(cls, slopes: Tensor, curvatures: Tensor, lost: Tensor, moments: Tensor, squares: Tensor) -> "LossSums":
        """From sums over all magnitudes."""
        there = squares.nonzero()[:, 0]
        rest = (own[there] for own in (lost, moments, squares))
        return cls(there, slopes[there], curvatures[:, there], *rest)

    @property
    def relative(self) -> Tensor:
        """The errors m, relative to the values, [magnitudes]."""
        return self.moments / self.squares

    @property
    def lost_by_e2m1(self) -> float:
        """``m^T H m``, the part of this slot."""
        return float(self.lost @ self.relative)

    def share_of(self, mean: Tensor) -> float:
        """The factor of m that is closest to errors of these means, relative to the values, [magnitudes]."""
        own = float(self.moments @ self.relative)
        return float(self.moments @ mean) / own if own else 0.0


@dataclass(frozen=True, eq=False)
class MagnitudeMeans:
    """Averages over the sampled values of each magnitude.

    Args:
        numbers: of each sampled value, [samples].
        weights: of values that each one stands for, [samples].
    """

    numbers: Tensor
    weights: Tensor

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor, Tensor]:
        """The numbers that were drawn, ascending, what their values stand for, and the place there of each sample."""
        counts = summed(self.numbers, self.weights)
        known = counts.nonzero()[:, 0]
        places = torch.searchsorted(known, self.numbers.to(known.dtype)).clamp(max=max(len(known) - 1, 0))
        return known, counts[known], places

    def sums(self, terms: Tensor) -> Tensor:
        """Of terms [..., samples], weighted, over the values of each magnitude that was drawn, [..., drawn]."""
        known, _, places = self._known
        rows = (terms * self.weights).reshape(math.prod(terms.shape[:-1]), terms.shape[-1])
        found = torch.stack([torch.bincount(places, row.double(), len(known)).double() for row in rows])
        return found.reshape(*terms.shape[:-1], len(known))

    def from_sums(self, sums: Tensor, wanted: Tensor) -> Tensor:
        """Averages over the values of each magnitude that is wanted, [..., wanted].

        Of those of which none was drawn they are the nearest one's.
        """
        known, counts, _ = self._known
        own = torch.searchsorted(known, _nearest(known, wanted))
        return sums[..., own] / counts[own]


def _nearest(known: Tensor, wanted: Tensor) -> Tensor:
    """For each number the nearest known one of the same sign, or of the other if there is none."""
    after = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    before = (after - 1).clamp(min=0)
    far = [(known[own] - wanted).abs() + _COUNT * (_sign(known[own]) != _sign(wanted)) for own in (before, after)]
    return torch.where(far[0] < far[1], known[before], known[after])


def _sign(numbers: Tensor) -> Tensor:
    return numbers >= _COUNT // 2
