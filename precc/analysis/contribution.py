"""What the roundings of one sample do to loss and gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.analysis.calibration import Calibration, Correction
from precc.analysis.rounded_sample import RoundedSample
from precc.analysis.sensitivities import Sensitivities
from precc.analysis.slot_sample import SlotAdjoints, ValueSample

__all__ = ["Contribution", "RoundedSlot", "contribution_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What rounding the values of one sample does to the loss, and to ``<g, r>`` for each probe r.

    Args:
        loss_mean: of the loss error, to first order.
        loss_mean_noise: variance of that as an estimate.
        loss_curved: of the second order, [draws].
        loss_lost: ``sum(d * H m)`` of the mean errors d, with the errors m of e2m1 in all slots.
        loss_share: of m, what the errors d are.
        loss_variance: of the loss error, to first order.
        loss_noise: variance of `loss_variance` as an estimate.
        gradient_mean: [probes].
        gradient_mean_noise: variance of that as an estimate, [probes].
        gradient_variance: [probes].
    """

    loss_mean: float
    loss_mean_noise: float
    loss_curved: Tensor
    loss_lost: float
    loss_share: float
    loss_variance: float
    loss_noise: float
    gradient_mean: Tensor
    gradient_mean_noise: Tensor
    gradient_variance: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class RoundedSlot:
    """A slot that a plan rounds, with the errors at the sampled values."""

    slot: SlotAdjoints
    errors: RoundedSample

    @property
    def forward(self) -> bool:
        """Whether the loss depends on it."""
        return self.slot.loss is not None


def contribution_of(
    sample: ValueSample, rounded: Sequence[RoundedSlot], found: Sensitivities, calibration: Calibration
) -> Contribution:
    """Of the slots that read one sample."""
    loss = _LossTerms.zeros(len(sample.values), found.draws)
    for one in rounded:
        loss.add(one, calibration.of(one.slot.name))
    gradient = _GradientTerms.of(sample, rounded, calibration)
    terms = sample.weights * (loss.chance.square() + loss.drawn)
    return Contribution(
        loss.mean,
        0.0,
        loss.curved,
        loss.lost,
        loss.share / found.of_lost.size if loss.share else 0.0,
        float(terms.sum()),
        float(sample.noise_of(terms)),
        gradient.mean,
        gradient.mean_noise,
        gradient.variance,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _GradientTerms:
    """Of the slots that read one sample, as of `Contribution`."""

    mean: Tensor
    mean_noise: Tensor
    variance: Tensor

    @classmethod
    def of(cls, sample: ValueSample, rounded: Sequence[RoundedSlot], calibration: Calibration) -> "_GradientTerms":
        slots = [(one, calibration.of(one.slot.name).gradient) for one in rounded]
        chance = sum(one.slot.gradient * (one.errors.spread * factor) for one, factor in slots)
        squares = torch.as_tensor(chance).square()
        for one, factor in slots:
            if one.errors.variance is not None:
                squares = squares + one.slot.gradient.square() * (one.errors.variance * factor**2)
        mean = cls._means(sample, slots)
        return cls(mean.sum(1), sample.noise_of(mean), squares @ sample.weights)

    @staticmethod
    def _means(sample: ValueSample, slots: Sequence[tuple[RoundedSlot, float]]) -> Tensor:
        """Terms of the mean, [probes, samples whose errors have one]: those are few."""
        known = [(one.slot, one.errors.mean * factor) for one, factor in slots if one.errors.mean is not None]
        there = torch.stack([mean != 0 for _, mean in known]).any(0).nonzero()[:, 0] if known else None
        found = sample.weights.new_zeros(len(sample.slots[0].gradient), 0 if there is None else len(there))
        for slot, mean in known:
            found += slot.gradient[:, there] * (sample.weights * mean)[there]
        return found


@dataclass(slots=True, eq=False)
class _LossTerms:
    """Of the slots that read one sample: deviations at each value, the mean, and the second order in each draw."""

    chance: Tensor
    drawn: Tensor
    curved: Tensor
    mean: float = 0.0
    lost: float = 0.0
    share: float = 0.0

    @classmethod
    def zeros(cls, samples: int, draws: int) -> "_LossTerms":
        chance, drawn, curved = (torch.zeros(own, dtype=torch.float64) for own in (samples, samples, draws))
        return cls(chance, drawn, curved)

    def add(self, one: RoundedSlot, correction: Correction) -> None:
        slot, found, factor = one.slot, one.errors, correction.loss
        if slot.loss is None or slot.sums is None:
            return
        self.chance += slot.loss * found.spread * factor
        if found.variance is not None:
            self.drawn += slot.loss.square() * found.variance * factor**2
        mean, square = found.by_magnitude(slot.sums)
        self.mean += float(slot.sums.slopes @ mean) * factor
        share = slot.sums.share_of(mean)
        self.lost += float(slot.sums.lost @ mean) * factor
        self.share += abs(slot.sums.lost_by_e2m1) * share * factor
        alone = (square - (share * slot.sums.relative).square()).clamp(min=0.0)
        self.curved += slot.sums.curvatures @ alone * factor**2 / 2
