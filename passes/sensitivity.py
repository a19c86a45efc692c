"""How the loss and the gradient of a step answer to small errors in the values of each slot.

With ``v`` the values of a slot, L the loss and g the gradient, the pass estimates at sampled values

    gradient    d<g, r>/dv                     r of random signs: the mean of its square is ||dg/dv||**2
    loss        dL/dv
    curvature   d2L/dv2 (its diagonal)         by magnitude, from runs with displaced values (`displaced_run`)

The first is differentiated through the joint graph, its backward included; with a metric M, ``r`` is of signs times
``sqrt(M)``, and norms are those of ``sqrt(M) g``. Half of the vectors r, three at most, are not random: they span the
changes of the gradient under errors in all slots at once, and the random ones are orthogonal to them. What is of low
rank, as the errors that reach the gradient through the loss of a few hard examples, is then no matter of chance
(Hutch++: Meyer, Musco, Musco and Woodruff 2021). Of these the displaced runs tell, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.derivatives import missing_derivatives_named, says_missing
from precc.analysis.directions import Directions
from precc.analysis.displaced_run import DisplacedRun, LossAnswers, LostDisplacement, RandomDisplacement
from precc.analysis.kinks import Kinks
from precc.analysis.lost_derivatives import Derivatives
from precc.analysis.metric import metric_norm
from precc.analysis.noise import Noise
from precc.analysis.sensitivities import Sensitivities
from precc.analysis.slot_sample import SlotAdjoints, ValueSample
from precc.analysis.slot_sites import SlotSite, groups_of, uses_of
from precc.analysis.slots_past import slots_past
from precc.analysis.step_runs import StepRunner, Values, Watch, unrounded
from precc.analysis.taps import Taps
from precc.analysis.traced_step import TracedStep
from precc.analysis.unknown_slots import UnknownDerivative
from precc.analysis.weight_traces import WeightTraces
from precc.passes.accumulator_samples import AccumulatorSamples, AccumulatorWatcher
from precc.passes.nonfinite import described
from precc.precision import Precision

__all__ = ["Sensitivity"]

#: How often all slots are displaced: their curvature is known within the differences between these.
_DRAWS = 3


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Estimate the adjoints of all slots of a step.

    Args:
        probes: vectors r for the gradient; half of them, three at most, are found, the others random.
        samples: values of each tensor at which adjoints are kept.
        sums: dot products of each product that are kept, with adjoints, for plans that round sums.
        metric: by name of the parameter, the diagonal of M; none is the identity.
        seed: of signs and samples.
        candidates: precisions whose scales along an axis will be asked for.
    """

    probes: int = 3
    samples: int = 8192
    sums: int = 0
    metric: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    candidates: tuple[Precision, ...] = ()

    name: ClassVar[str] = "sensitivity"

    def run(self, step: TracedStep, watches: Sequence[Watch] = ()) -> Sensitivities:
        """Find them; `watches` see the run of the whole step."""
        derivatives = Derivatives()
        try:
            return self._run(step, derivatives, watches)
        except (NotImplementedError, RuntimeError) as error:
            if not says_missing(error):
                raise
        with torch.no_grad():  # some operators tell only when they are asked
            StepRunner(step).run(unrounded, watch=derivatives.search)
        with missing_derivatives_named():
            return self._run(step, derivatives, ())

    def _run(self, step: TracedStep, derivatives: Derivatives, watches: Sequence[Watch]) -> Sensitivities:
        taps = Taps.of(step, self.samples, self.seed)
        kinks = Kinks.of(step, self.samples, self.seed)
        runner = StepRunner(step, {**uses_of(list(taps.sites.values())), **kinks.uses()}, derivatives)
        sums = AccumulatorSamples(self.sums, self.seed).watcher(step) if self.sums else None
        seen = [kinks.see, *([sums.see] if sums is not None else []), *watches]
        probed = self._probe(runner, taps, kinks, sums, seen)
        samples = tuple(
            _sample(origin, sites, probed) for origin, sites in groups_of(list(taps.sites.values())).items()
        )
        return Sensitivities(
            samples,
            sums.result() if sums is not None else (),
            kinks.flips(),
            {own.name: probed.displacements[own.origin] for own in taps.sites.values() if own.node in taps.forward},
            probed.loss,
            probed.lost,
            probed.norm,
            probed.exact,
            _unknown(step, derivatives),
            probed.traces,
        )

    def _probe(
        self,
        runner: StepRunner,
        taps: Taps,
        kinks: Kinks,
        sums: AccumulatorWatcher | None,
        watches: Sequence[Watch],
    ) -> "_Probed":
        """Differentiate the gradient along random vectors."""
        result = _Probed(taps, self.candidates)
        with torch.enable_grad():
            inputs = taps.inputs(runner.step)
            run = runner.run(result.at_slot, inputs=inputs, watch=partial(_watch_all, watches))
            result.loss, result.norm = float(run.loss.detach()), metric_norm(run.gradients, self.metric)
            if run.loss.requires_grad:
                result.differentiate_loss(run.loss)
                if sums is not None:
                    sums.loss_adjoints()
            answering = {name: own for name, own in run.gradients.items() if own.requires_grad}
            leaves, directions = taps.leaves, Directions(answering, self.metric, self.seed)
            for moved in self._displaced(runner, kinks, result):
                directions.add(moved)
            result.exact = directions.known
            vectors = directions.vectors(self.probes) if answering else []
            traces = WeightTraces.of(runner.step, taps, self.metric)
            taps.seen = traces.see
            for position, (r, scale) in enumerate(vectors):
                taps.adjoints = {}
                traces.next_probe(taps, dict(zip(answering, r, strict=True)), scale)
                kept = position < len(vectors) - 1
                torch.autograd.grad(list(answering.values()), leaves, r, allow_unused=True, retain_graph=kept)
                result.adjoints.append({name: own * scale for name, own in taps.adjoints.items()})
                kinks.next_probe(scale)
                if sums is not None:
                    sums.next_probe(scale)
            taps.seen, result.traces = None, traces.tensors
        return result

    def _displaced(self, runner: StepRunner, kinks: Kinks, result: "_Probed") -> list[Mapping[str, Tensor]]:
        """Run the step with displaced values; gradients there, to find directions."""
        found = []
        for draw in range(_DRAWS):
            displacement = RandomDisplacement(result.taps, Noise(self.seed * 1000 + draw))
            found.append(DisplacedRun(result.taps, displacement, result.answers).gradients(runner, kinks.see_displaced))
            result.displacements = displacement.mean_squares
        lost = DisplacedRun(result.taps, LostDisplacement(result.amax), result.answers)
        lost.gradients(runner)
        result.lost = lost.loss - result.loss
        result.answers.forget()
        return found[: self.probes // 2]


@dataclass(slots=True, eq=False)
class _Probed:
    """What the differentiable run of the whole step gives."""

    taps: Taps
    candidates: Sequence[Precision]
    values: dict[Node, Tensor] = field(default_factory=dict)
    amax: dict[Node, Tensor] = field(default_factory=dict)
    loss_adjoints: dict[str, Tensor] = field(default_factory=dict)
    answers: LossAnswers = field(default_factory=LossAnswers)
    displacements: Mapping[Node, float] = field(default_factory=dict)  # mean squares, by origin
    adjoints: list[dict[str, Tensor]] = field(default_factory=list)
    traces: Mapping[str, Tensor] = field(default_factory=dict)
    loss: float = 0.0
    norm: float = 0.0
    lost: float = 0.0  # change of the loss by what e2m1 loses in all slots
    exact: int = 0  # of the probes, those that are not random

    def differentiate_loss(self, loss: Tensor) -> None:
        """Its adjoints at all slots, by the graph that the gradient is differentiated through later."""
        self.taps.seen = self.answers.see
        torch.autograd.grad(loss, self.taps.leaves, allow_unused=True, retain_graph=True)
        self.taps.seen = None
        self.loss_adjoints = self.taps.adjoints

    def at_slot(self, node: Node, values: Values) -> Tensor:
        site = self.taps.sites[node]
        value = values[site.origin]
        if site.origin not in self.values:
            own = value.detach()
            self.taps.draw(site, own)
            self.values[site.origin] = own.reshape(-1)[self.taps.drawn[site.origin].positions]
            if node in self.taps.forward:
                self.answers.look(site.origin, own)
            self.amax[site.origin] = own.abs().amax() if own.numel() else own.new_zeros(())
        if self.candidates:
            with torch.no_grad():
                self.taps.note_scales(site, site.through(value.detach(), values), self.candidates)
        return self.taps.read(site, value, values)


def _unknown(step: TracedStep, derivatives: Derivatives) -> tuple[UnknownDerivative, ...]:
    """The operators without a derivative, in the order of the graph."""
    return tuple(
        UnknownDerivative(node.name, described(node), slots_past(step, derivatives.missing[node]))
        for node in step.graph.graph.nodes
        if node in derivatives.missing
    )


def _watch_all(watches: Sequence[Watch], node: Node, value: Any, values: Values) -> None:
    for watch in watches:
        watch(node, value, values)


def _sample(origin: Node, sites: Sequence[SlotSite], probed: "_Probed") -> ValueSample:
    taps = probed.taps
    zeros = torch.zeros_like(taps.drawn[origin].weights)
    slots = []
    for site in sites:
        probes = torch.stack([own.get(site.name, zeros) for own in probed.adjoints] or [zeros])
        loss = probed.loss_adjoints.get(site.name)
        axes = (site.operand.contracted, site.operand.channel)
        scales = taps.scales.get(site.name, {})
        slots.append(SlotAdjoints(site.name, *axes, loss, probes, scales, probed.answers.sums(site), site.source))
    drawn = taps.drawn[origin]
    return ValueSample(drawn.elements, probed.values[origin], drawn.weights, probed.amax[origin], tuple(slots))
