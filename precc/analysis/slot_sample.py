"""What an analysis keeps of the values of slots: a sample, with the adjoints of loss and gradient there.

From it follows the error of any precision in these slots, without running the step again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from precc.analysis.loss_sums import LossSums, MagnitudeMeans, magnitudes_of
from precc.analysis.rounding_error import ScaleKey
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.source import Source, rounded_in

__all__ = ["SlotAdjoints", "ValueSample"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SlotAdjoints:
    """Of one slot, at the sampled values.

    Args:
        name: of the slot.
        axis: its contracted dimension.
        channel: its dimension of channels.
        loss: derivative of the loss with respect to each value, [samples]; None: the loss does not depend on the slot.
        gradient: of ``<gradient, r>`` for each probe r, [probes, samples].
        amax: largest magnitude of what shares a scale with each value, where scales are not the tensor's.
        sums: of the loss over all values; None as above.
        source: the result that the values are, if that has a slot; None as well of a result.
    """

    name: str
    axis: int
    channel: int
    loss: Tensor | None
    gradient: Tensor
    amax: Mapping[ScaleKey, Tensor] = field(default_factory=dict)
    sums: LossSums | None = None
    source: Source | None = None

    def rounded_in(self, plan: PrecisionPlan) -> Precision:
        """Its precision under a plan; as the function of this name."""
        return rounded_in(plan, self.name, self.source)

    @property
    def is_finite(self) -> bool:
        """Whether all derivatives are."""
        found = [self.gradient, *([] if self.loss is None else [self.loss])]
        found += [] if self.sums is None else [self.sums.slopes, self.sums.curvatures, self.sums.lost]
        return all(bool(own.isfinite().all()) for own in found)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ValueSample:
    """Values that one or more slots read, drawn at random.

    Args:
        elements: how many values there are.
        values: those drawn, [samples]; all of them if they are few.
        weights: of the sums over all values that each one stands for, [samples].
        amax: the largest magnitude of all.
        slots: that read them.
    """

    elements: int
    values: Tensor
    weights: Tensor
    amax: Tensor
    slots: tuple[SlotAdjoints, ...]

    @property
    def whole(self) -> bool:
        """Whether all values are there."""
        return len(self.values) == self.elements

    @property
    def magnitudes(self) -> MagnitudeMeans:
        """For averages over the values of a magnitude."""
        return MagnitudeMeans(magnitudes_of(self.values), self.weights)

    def noise_of(self, terms: Tensor) -> Tensor:
        """Variance of sums over the sample as estimates of those over all values, [...].

        Args:
            terms: of the sums, [..., samples], or of some of the samples; those of the others are 0.
        """
        n, others = len(self.values), len(self.values) - terms.shape[-1]
        if self.whole or n < 2:
            return terms.new_zeros(terms.shape[:-1])
        mean = terms.sum(-1) / n
        squares = (terms - mean[..., None]).square().sum(-1) + others * mean.square()
        return squares * (n / (n - 1))


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Sampled elements of a tensor.

    Args:
        positions: ascending.
        weights: what each one stands for in sums over all.
        elements: how many there are.
        mean_square: of all of them.
    """

    positions: Tensor
    weights: Tensor
    elements: int
    mean_square: float

    @property
    def whole(self) -> bool:
        """Whether all values are there."""
        return len(self.positions) == self.elements


def drawn_by_size(values: Tensor, samples: int, seed: int) -> Drawn:
    """Positions of elements, half of them with chances in proportion to their squares; all if they are few.

    One is drawn from each of as many parts of equal chance.
    """
    elements = values.numel()
    squares = values.detach().reshape(-1).double().square()
    total = squares.sum()
    mean_square = float(total) / max(elements, 1)
    if elements <= 2 * samples:
        return Drawn(torch.arange(elements, device=values.device), torch.ones_like(squares), elements, mean_square)
    chances = (
        squares / (2 * total) + 0.5 / elements if bool((total > 0) & total.isfinite()) else squares * 0 + 1 / elements
    )
    sums = chances.cumsum(0)
    found = torch.searchsorted(sums, (_one_a_part(samples, seed) / samples).to(sums.device) * sums[-1]).clamp(
        max=elements - 1
    )
    return Drawn(found, 1 / (samples * chances[found]), elements, mean_square)


def drawn_positions(elements: int, samples: int, seed: int, device: torch.device) -> Tensor:
    """Numbers of the values to draw, ascending: one from each of as many equal parts; all if they are few."""
    if elements <= 2 * samples:
        return torch.arange(elements, device=device)
    return (_one_a_part(samples, seed) * (elements / samples)).long().clamp(max=elements - 1).to(device)


def _one_a_part(samples: int, seed: int) -> Tensor:
    """A number from each of the intervals [0, 1), [1, 2), ..."""
    generator = torch.Generator().manual_seed(seed & (2**63 - 1))
    drawn = torch.rand(samples, generator=generator, dtype=torch.float64)
    return torch.arange(samples, dtype=torch.float64) + drawn
