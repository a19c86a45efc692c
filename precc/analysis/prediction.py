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
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.kernels import Accumulate, accumulate_fastest
from precc.accumulation.sums import one_pass
from precc.analysis.accumulator_sample import AccumulatorSample, SumErrors, errors_of_sums
from precc.analysis.calibration import Calibration
from precc.analysis.condition import Condition
from precc.analysis.contribution import Contribution, RoundedSlot, contribution_of
from precc.analysis.error_estimate import ErrorEstimate, StandardErrors
from precc.analysis.error_gains import ErrorGains, MeanSquare
from precc.analysis.flipping import Flipping
from precc.analysis.forward_errors import NodeError, forward_errors
from precc.analysis.rounded_sample import RoundedSamples, errors_of, mean_square_of
from precc.analysis.rounding_error import rounded_rows
from precc.analysis.sensitivities import Sensitivities
from precc.analysis.slot_error import SlotError
from precc.analysis.slot_sample import ValueSample
from precc.analysis.unknown_slots import UnknownSlots
from precc.errors import AnalysisError
from precc.plan import PrecisionPlan
from precc.precision import Precision

__all__ = ["Prediction"]

_NO_SUMS = "the plan rounds sums, and the analysis kept none: net.analyze(..., options=AnalysisOptions(sums=64))"


@dataclass(frozen=True, slots=True, eq=False)
class _SampleErrors:
    """Of the slots that read one sample, some of which are rounded.

    Args:
        names: of those.
        contribution: of them together; None if there are none.
        mean_squares: of their errors, of slots of the forward.
        lost: the largest share of their sums of squares that is lost.
    """

    names: tuple[str, ...]
    contribution: Contribution | None
    mean_squares: tuple[tuple[str, MeanSquare], ...]
    lost: float

    @classmethod
    def of(
        cls, sample: ValueSample, rounded: Sequence[RoundedSlot], found: Sensitivities, calibration: Calibration
    ) -> "_SampleErrors":
        lost = max((one.errors.lost_share for one in rounded), default=0.0)
        known = rounded and not math.isinf(lost)
        part = contribution_of(sample, rounded, found, calibration) if known else None
        sizes = tuple((one.slot.name, one.errors.mean_square) for one in rounded if one.forward)
        return cls(tuple(one.slot.name for one in rounded), part, sizes, lost)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Numbers of the precisions of one plan, which keeps them: a hash is found once for each object, not each slot."""

    known: dict[Precision, int]
    seen: dict[int, tuple[Precision, int]] = field(default_factory=dict)  # by identity, with what has it

    def of(self, own: Precision) -> int:
        """The same for equal ones."""
        found = self.seen.get(id(own))
        if found is None:
            found = self.seen[id(own)] = (own, self.known.setdefault(own, len(self.known)))
        return found[1]


@dataclass(frozen=True, eq=False)
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
    accumulate: Accumulate = accumulate_fastest
    _sums: dict[tuple[Any, ...], SumErrors] = field(default_factory=dict)
    _numbers: dict[Precision, int] = field(default_factory=dict)
    _rounded: RoundedSamples = field(default_factory=RoundedSamples)
    _found: dict[tuple[Any, ...], "_SampleErrors"] = field(default_factory=dict)
    _alone: dict[tuple[Any, ...], SlotError] = field(default_factory=dict)
    _states: list[tuple[Any, ...]] = field(default_factory=list)  # of calibrations; the one

    def of(self, plan: PrecisionPlan) -> ErrorEstimate:
        """The error of a plan; infinite where a sampled value becomes infinite.

        Raises:
            AnalysisError: scales of the plan come from magnitudes that the analysis has not, or it rounds sums, and
                the analysis has none.
            UnsupportedError: the plan has a transform.
        """
        if plan.rounds_sums and not self.sensitivities.sums:
            for own in plan.accumulators.values():
                one_pass(own, "the error")
            raise AnalysisError(_NO_SUMS)
        state, numbers = self._state(), _Numbers(self._numbers)
        found = [self._of_sample(sample, plan, state, numbers) for sample in self._read(plan)]
        return replace(self._known(plan, found), unknown=self._unknown(plan, found))

    def _read(self, plan: PrecisionPlan) -> Sequence[ValueSample]:
        """The samples that a plan may round: of one that rounds what it names alone, those of the named slots."""
        if plan.rules or plan.default_result is not None or plan.default.changes(torch.float64):
            return self.sensitivities.samples
        return list({id(own): own for name in plan.slots if (own := self._samples.get(name)) is not None}.values())

    def _state(self) -> tuple[Any, ...]:
        """Of the record of calibrations; what was found under another one is forgotten."""
        state = self.calibration.state
        if self._states != [state]:
            self._states[:] = [state]
            self._found.clear()
            self._alone.clear()
        return state

    def _unknown(self, plan: PrecisionPlan, found: Sequence["_SampleErrors"]) -> UnknownSlots:
        """The slots that the plan rounds and whose adjoints miss a path."""
        sums = {own.name for own in self.sensitivities.sums if plan.accumulator(own.name) is not None}
        return self.sensitivities.unknown_slots.among(sums.union(*(own.names for own in found)))

    def _known(self, plan: PrecisionPlan, found: Sequence["_SampleErrors"]) -> ErrorEstimate:
        """What adjoints tell."""
        lost = max((own.lost for own in found), default=0.0)
        if math.isinf(lost):
            return ErrorEstimate(math.inf, math.inf, math.inf, StandardErrors(math.nan, math.nan, math.nan), lost)
        parts = [own.contribution for own in found if own.contribution is not None]
        parts += filter(None, (self.contribution_of_sums(sample, plan) for sample in self.sensitivities.sums))
        sizes = {name: size for own in found for name, size in own.mean_squares}
        return self._total(parts, self.flipping.total(self._mean_squares(plan, sizes)), lost)

    @cached_property
    def flipping(self) -> Flipping:
        """What flips at kinks."""
        return Flipping(self.sensitivities, self.gains)

    def _of_sample(
        self, sample: ValueSample, plan: PrecisionPlan, state: tuple[Any, ...], numbers: "_Numbers"
    ) -> "_SampleErrors":
        """Of the slots that read one sample, found once for each combination of their precisions."""
        precisions = [slot.rounded_in(plan) for slot in sample.slots]
        key = (sample, state, *map(numbers.of, precisions))
        if key not in self._found:
            pairs = zip(sample.slots, precisions, strict=True)
            kept = [(slot, own) for slot, own in pairs if own.changes(sample.values.dtype)]
            rounded = [RoundedSlot(slot, self._rounded.of(sample, slot, own)) for slot, own in kept]
            self._found[key] = _SampleErrors.of(sample, rounded, self.sensitivities, self.calibration)
        return self._found[key]

    def alone(self, slot: str, precision: Precision) -> SlotError:
        """The error of one slot of an operand by itself; found once.

        Raises:
            AnalysisError, UnsupportedError: as `of`.
        """
        key = (slot, precision, self.calibration.of(slot))
        if key not in self._alone:
            self._alone[key] = self._alone_in(slot, precision)
        return self._alone[key]

    def _alone_in(self, slot: str, precision: Precision) -> SlotError:
        plan = PrecisionPlan("float64", {slot: precision})
        found = self._of_sample(self._samples[slot], plan, self._state(), _Numbers(self._numbers))
        own = dict(found.mean_squares).get(slot)
        size = 0.0 if own is None else own.usual * self.calibration.of(slot).gradient ** 4
        return self._slot_error(found.contribution, size, found.lost)

    def alone_in_sums(self, accumulator: str, choice: Accumulator | None) -> SlotError:
        """The error of one accumulator by itself, of operands that are not rounded; None sums as tensors do.

        Raises:
            AnalysisError: the analysis kept no sums.
        """
        sample = next((own for own in self.sensitivities.sums if own.name == accumulator), None)
        if sample is None and choice is not None:
            raise AnalysisError(_NO_SUMS)
        plan = PrecisionPlan("float64", accumulators={accumulator: choice})
        sizes = self._mean_squares(plan, {}) if sample is not None else {}
        part = None if sample is None else self.contribution_of_sums(sample, plan)
        return self._slot_error(part, sizes[accumulator].usual if accumulator in sizes else 0.0, 0.0)

    def _slot_error(self, part: Contribution | None, size: float, lost: float) -> SlotError:
        if math.isinf(lost):
            return SlotError(math.inf, math.inf, math.inf, math.inf, lost, math.inf)
        if part is None:
            return SlotError(0.0, 0.0, 0.0, 0.0, 0.0)
        norm = self.sensitivities.gradient_norm
        means = (part.gradient_mean.square() - part.gradient_mean_noise).clamp(min=0.0)
        curved = float(part.loss_curved.mean()) if len(part.loss_curved) else 0.0
        squares = [float(own.mean()) / norm**2 if norm else math.nan for own in (means + part.gradient_variance, means)]
        return SlotError(part.loss_mean + curved, part.loss_variance, squares[0], size, lost, squares[1])

    @cached_property
    def _samples(self) -> dict[str, ValueSample]:
        return {slot.name: sample for sample in self.sensitivities.samples for slot in sample.slots}

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
        accumulator = one_pass(plan.accumulator(sample.name), "the error")
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

    def forward_errors(self, plan: PrecisionPlan, conditions: Mapping[str, Condition]) -> dict[str, NodeError]:
        """Errors of the values of each node of the forward part under a plan, by its name."""
        rounded = [
            (sample, slot.name, errors_of(sample, slot, slot.rounded_in(plan)))
            for sample in self.sensitivities.samples
            for slot in sample.slots
            if slot.loss is not None and slot.rounded_in(plan).changes(sample.values.dtype)
        ]
        roundings = {name: errors.relative(sample.values, sample.weights) for sample, name, errors in rounded}
        sizes = {name: mean_square_of(sample, errors) for sample, name, errors in rounded}
        return forward_errors(self.gains, conditions, plan, roundings, self._mean_squares(plan, sizes, corrected=False))

    def _mean_squares(
        self, plan: PrecisionPlan, sizes: Mapping[str, MeanSquare], *, corrected: bool = True
    ) -> dict[str, MeanSquare]:
        """Mean square error of each slot of the forward part, of which these are known, and of each accumulator."""
        found = dict(sizes)
        for sums in self.sensitivities.sums:
            errors = self.errors_of_sums(sums, plan) if sums.loss is not None else None
            if errors is not None:
                found[sums.name] = MeanSquare(errors.mean_square(sums.weights), errors.chance[0])
        factors = {name: self.calibration.of(name).gradient ** 4 if corrected else 1.0 for name in found}
        return {
            name: MeanSquare(own.usual * factors[name], own.near_zero * factors[name]) for name, own in found.items()
        }

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
        coherent = (means.square() - noise).clamp(min=0.0)
        squares = coherent + variances + flipped
        norm = self.sensitivities.gradient_norm
        gradient = math.sqrt(float(squares.mean())) / norm if norm else math.nan
        spread = self.sensitivities.deviation_of_mean(squares, coherent) / 2
        of_gradient = spread / (gradient * norm * norm) if gradient else 0.0
        mean = sum(part.loss_mean for part in parts) + (float(curved.mean()) if len(curved) else 0.0)
        together = sum(part.loss_lost for part in parts) * sum(part.loss_share for part in parts)
        mean += together * self.sensitivities.of_lost.factor
        return ErrorEstimate(mean, loss, gradient, StandardErrors(of_mean, of_loss, of_gradient), lost)
