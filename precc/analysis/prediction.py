"""The error of a plan, predicted from samples of values and adjoints.

To first order an error ``d`` of the values of a slot changes J by ``sum(Jbar * d)``, with Jbar the adjoint of J. Errors
that are a matter of chance (a nearest rounding of values that vary by more than a quantum) have mean 0 and are
independent: variances ``sum(Jbar**2 * d**2)`` add up. Slots that read the same values make errors together, with the
adjoint ``sum over slots of Jbar * d``. Values that overflow or vanish have a mean: ``sum(Jbar * d)``. To second order
the loss has the error ``1/2 sum(d**2 * d2L/dv2)``, in each of some draws of the curvature: their mean is that of the
error, and their variance comes to its variance (both by magnitude: `precc.analysis.loss_sums`). Elements of the
gradient that appear or vanish at kinks come beside that (`precc.analysis.flips`), for errors of the size that
`precc.analysis.error_gains` finds there. The errors of sums (`precc.analysis.accumulator_sample`) have variances
``sum(Jbar**2 * d**2)`` too, and a mean ``beta * sum(Jbar * s)``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from precc.accumulation.product_ops import Accumulate
from precc.accumulation.tensor_ops import accumulate_tensor_ops
from precc.analysis.accumulator_sample import AccumulatorSample, SumErrors, errors_of_sums
from precc.analysis.calibration import Calibration, Correction
from precc.analysis.condition import Condition
from precc.analysis.error_estimate import ErrorEstimate, StandardErrors
from precc.analysis.error_gains import ErrorGains, MeanSquare
from precc.analysis.forward_errors import NodeError, forward_errors
from precc.analysis.loss_sums import LossSums
from precc.analysis.rounding_error import TENSOR, RelativeError, RoundingErrors, rounded_rows, rounding_errors
from precc.analysis.sensitivities import Sensitivities
from precc.analysis.slot_sample import SlotAdjoints, ValueSample
from precc.analysis.unknown_slots import UnknownSlots
from precc.errors import AnalysisError
from precc.plan import PrecisionPlan
from precc.precision import Precision

__all__ = ["Contribution", "Prediction"]


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
class Prediction:
    """Predicts from what the passes found.

    Args:
        sensitivities: samples and flips.
        gains: of the forward part.
        calibration: measured over predicted, so far.
        accumulate: emulates accumulators.
    """

    sensitivities: Sensitivities
    gains: ErrorGains
    calibration: Calibration
    accumulate: Accumulate = accumulate_tensor_ops
    _sums: dict[tuple[Any, ...], SumErrors] = field(default_factory=dict)

    def of(self, plan: PrecisionPlan) -> ErrorEstimate:
        """The error of a plan; infinite where a sampled value becomes infinite.

        Raises:
            AnalysisError: scales of the plan come from magnitudes that the analysis has not, or it rounds sums, and
                the analysis has none.
            UnsupportedError: the plan has a transform.
        """
        if plan.rounds_sums and not self.sensitivities.sums:
            raise AnalysisError(
                "the plan rounds sums, and the analysis kept none: net.analyze(..., options=AnalysisOptions(sums=64))"
            )
        rounded = self._rounded(plan)
        return replace(self._known(plan, rounded), unknown=self._unknown(plan, rounded))

    def _unknown(self, plan: PrecisionPlan, rounded: Sequence["_Rounded"]) -> UnknownSlots:
        """The slots that the plan rounds and whose adjoints miss a path."""
        found = self.sensitivities
        sums = {own.name for own in found.sums if plan.accumulator(own.name) is not None}
        return found.unknown_slots.among(sums | {one.slot.name for one in rounded})

    def _known(self, plan: PrecisionPlan, rounded: Sequence["_Rounded"]) -> ErrorEstimate:
        """What adjoints tell."""
        lost = max((one.lost_share for one in rounded), default=0.0)
        if math.isinf(lost):
            return ErrorEstimate(math.inf, math.inf, math.inf, StandardErrors(math.nan, math.nan, math.nan), lost)
        by_sample: dict[ValueSample, list[_Rounded]] = {}
        for one in rounded:
            by_sample.setdefault(one.sample, []).append(one)
        parts = [self._contribution(sample, own) for sample, own in by_sample.items()]
        parts += filter(None, (self.contribution_of_sums(sample, plan) for sample in self.sensitivities.sums))
        return self._total(parts, self._flipped(plan, rounded), lost)

    def _rounded(self, plan: PrecisionPlan) -> list["_Rounded"]:
        """The slots of operands that the plan rounds, with their errors."""
        return [
            _Rounded(sample, slot, errors_of(sample, slot, plan.precision(slot.name)))
            for sample in self.sensitivities.samples
            for slot in sample.slots
            if plan.precision(slot.name).changes(sample.values.dtype)
        ]

    def _contribution(self, sample: ValueSample, rounded: Sequence["_Rounded"]) -> Contribution:
        """Of the slots that read one sample."""
        shape = sample.slots[0].gradient.shape
        chance, mean, drawn = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
        loss = _LossTerms.zeros(shape[1], self.sensitivities.draws)
        for one in rounded:
            slot, found = one.slot, one.errors
            correction = self.calibration.of(slot.name)
            chance += slot.gradient * found.spread * correction.gradient
            mean += slot.gradient * found.mean * correction.gradient
            drawn += slot.gradient.square() * found.variance * correction.gradient**2
            loss.add(one, correction)
        w = sample.weights
        terms = w * (loss.chance.square() + loss.drawn)
        return Contribution(
            loss.mean,
            0.0,
            loss.curved,
            loss.lost,
            loss.share / self.sensitivities.of_lost.size if loss.share else 0.0,
            float(terms.sum()),
            float(sample.noise_of(terms)),
            (w * mean).sum(1),
            sample.noise_of(w * mean),
            (w * (chance.square() + drawn)).sum(1),
        )

    def contribution_of_sums(self, sample: AccumulatorSample, plan: PrecisionPlan) -> Contribution | None:
        """Of the sums of one product; None if the plan does not round them."""
        found = self.errors_of_sums(sample, plan)
        if found is None:
            return None
        loss, probes = sample.loss_totals, sample.gradient_totals
        by_factor = torch.tensor([own.by_factor for own in probes], dtype=torch.float64)
        variances = torch.tensor([found.variance_of(own) for own in probes], dtype=torch.float64)
        return Contribution(
            found.slope * loss.by_factor,
            found.slope_variance * loss.by_factor**2,
            torch.zeros(self.sensitivities.draws, dtype=torch.float64),
            0.0,
            0.0,
            found.variance_of(loss),
            0.0,
            found.slope * by_factor,
            found.slope_variance * by_factor.square(),
            variances,
        )

    def errors_of_sums(self, sample: AccumulatorSample, plan: PrecisionPlan) -> SumErrors | None:
        """The errors of sampled sums of operands that are rounded as the plan says; None if it does not round sums."""
        accumulator = plan.accumulator(sample.name)
        if accumulator is None:
            return None
        first, second = (plan.precision(name) for name in sample.slots)
        key = (sample.name, accumulator, first, second)
        if key not in self._sums:
            operands = (self._rounder(sample.slots[0], first), self._rounder(sample.slots[1], second))
            self._sums[key] = errors_of_sums(sample, accumulator, self.accumulate, operands=operands)
        return self._sums[key]

    def _rounder(self, slot: str, precision: Precision) -> Callable[[Tensor], Tensor]:
        amax = next(own.amax for own in self.sensitivities.samples for site in own.slots if site.name == slot)

        def rounded(rows: Tensor) -> Tensor:
            return rounded_rows(rows, precision, amax) if precision.changes(rows.dtype) else rows

        return rounded

    def _flipped(self, plan: PrecisionPlan, rounded: Sequence["_Rounded"]) -> Tensor:
        """Mean square of the change of ``<g, r>`` at kinks, [probes]."""
        flips = self.sensitivities.flips
        total = torch.zeros(self.sensitivities.probes, dtype=torch.float64)
        if not flips:
            return total
        planned = self.gains.mean_squares(self._corrected(self._mean_squares(plan, rounded)))
        displaced = {name: MeanSquare(own, own) for name, own in self.sensitivities.displacements.items()}
        usual = self.gains.mean_squares(displaced)
        for flip in flips:
            if flip.node in usual and usual[flip.node].usual:
                own = planned[flip.node]
                size = own.near_zero if flip.near_zero else own.usual
                total += flip.variance(flip.drawn * size / usual[flip.node].usual)
        return total

    def _corrected(self, squares: Mapping[str, MeanSquare]) -> dict[str, MeanSquare]:
        """So that what flips changes the gradient by a calibrated factor: its square goes as the root of these."""
        factors = {name: self.calibration.of(name).gradient ** 4 for name in squares}
        return {
            name: MeanSquare(own.usual * factors[name], own.near_zero * factors[name]) for name, own in squares.items()
        }

    def forward_errors(self, plan: PrecisionPlan, conditions: Mapping[str, Condition]) -> dict[str, NodeError]:
        """Errors of the values of each node of the forward part under a plan, by its name."""
        rounded = self._rounded(plan)
        roundings = {one.slot.name: one.relative for one in rounded if one.forward}
        return forward_errors(self.gains, conditions, plan, roundings, self._mean_squares(plan, rounded))

    def _mean_squares(self, plan: PrecisionPlan, rounded: Sequence["_Rounded"]) -> dict[str, MeanSquare]:
        """Mean square error of each slot and each accumulator of the forward part under a plan."""
        sizes = {one.slot.name: one.errors.mean_square(one.sample.weights) for one in rounded if one.forward}
        found = {name: MeanSquare(size, size) for name, size in sizes.items()}
        for sums in self.sensitivities.sums:
            errors = self.errors_of_sums(sums, plan) if sums.loss is not None else None
            if errors is not None:
                found[sums.name] = MeanSquare(errors.mean_square(sums.weights), errors.chance[0])
        return found

    def _total(self, parts: Sequence[Contribution], flipped: Tensor, lost: float) -> ErrorEstimate:
        if not parts:
            return ErrorEstimate(0.0, 0.0, 0.0, StandardErrors(0.0, 0.0, 0.0))
        curved = torch.stack([part.loss_curved for part in parts]).sum(0)
        between = float(curved.var()) if len(curved) > 1 else 0.0
        loss = math.sqrt(sum(part.loss_variance for part in parts) + between)
        of_loss = math.sqrt(sum(part.loss_noise for part in parts)) / (2 * loss) if loss else 0.0
        of_mean = math.sqrt(sum(part.loss_mean_noise for part in parts) + between / max(len(curved), 1))
        means = torch.stack([part.gradient_mean for part in parts]).sum(0)
        noise = torch.stack([part.gradient_mean_noise for part in parts]).sum(0)
        variances = torch.stack([part.gradient_variance for part in parts]).sum(0)
        squares = (means.square() - noise).clamp(min=0.0) + variances + flipped
        norm = self.sensitivities.gradient_norm
        gradient = math.sqrt(float(squares.mean())) / norm if norm else math.nan
        spread = self.sensitivities.deviation_of_mean(squares) / 2
        of_gradient = spread / (gradient * norm * norm) if gradient else 0.0
        mean = sum(part.loss_mean for part in parts) + (float(curved.mean()) if len(curved) else 0.0)
        together = sum(part.loss_lost for part in parts) * sum(part.loss_share for part in parts)
        mean += together * self.sensitivities.of_lost.factor
        return ErrorEstimate(mean, loss, gradient, StandardErrors(of_mean, of_loss, of_gradient), lost)


@dataclass(frozen=True, slots=True, eq=False)
class _Rounded:
    """A slot that a plan rounds, with the errors at the sampled values."""

    sample: ValueSample
    slot: SlotAdjoints
    errors: RoundingErrors

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

    def add(self, one: "_Rounded", correction: Correction) -> None:
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
