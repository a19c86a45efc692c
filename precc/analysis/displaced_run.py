"""Runs of the forward part with the values of all slots displaced, and what they tell of the loss.

With ``|z| = 2**-6 (|v| + rms(v))`` and random signs, 0 where v is, the difference of the adjoints to those without it,
over z, is an estimate of the diagonal of the second derivative H of the loss (Hutchinson 1990; Bekas, Kokiopoulou and
Saad 2007). Errors that are no matter of chance act together, by ``1/2 m^T H m``: for those another run has the ones
that e2m1 with a scale of the tensor makes, where it cuts off large values and flushes small ones.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.loss_sums import LossSums, magnitudes_of, summed
from precc.analysis.noise import Noise
from precc.analysis.slot_sites import SlotSite
from precc.analysis.step_runs import StepRunner, Values, Watch
from precc.analysis.taps import Taps
from precc.rounding import slot_number

__all__ = ["DisplacedRun", "Displacement", "LossAnswers", "LostDisplacement", "RandomDisplacement"]

#: Of the displacements, in relation to the values and to their root mean square.
_DISPLACEMENT = 2.0**-6

#: What e2m1 keeps of values of largest magnitude 2**e to 2**(e + 1), in units of 2**e: its largest value, and half of
#: its smallest one, with the scale by the rule floor.
_LARGEST, _FLUSHED = 1.5, 2.0**-4


@dataclass(slots=True, eq=False)
class LossAnswers:
    """The adjoints of the loss at all values of the forward slots, and their sums by magnitude.

    Args:
        values: that slots read, by origin.
        magnitudes: of these values.
        squares: sums of squares of these values.
        adjoints: without displacements, by slot.
        slopes: sums of adjoints times values, by slot.
        curvatures: sums of squares of values times second derivatives, one of each random displacement, by slot.
        lost: sums of values times the change of the adjoint by the errors m of e2m1, by slot.
        moments: sums of values times m, by slot.
    """

    values: dict[Node, Tensor] = field(default_factory=dict)
    magnitudes: dict[Node, Tensor] = field(default_factory=dict)
    squares: dict[Node, Tensor] = field(default_factory=dict)
    adjoints: dict[str, Tensor] = field(default_factory=dict)
    slopes: dict[str, Tensor] = field(default_factory=dict)
    curvatures: dict[str, list[Tensor]] = field(default_factory=dict)
    lost: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)

    def look(self, origin: Node, value: Tensor) -> None:
        """Take the values of an origin."""
        self.values[origin], self.magnitudes[origin] = _squarable(value), magnitudes_of(value)
        self.squares[origin] = summed(self.magnitudes[origin], self.values[origin].square())

    def see(self, site: SlotSite, adjoint: Tensor) -> None:
        """Take the adjoint of a slot."""
        self.adjoints[site.name], self.curvatures[site.name] = adjoint, []
        self.slopes[site.name] = summed(self.magnitudes[site.origin], _wide(adjoint) * self.values[site.origin])

    def change(self, site: SlotSite, adjoint: Tensor, factors: Tensor) -> Tensor:
        """The change of a slot's adjoint to this one, times factors, summed by magnitude."""
        terms = torch.sub(_wide(adjoint), self.adjoints[site.name]).mul_(factors)
        return summed(self.magnitudes[site.origin], terms)

    def forget(self) -> None:
        """All but the sums: no other run will be seen."""
        for own in (self.values, self.magnitudes, self.adjoints):
            own.clear()

    def sums(self, site: SlotSite) -> LossSums | None:
        """Of a slot; None: the loss does not depend on it."""
        name = site.name
        if name not in self.slopes:
            return None
        curvatures, squares = torch.stack(self.curvatures[name]), self.squares[site.origin]
        return LossSums.of(self.slopes[name], curvatures, self.lost[name], self.moments[name], squares)


class Displacement(Protocol):
    """What displaces values, and sees the adjoints there."""

    def of(self, site: SlotSite, value: Tensor) -> Tensor:
        """The displacement z of the values of a slot's origin."""
        ...

    def factors(self, v: Tensor, z: Tensor) -> Tensor:
        """What the change of an adjoint is multiplied with, from the values of the step, and z."""
        ...

    def see(self, answers: LossAnswers, site: SlotSite, adjoint: Tensor, moved: "Moved") -> None:
        """Take the adjoint of a slot."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RandomDisplacement:
    """By random signs; its mean squares, by origin, are kept."""

    taps: Taps
    noise: Noise
    mean_squares: dict[Node, float] = field(default_factory=dict)

    def of(self, site: SlotSite, value: Tensor) -> Tensor:
        drawn = self.taps.drawn[site.origin]
        z = value.sign().mul_(drawn.mean_square**0.5).add_(value)
        z.mul_(self.noise.signs(value, slot_number(site.name))).mul_(_DISPLACEMENT)
        square = (drawn.weights * self.taps.taken(site.origin, z).square()).sum()
        self.mean_squares[site.origin] = float(square) / max(1, drawn.elements)
        return z

    def factors(self, v: Tensor, z: Tensor) -> Tensor:
        return torch.div(_wide(v), z).mul_(v).masked_fill_(z == 0, 0.0)

    def see(self, answers: LossAnswers, site: SlotSite, adjoint: Tensor, moved: "Moved") -> None:
        answers.curvatures[site.name].append(answers.change(site, adjoint, moved.factors))


@dataclass(frozen=True, slots=True, eq=False)
class LostDisplacement:
    """By the errors of e2m1 where it loses values; `amax` has the largest magnitudes by origin."""

    amax: Mapping[Node, Tensor]

    def of(self, site: SlotSite, value: Tensor) -> Tensor:
        amax = float(self.amax[site.origin])
        unit = 2.0 ** math.floor(math.log2(amax)) if 0 < amax < math.inf else 0.0  # what is not finite is refused later
        kept = value.clamp(-_LARGEST * unit, _LARGEST * unit)
        return kept.masked_fill_(value.abs() <= _FLUSHED * unit, 0.0).sub_(value)

    def factors(self, v: Tensor, z: Tensor) -> Tensor:
        return _wide(v)

    def see(self, answers: LossAnswers, site: SlotSite, adjoint: Tensor, moved: "Moved") -> None:
        answers.lost[site.name] = answers.change(site, adjoint, moved.factors)
        answers.moments[site.name] = summed(answers.magnitudes[site.origin], moved.factors * moved.z)


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """The displacement of an origin, its displaced values, and the factors of changes there."""

    z: Tensor
    value: Tensor
    factors: Tensor


@dataclass(slots=True, eq=False)
class DisplacedRun:
    """One of them.

    Args:
        taps: the slots.
        displacement: of the values.
        answers: that are added to.
    """

    taps: Taps
    displacement: Displacement
    answers: LossAnswers
    loss: float = math.nan  # of the last run
    _moved: dict[Node, Moved] = field(default_factory=dict)

    def gradients(self, runner: StepRunner, watch: Watch | None = None) -> Mapping[str, Tensor]:
        """Run it; the gradient of the loss, by name of the parameter, where it has one."""
        with torch.enable_grad():
            inputs = self.taps.inputs(runner.step)
            run = runner.run(self._at_slot, inputs=inputs, gradients=False, watch=watch)
            self.taps.seen = self._see
            leaves = self.taps.leaves
            found = torch.autograd.grad(run.loss, leaves, allow_unused=True) if run.loss.requires_grad else ()
            self.taps.seen = None
        self._moved, self.loss = {}, float(run.loss.detach())
        names = runner.step.parameters
        pairs = zip(inputs, found, strict=False)  # the leaves of the taps come behind the inputs
        return {names[name]: own for name, own in pairs if name in names and own is not None}

    def _at_slot(self, node: Node, values: Values) -> Tensor:
        site = self.taps.sites[node]
        if site.origin not in self._moved:
            value = values[site.origin]
            z = self.displacement.of(site, value.detach())
            factors = self.displacement.factors(self.answers.values[site.origin], z)
            self._moved[site.origin] = Moved(z, value + z, factors)
        return self.taps.read(site, self._moved[site.origin].value, values)

    def _see(self, site: SlotSite, adjoint: Tensor) -> None:
        self.displacement.see(self.answers, site, adjoint, self._moved[site.origin])


def _wide(x: Tensor) -> Tensor:
    """At least in float32: products of half precision numbers overflow."""
    return x if x.dtype.itemsize > 2 else x.float()


def _squarable(x: Tensor) -> Tensor:
    """So wide that squares are neither infinite nor, all of them, 0."""
    amax = float(x.abs().amax()) if x.numel() else 0.0
    return x.double() if not 1e-15 < amax < 1e15 else _wide(x)
