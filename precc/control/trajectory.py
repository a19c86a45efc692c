"""What is kept of the points and gradients of a training: secants, and a random iterate."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from precc.control.preconditioned import difference, square
from precc.control.secant import SecantRule, Secants

__all__ = ["Trajectory"]

Vector = Mapping[str, Tensor]


@dataclass(eq=False, kw_only=True)
class Trajectory:
    """Secants between steps, and the point of one of them, drawn with weights.

    Args:
        rule: of the secants.
        lipschitz: whether there are secants.
        keep: whether there is a random iterate.
        seed: of its choice.
        secants: so far.
        iterate: by name of the parameter, if it is kept.
    """

    rule: SecantRule
    lipschitz: bool
    keep: bool
    seed: int
    secants: Secants = field(default_factory=Secants)
    iterate: dict[str, Tensor] | None = None
    _point: dict[str, Tensor] = field(default_factory=dict)  # x of the last step
    _turn: dict[str, Tensor] = field(default_factory=dict)  # and its G

    @property
    def estimate(self) -> float | None:
        """L; None before two steps, or without secants."""
        return self.rule.estimate(self.secants)

    def see(self, parameters: Vector, gradients: Vector, metric: Vector) -> None:
        """A step is about to be made from here."""
        if self.lipschitz:
            self._turn, last = {name: own.detach().clone() for name, own in gradients.items()}, self._turn
            turned = math.sqrt(square(difference(self._turn, last), metric))
            moved = math.sqrt(square(difference(parameters, self._point), metric, inverse=True))
            self.secants = self.rule.step(turned, moved, self.secants)
        if self.lipschitz or self.keep:
            self._point = {name: own.detach().clone() for name, own in parameters.items()}

    def draw(self, step: int, replaces: float) -> None:
        """Whether the point where this step began is the random iterate now; a resumed training draws the same."""
        if self.keep and random.Random(f"{self.seed}:{step}").random() < replaces:
            self.iterate = self._point

    def state(self) -> dict[str, Any]:
        """What it remembers."""
        return {
            "slopes": list(self.secants.slopes),
            "point": self._point,
            "turn": self._turn,
            "iterate": self.iterate,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Put what `state` gave in the place of what it remembers."""
        self.secants = Secants(tuple(state["slopes"]))
        self._point, self._turn, self.iterate = (state[name] for name in ("point", "turn", "iterate"))
