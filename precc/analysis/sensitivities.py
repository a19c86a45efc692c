"""How loss and gradient answer to errors in all slots: what the pass `sensitivity` finds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from precc.analysis.accumulator_sample import AccumulatorSample
from precc.analysis.flips import FlipSample
from precc.analysis.slot_sample import ValueSample
from precc.analysis.unknown_slots import UnknownDerivative, UnknownSlots, unknown_slots

__all__ = ["Sensitivities"]


@dataclass(frozen=True, slots=True)
class LostAnswer:
    """How the loss answers to second order if all slots lose what e2m1 loses.

    Args:
        size: sum of the magnitudes of the parts of the slots in ``m^T H m``.
        factor: of ``m^T H m``, with the adjoints at both ends, that gives the second order; 1/2 of a parabola.
    """

    size: float
    factor: float


@dataclass(frozen=True, eq=False, repr=False)
class Sensitivities:
    """What the pass finds.

    Args:
        samples: of all values that slots read, with the adjoints there.
        sums: dot products of all products, with the adjoints there.
        flips: at kinks.
        displacements: by slot of the forward, mean square of the displacements that `flips` come from.
        loss: without any rounding.
        lost: change of it where all slots have the errors of e2m1 in the values that it loses.
        gradient_norm: 2-norm of the gradient without any rounding.
        exact_probes: how many of the first probes are not random.
        unknown: operators without a derivative, which adjoints do not pass.
        traces: estimates of the trace of the second derivative of the loss by a weight, from each probe, by name of a
            slot that reads it, [probes]; the sum over the slots of a weight, and the mean over probes, is the estimate.
    """

    samples: tuple[ValueSample, ...]
    sums: tuple[AccumulatorSample, ...]
    flips: tuple[FlipSample, ...]
    displacements: Mapping[str, float]
    loss: float
    lost: float
    gradient_norm: float
    exact_probes: int
    unknown: tuple[UnknownDerivative, ...] = ()
    traces: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def unknown_slots(self) -> UnknownSlots:
        """Whose adjoints miss the paths through these operators."""
        return unknown_slots(self.unknown)

    @property
    def probes(self) -> int:
        """Random vectors that the gradient was differentiated along."""
        return self.samples[0].slots[0].gradient.shape[0] if self.samples else 0

    @property
    def draws(self) -> int:
        """Of the curvature."""
        known = (slot.sums.curvatures for own in self.samples for slot in own.slots if slot.sums is not None)
        return next((len(own) for own in known), 0)

    @cached_property
    def of_lost(self) -> "LostAnswer":
        """The second order of the errors m of e2m1 in all slots: its size, and what it is in truth over ``m^T H m``."""
        sums = [slot.sums for own in self.samples for slot in own.slots if slot.sums is not None]
        first = sum(float(own.slopes @ own.relative) for own in sums)
        parts = [own.lost_by_e2m1 for own in sums]
        found = (self.lost - first) / sum(parts) if sum(parts) else 0.0
        return LostAnswer(sum(map(abs, parts)), min(max(found, -1.0), 1.0))

    def deviation_of_mean(self, squares: Tensor, coherent: Tensor | None = None) -> float:
        """Standard error of the mean of what the probes found, from those that are random; NaN if there is but one.

        Few that happen to agree do not tell it. Of coherent errors each probe gives the square of a normal number: the
        mean of n has a relative deviation of ``sqrt(2 / n)``, and its logarithm, for few, a larger one.

        Args:
            squares: of all errors, [probes].
            coherent: the part of them that comes from the mean of errors, [probes].
        """
        drawn = squares[self.exact_probes :]
        if len(drawn) < 2:
            return math.nan if len(drawn) else 0.0
        n, total = len(drawn), 0.0 if coherent is None else float(coherent[self.exact_probes :].sum())
        of_logarithm = math.sqrt(float(torch.polygamma(1, torch.tensor(n / 2))))  # of the mean of n
        return max(float(drawn.std()) * math.sqrt(n), total * math.expm1(of_logarithm)) / len(squares)
