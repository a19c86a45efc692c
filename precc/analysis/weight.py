"""What an analysis knows of each weight, for policies that choose formats of weights alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from precc.analysis.analysis import Analysis
from precc.analysis.rounding_error import TENSOR, squared_errors
from precc.analysis.slot_sample import SlotAdjoints, ValueSample
from precc.errors import AnalysisError
from precc.precision import Precision
from precc.slots import Role, Slot

__all__ = ["Trace", "Weight", "weights_of"]


@dataclass(frozen=True, slots=True)
class Trace:
    """Of the second derivative of the loss by a weight.

    Args:
        value: mean of the estimates from probes; of either sign.
        standard_error: of that; NaN from one random probe.
    """

    value: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor that depends on parameters and buffers alone, and that products read as their weight.

    Args:
        sample: of its values.
        slots: that read it as their weight, in the order of the step; the forward's are among them.
        traces: estimates of that of the second derivative, from each probe, [probes]; none, if the analysis has none.
        exact: how many of the first probes are not random.
    """

    sample: ValueSample
    slots: tuple[Slot, ...]
    traces: Tensor
    exact: int

    @property
    def name(self) -> str:
        """Of the first slot of the forward that reads it."""
        return self.forward[0].name

    @property
    def elements(self) -> int:
        """How many there are."""
        return self.sample.elements

    @property
    def forward(self) -> tuple[Slot, ...]:
        """The slots of the forward, on which the loss depends."""
        return tuple(slot for slot in self.slots if slot.role is Role.FPROP)

    @cached_property
    def _adjoints(self) -> tuple[SlotAdjoints, ...]:
        names = {slot.name for slot in self.forward}
        return tuple(own for own in self.sample.slots if own.name in names)

    @cached_property
    def importance(self) -> float:
        """``sum(|w dL/dw|)``, over the sampled elements, each with what it stands for."""
        slopes = [own.loss for own in self._adjoints if own.loss is not None]
        products = self.sample.values.double() * sum(slopes, torch.zeros_like(self.sample.weights))
        return float(self.sample.weights @ products.abs())

    @property
    def trace(self) -> Trace:
        """Of the second derivative.

        Raises:
            AnalysisError: the analysis has none of a weight that the loss depends on.
        """
        if all(own.loss is None for own in self._adjoints):
            return Trace(0.0, 0.0)
        if not len(self.traces):
            raise AnalysisError(
                f"the analysis has no trace of {self.name}, whose values are not those of a parameter with a gradient: "
                "give it a rule, precc.Rule(...)"
            )
        drawn = self.traces[self.exact :]
        spread = float(drawn.std()) * math.sqrt(len(drawn)) if len(drawn) > 1 else math.nan
        return Trace(float(self.traces.mean()), spread / len(self.traces))

    @property
    def mean_curvature(self) -> float:
        """The trace over the number of elements."""
        return self.trace.value / max(self.elements, 1)

    @cached_property
    def square(self) -> float:
        """``||W||**2``."""
        return float(self.sample.weights @ self.sample.values.double().square())

    def squared_error(self, precision: Precision) -> float:
        """``||Q(W) - W||**2``, of the values as they are, each sampled one with what it stands for.

        Where scales lie along an axis that slots of the forward do not share, it is the mean of theirs.

        Raises:
            AnalysisError: the analysis has no scales for it.
            UnsupportedError: it has a transform.
        """
        found = [self._squared_error(own, precision) for own in self._adjoints]
        return sum(found) / len(found)

    def _squared_error(self, own: SlotAdjoints, precision: Precision) -> float:
        amax = {TENSOR: self.sample.amax, **own.amax}
        squares = squared_errors(self.sample.values, precision, amax, axis=own.axis, channel=own.channel)
        return float(self.sample.weights @ squares)


def weights_of(analysis: Analysis) -> tuple[Weight, ...]:
    """The weights that the forward reads, in the order of the step.

    Raises:
        AnalysisError: there are none, as in products of activations alone.
    """
    found = [_weight(analysis, own) for own in analysis.findings.sensitivities.samples]
    weights = {own.name: own for own in found if own is not None}
    if not weights:
        raise AnalysisError(f"{analysis.title} has no weights to choose precisions for: its products read none")
    return tuple(weights[name] for name in analysis.operands if name in weights)


def _weight(analysis: Analysis, sample: ValueSample) -> Weight | None:
    every: Sequence[Slot] = [analysis.records[own.name].slot for own in sample.slots]
    slots = tuple(slot for slot in every if slot.operand == "weight")
    if not any(slot.role is Role.FPROP for slot in slots):
        return None
    known = analysis.findings.sensitivities
    traces = [known.traces[slot.name] for slot in slots if slot.name in known.traces]
    return Weight(sample, slots, torch.stack(traces).sum(0) if traces else torch.zeros(0), known.exact_probes)
