"""What the roundings of one sample do to loss and gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.analysis.calibration import Calibration, Correction
from precc.analysis.error_gains import MeanSquare
from precc.analysis.loss_sums import LossSums
from precc.analysis.rounding_error import TENSOR, RelativeError, RoundingErrors, rounding_errors
from precc.analysis.sensitivities import Sensitivities
from precc.analysis.slot_sample import SlotAdjoints, ValueSample
from precc.precision import Precision
from precc.slots import RESULT

__all__ = ["Contribution", "RoundedSlot", "contribution_of", "errors_of"]


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

    sample: ValueSample
    slot: SlotAdjoints
    errors: RoundingErrors

    @classmethod
    def of(cls, sample: ValueSample, slot: SlotAdjoints, precision: Precision) -> "RoundedSlot":
        """The slot in a precision."""
        return cls(sample, slot, errors_of(sample, slot, precision))

    @property
    def mean_square(self) -> MeanSquare:
        """Of the errors; a rectifier may be next to a result, where those of values near 0 count."""
        usual = self.errors.mean_square(self.sample.weights)
        near = self.errors.mean_square_near_zero(self.sample.values, self.sample.weights) if self.is_result else usual
        return MeanSquare(usual, near)

    @property
    def is_result(self) -> bool:
        """Whether it is what an op stores."""
        return self.slot.name.endswith(f".{RESULT}")

    @property
    def forward(self) -> bool:
        """Whether the loss depends on it."""
        return self.slot.loss is not None

    def by_magnitude(self, sums: LossSums) -> tuple[Tensor, Tensor]:
        """Means of the relative errors and of their squares, over the values of each magnitude of these sums."""
        values, found = self.sample.values.double(), self.errors
        v = torch.where(values == 0, 1.0, values)  # zeros have no error
        squares = (found.mean.square() + found.spread.square() + found.variance) / v.square()
        mean, square = self.sample.magnitudes.means(torch.stack([found.mean / v, squares]), sums.numbers)
        return mean, square

    @property
    def lost_share(self) -> float:
        """Of the sum of squares, what becomes 0 or lies beyond the ends."""
        return self.errors.lost_share(self.sample.values, self.sample.weights)

    @property
    def relative(self) -> RelativeError:
        """The errors, relative to the values."""
        return self.errors.relative(self.sample.values, self.sample.weights)


def contribution_of(
    sample: ValueSample, rounded: Sequence[RoundedSlot], found: Sensitivities, calibration: Calibration
) -> Contribution:
    """Of the slots that read one sample."""
    shape = sample.slots[0].gradient.shape
    chance, mean, drawn = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    loss = _LossTerms.zeros(shape[1], found.draws)
    for one in rounded:
        slot, errors = one.slot, one.errors
        correction = calibration.of(slot.name)
        chance += slot.gradient * errors.spread * correction.gradient
        mean += slot.gradient * errors.mean * correction.gradient
        drawn += slot.gradient.square() * errors.variance * correction.gradient**2
        loss.add(one, correction)
    w = sample.weights
    terms = w * (loss.chance.square() + loss.drawn)
    return Contribution(
        loss.mean,
        0.0,
        loss.curved,
        loss.lost,
        loss.share / found.of_lost.size if loss.share else 0.0,
        float(terms.sum()),
        float(sample.noise_of(terms)),
        (w * mean).sum(1),
        sample.noise_of(w * mean),
        (w * (chance.square() + drawn)).sum(1),
    )


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

    def add(self, one: "RoundedSlot", correction: Correction) -> None:
        slot, found, factor = one.slot, one.errors, correction.loss
        if slot.loss is None or slot.sums is None:
            return
        self.chance += slot.loss * found.spread * factor
        self.drawn += slot.loss.square() * found.variance * factor**2
        mean, square = one.by_magnitude(slot.sums)
        self.mean += float(slot.sums.slopes @ mean) * factor
        share = slot.sums.share_of(mean)
        self.lost += float(slot.sums.lost @ mean) * factor
        self.share += abs(slot.sums.lost_by_e2m1) * share * factor
        alone = (square - (share * slot.sums.relative).square()).clamp(min=0.0)
        self.curved += slot.sums.curvatures @ alone * factor**2 / 2


def errors_of(sample: ValueSample, slot: SlotAdjoints, precision: Precision) -> RoundingErrors:
    """The rounding errors in one slot, at the sampled values."""
    amax = {TENSOR: sample.amax, **slot.amax}
    return rounding_errors(sample.values, precision, amax, axis=slot.axis, channel=slot.channel)
