"""A run of the forward part with the values of all slots displaced a little, and what it tells of the loss.

The displacements are ``|z| = 2**-6 (|v| + rms(v))`` with random signs, 0 where v is. The difference of the adjoints to
those without them, over z, is an estimate of the diagonal of the second derivative (Hutchinson 1990; Bekas, Kokiopoulou
and Saad 2007).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.kinks import Kinks
from precc.analysis.loss_sums import LossSums, magnitudes_of, summed
from precc.analysis.noise import Noise
from precc.analysis.slot_sites import SlotSite
from precc.analysis.step_runs import StepRunner, Values
from precc.analysis.taps import Taps
from precc.rounding import slot_number

__all__ = ["DisplacedRun", "LossAnswers"]

#: Of the displacements, in relation to the values and to their root mean square.
_DISPLACEMENT = 2.0**-6


@dataclass(slots=True, eq=False)
class LossAnswers:
    """The adjoints of the loss at all values of the forward slots, and their sums by magnitude.

    Args:
        values: that slots read, by origin.
        magnitudes: of these values.
        adjoints: without displacements, by slot.
        slopes: sums of adjoints times values, by slot.
        curvatures: sums of squares of values times second derivatives, one of each displaced run, by slot.
    """

    values: dict[Node, Tensor] = field(default_factory=dict)
    magnitudes: dict[Node, Tensor] = field(default_factory=dict)
    adjoints: dict[str, Tensor] = field(default_factory=dict)
    slopes: dict[str, Tensor] = field(default_factory=dict)
    curvatures: dict[str, list[Tensor]] = field(default_factory=dict)

    def look(self, origin: Node, value: Tensor) -> None:
        """Take the values of an origin."""
        self.values[origin], self.magnitudes[origin] = value, magnitudes_of(value)

    def see(self, site: SlotSite, adjoint: Tensor) -> None:
        """Take the adjoint of a slot."""
        self.adjoints[site.name], self.curvatures[site.name] = adjoint, []
        self.slopes[site.name] = summed(self.magnitudes[site.origin], _wide(adjoint) * self.values[site.origin])

    def see_displaced(self, site: SlotSite, adjoint: Tensor, factors: Tensor) -> None:
        """Take it where all slots are displaced; the factors are ``v**2 / z``."""
        terms = torch.sub(_wide(adjoint), self.adjoints[site.name]).mul_(factors)
        self.curvatures[site.name].append(summed(self.magnitudes[site.origin], terms))

    def sums(self, slot: str) -> LossSums | None:
        """Of a slot; None: the loss does not depend on it."""
        if slot not in self.slopes:
            return None
        return LossSums.of(self.slopes[slot], torch.stack(self.curvatures[slot]))


@dataclass(slots=True, eq=False)
class DisplacedRun:
    """One of them.

    Args:
        taps: the slots.
        noise: signs of the displacements.
        answers: that are added to.
        mean_squares: of the displacements, by slot of the forward.
    """

    taps: Taps
    noise: Noise
    answers: LossAnswers
    mean_squares: dict[str, float] = field(default_factory=dict)
    _moved: dict[Node, "_Moved"] = field(default_factory=dict)

    def gradients(self, runner: StepRunner, kinks: Kinks) -> Mapping[str, Tensor]:
        """Run it; the gradient of the loss, by name of the parameter, where it has one."""
        with torch.enable_grad():
            inputs = self.taps.inputs(runner.step)
            run = runner.run(self._at_slot, inputs=inputs, gradients=False, watch=kinks.see_displaced)
            self.taps.seen = self._see
            leaves = self.taps.leaves
            found = torch.autograd.grad(run.loss, leaves, allow_unused=True) if run.loss.requires_grad else ()
            self.taps.seen = None
        self._moved = {}
        names = runner.step.parameters
        pairs = zip(inputs, found, strict=False)  # the leaves of the taps come behind the inputs
        return {names[name]: own for name, own in pairs if name in names and own is not None}

    def _at_slot(self, node: Node, values: Values) -> Tensor:
        site = self.taps.sites[node]
        if site.origin not in self._moved:
            self._moved[site.origin] = self._move(site, values[site.origin])
        moved = self._moved[site.origin]
        self.mean_squares[site.name] = moved.mean_square
        return self.taps.read(site, moved.value, values)

    def _move(self, site: SlotSite, value: Tensor) -> "_Moved":
        drawn, now = self.taps.drawn[site.origin], value.detach()
        z = now.sign().mul_(drawn.mean_square**0.5).add_(now)
        z.mul_(self.noise.signs(now, slot_number(site.name))).mul_(_DISPLACEMENT)
        square = (drawn.weights * self.taps.taken(site.origin, z).square()).sum()
        v = self.answers.values[site.origin]
        factors = torch.div(_wide(v), z).mul_(v).masked_fill_(z == 0, 0.0)
        return _Moved(value + z, factors, float(square) / max(1, drawn.elements))

    def _see(self, site: SlotSite, adjoint: Tensor) -> None:
        self.answers.see_displaced(site, adjoint, self._moved[site.origin].factors)


@dataclass(frozen=True, slots=True, eq=False)
class _Moved:
    """The values of an origin, displaced by z; ``v**2 / z``, 0 where z is; and the mean square of z."""

    value: Tensor
    factors: Tensor
    mean_square: float


def _wide(x: Tensor) -> Tensor:
    """At least in float32: products of half precision numbers overflow."""
    return x if x.dtype.itemsize > 2 else x.float()
