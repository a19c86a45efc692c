"""Who does what a plan says of a training outside of its graphs: round updates, scale losses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakSet

from torch import nn

from precc.plan import PrecisionPlan
from precc.shallow_clone import base_name
from precc.warn_caller import warn_caller

__all__ = ["RoundsUpdates", "ScalesLosses", "TrainingParts"]


class RoundsUpdates(Protocol):
    """What rounds updates as the plan of a net says."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the parameters whose updates it rounds."""
        ...

    def lost(self) -> Mapping[str, float]:
        """Share of the elements whose step to nearest rounding of the master weight loses, by path."""
        ...


class ScalesLosses(Protocol):
    """What scales losses as the plan of a net says."""

    def get_scale(self) -> float:
        """The factor of the next loss."""
        ...


@dataclass(eq=False, repr=False)
class TrainingParts:
    """What is made for a net, and a warning once where a training goes on without it.

    Args:
        rounding: what rounds updates; does not keep it alive.
        scaling: what scales losses; likewise.
    """

    rounding: WeakSet[RoundsUpdates] = field(default_factory=WeakSet)
    scaling: WeakSet[ScalesLosses] = field(default_factory=WeakSet)
    _version: int | None = None  # of the parameters, at a forward that recorded gradients and lacked something
    _told: set[str] = field(default_factory=set)

    def lacking(self, plan: PrecisionPlan, net: nn.Module) -> list[str]:
        """What a plan asks for that nothing does, with the way out."""
        rounds = plan.rounds_updates and not len(self.rounding)
        rounds = rounds and any(map(plan.changes_updates, {own.dtype for own in net.parameters()}))
        scales = plan.loss_scaling is not None and not len(self.scaling)
        return [
            *["updates are not rounded: precc.RoundedUpdates(net, optimizer) does"] * rounds,
            *["losses are not scaled: precc.LossScaler(net) does"] * scales,
        ]

    def see_forward(self, net: nn.Module, plan: PrecisionPlan) -> None:
        """A forward records gradients: warn, once, if parameters have changed since one before, and something lacks."""
        lacking = [what for what in self.lacking(plan, net) if what not in self._told]
        if not lacking:
            self._version = None
            return
        version = sum(own._version for own in net.parameters() if own.requires_grad)
        if self._version is None or version == self._version:
            self._version = version
            return
        self._told.update(lacking)
        warn_caller(f"{base_name(net)} trains under a plan that says more: {'; '.join(lacking)}")
