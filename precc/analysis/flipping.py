"""What flips at all kinks of a step under a plan, and how that answers to the errors of single slots."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from precc.analysis.error_gains import ErrorGains, MeanSquare
from precc.analysis.flips import FlipSample
from precc.analysis.sensitivities import Sensitivities

__all__ = ["Flipping"]


@dataclass(frozen=True, eq=False)
class Flipping:
    """At the kinks of one step.

    Args:
        sensitivities: with a sample of what may flip.
        gains: of the forward part.
    """

    sensitivities: Sensitivities
    gains: ErrorGains

    def total(self, squares: Mapping[str, MeanSquare]) -> Tensor:
        """Mean square of the change of ``<g, r>``, [probes], under mean square errors of slots and sums."""
        found = torch.zeros(self.sensitivities.probes, dtype=torch.float64)
        for flip, at_sample, _ in self._sites(squares):
            found += flip.variance(at_sample)
        return found

    def slopes(self, squares: Mapping[str, MeanSquare]) -> dict[str, float]:
        """By slot or sum: what a mean square error adds to that of the gradient, relative to its norm squared.

        By the chord from no errors to these: each gets the share of what flips at a node that it has of the mean square
        there, and these times `squares` add up to all that flips.
        """
        found: dict[str, float] = {}
        for flip, at_sample, size in self._sites(squares):
            if size:
                found[flip.node] = found.get(flip.node, 0.0) + self._relative(flip.variance(at_sample)) / size
        return self.gains.slopes_of_slots(found)

    def _relative(self, squares: Tensor) -> float:
        norm = self.sensitivities.gradient_norm
        return float(squares.mean()) / norm**2 if norm else math.nan

    @cached_property
    def _displaced(self) -> dict[str, MeanSquare]:
        """Mean squares at nodes of the errors that the samples were drawn with."""
        own = self.sensitivities.displacements.items()
        return self.gains.mean_squares({name: MeanSquare(size, size) for name, size in own})

    def _sites(self, squares: Mapping[str, MeanSquare]) -> Iterator[tuple[FlipSample, float, float]]:
        """Where elements flip, with the mean square error there in the units of the sample, and of the gains."""
        if not self.sensitivities.flips:
            return
        planned = self.gains.mean_squares(squares)
        for flip in self.sensitivities.flips:
            usual = self._displaced[flip.node].usual if flip.node in self._displaced else 0.0
            if usual:
                own = planned[flip.node]
                size = own.near_zero if flip.near_zero else own.usual
                yield flip, flip.drawn * size / usual, size
