"""The error of a plan, predicted from samples of values and adjoints.

To first order an error ``d`` of the values of a slot changes J by ``sum(Jbar * d)``, with Jbar the adjoint of J. Errors
that are a matter of chance (a nearest rounding of values that vary by more than a quantum) have mean 0 and are
independent: variances ``sum(Jbar**2 * d**2)`` add up. Slots that read the same values make errors together, with the
adjoint ``sum over slots of Jbar * d``. Values that overflow or vanish have a mean: ``sum(Jbar * d)``. To second order
``E[dL] = 1/2 sum(d**2 * d2L/dv2)``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.analysis.error_estimate import ErrorEstimate, StandardErrors
from precc.analysis.error_gains import ErrorGains
from precc.analysis.flips import FlipSample
from precc.analysis.rounding_error import TENSOR, RoundingErrors, rounding_errors
from precc.analysis.slot_sample import SlotAdjoints, ValueSample
from precc.plan import PrecisionPlan
from precc.precision import Precision

__all__ = ["Contribution", "contribution", "predicted"]


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What rounding the values of one sample does.

    Args:
        loss_mean: of the loss error, to first order.
        loss_curved: of the loss error, to second order.
        loss_variance: of the loss error.
        gradient_mean: of ``<dg, r>`` for each probe, [probes].
        gradient_mean_noise: variance of that estimate, [probes].
        gradient_variance: of ``<dg, r>`` for each probe, [probes].
        noise: variance of `loss_variance` and of each `gradient_variance` as estimates.
    """

    loss_mean: float
    loss_curved: float
    loss_variance: float
    gradient_mean: Tensor
    gradient_mean_noise: Tensor
    gradient_variance: Tensor


def contribution(sample: ValueSample, precisions: Mapping[str, Precision]) -> Contribution:
    """Of a sample, under these precisions of its slots; those that are not named round nothing."""
    probes = sample.slots[0].gradient.shape[0]
    shape = (probes, len(sample.values))
    chance, lost = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    drawn = torch.zeros(shape, dtype=torch.float64)
    loss = [torch.zeros(shape[1:], dtype=torch.float64) for _ in range(4)]
    for slot in sample.slots:
        if slot.name not in precisions:
            continue
        found = _errors(sample, slot, precisions[slot.name])
        chance += slot.gradient * found.spread
        lost += slot.gradient * found.mean
        drawn += slot.gradient.square() * found.variance
        if slot.loss is not None and slot.curvature is not None:
            loss[0] += slot.loss * found.spread
            loss[1] += slot.loss * found.mean
            loss[2] += slot.loss.square() * found.variance
            loss[3] += slot.curvature * (found.mean.square() + found.spread.square() + found.variance) / 2
    w, n = sample.weight, len(sample.values)
    exact = w == 1.0
    return Contribution(
        float(w * loss[1].sum()),
        float(w * loss[3].sum()),
        float(w * (loss[0].square() + loss[2]).sum()),
        w * lost.sum(1),
        torch.zeros(probes, dtype=torch.float64) if exact else w * w * n * lost.var(1),
        w * (chance.square() + drawn).sum(1),
    )


def _errors(sample: ValueSample, slot: SlotAdjoints, precision: Precision) -> RoundingErrors:
    amax = {TENSOR: sample.amax, **slot.amax}
    found = rounding_errors(sample.values, precision, amax, axis=slot.axis, channel=slot.channel)
    return found


def predicted(
    samples: Iterable[ValueSample],
    plan: PrecisionPlan,
    gradient_norm: float,
    gains: ErrorGains,
    flips: Sequence[FlipSample],
    nominal: Mapping[str, float],
) -> ErrorEstimate:
    """The error of a plan."""
    parts = []
    samples = list(samples)
    for sample in samples:
        changing = {
            slot.name: plan.precision(slot.name)
            for slot in sample.slots
            if plan.precision(slot.name).changes(sample.values.dtype)
        }
        if changing:
            parts.append(contribution(sample, changing))
    squares = {}
    for sample in samples:
        for slot in sample.slots:
            if plan.precision(slot.name).changes(sample.values.dtype) and slot.loss is not None:
                own = _errors(sample, slot, plan.precision(slot.name))
                squares[slot.name] = own.mean_square
    forward, usual = gains.mean_squares(squares), gains.mean_squares(nominal)
    flipped = torch.zeros(len(parts[0].gradient_mean) if parts else 1, dtype=torch.float64)
    for flip in flips:
        if usual.get(flip.node):
            flipped = flipped + flip.variance(flip.drawn * forward[flip.node] / usual[flip.node])
    return _total(parts, gradient_norm, flipped)


def _total(parts: Sequence[Contribution], gradient_norm: float, flipped: Tensor) -> ErrorEstimate:
    if not parts:
        return ErrorEstimate(0.0, 0.0, 0.0, StandardErrors(0.0, 0.0, 0.0))
    mean = sum(part.loss_mean + part.loss_curved for part in parts)
    loss = math.sqrt(sum(part.loss_variance for part in parts))
    means = torch.stack([part.gradient_mean for part in parts]).sum(0)
    noise = torch.stack([part.gradient_mean_noise for part in parts]).sum(0)
    variances = torch.stack([part.gradient_variance for part in parts]).sum(0)
    squares = (means.square() - noise).clamp(min=0.0) + variances + flipped
    gradient = math.sqrt(float(squares.mean())) / gradient_norm if gradient_norm else math.inf
    probes = len(squares)
    spread = float(squares.std() / squares.mean() / math.sqrt(probes) / 2) if probes > 1 else math.nan
    return ErrorEstimate(mean, loss, gradient, StandardErrors(math.nan, math.nan, gradient * spread))
