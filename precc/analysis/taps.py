"""Taps: where the values of a traced step are read for its slots, and their adjoints are taken at sampled places."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.rounding_error import TENSOR, ScaleKey, scale_key
from precc.analysis.slot_sample import Drawn, drawn_by_size
from precc.analysis.slot_sites import SlotSite, sites_of
from precc.analysis.step_runs import Values, forward_nodes
from precc.analysis.traced_step import TracedStep
from precc.precision import Precision
from precc.rounding import slot_number
from precc.rounding.scales import shared_amax

__all__ = ["Taps"]


@dataclass(slots=True, eq=False)
class Taps:
    """The slots of a step, with the positions of sampled values of each origin.

    Args:
        sites: by rounding node.
        samples: how many values of each origin.
        seed: of their choice.
        forward: nodes that the loss depends on.
        drawn: positions, by origin.
        scales: largest magnitudes that give scales along axes, by slot, at the sampled values.
        leaves: what adjoints are taken with respect to in the present run.
        adjoints: found in it, by slot.
        seen: called with each adjoint of all values, if it is there.
    """

    sites: Mapping[Node, SlotSite]
    samples: int
    seed: int
    forward: frozenset[Node]
    drawn: dict[Node, Drawn] = field(default_factory=dict)
    scales: dict[str, dict[ScaleKey, Tensor]] = field(default_factory=dict)
    leaves: list[Tensor] = field(default_factory=list)
    adjoints: dict[str, Tensor] = field(default_factory=dict)
    seen: Callable[[SlotSite, Tensor], None] | None = None

    @classmethod
    def of(cls, step: TracedStep, samples: int, seed: int) -> "Taps":
        """With so many sampled values of each origin."""
        return cls({site.node: site for site in sites_of(step)}, samples, seed, forward_nodes(step))

    def draw(self, site: SlotSite, value: Tensor) -> None:
        """Choose the positions at an origin, when its values are seen first."""
        if site.origin not in self.drawn:
            self.drawn[site.origin] = drawn_by_size(value, self.samples, self.seed ^ slot_number(site.name))

    def note_scales(self, site: SlotSite, shown: Tensor, precisions: Sequence[Precision]) -> None:
        """Find the largest magnitudes that give the scales of these precisions, at the sampled values of a slot."""
        rows = [own.row(axis=site.operand.contracted, channel=site.operand.channel).current for own in precisions]
        magnitude = shown.detach().abs()
        found = self.scales.setdefault(site.name, {})
        for row in rows:
            key = scale_key(row)
            if key is not None and key != TENSOR and key not in found:
                index = site.positions(self.drawn[site.origin].positions)
                found[key] = shared_amax(magnitude, row).reshape(-1)[index].double()

    def inputs(self, step: TracedStep) -> dict[str, Tensor]:
        """The floating inputs, as leaves, so that all that depends on them has adjoints; buffers stay as they are."""
        origins = {site.origin.name for site in self.sites.values()}
        found = {
            name: value.detach().requires_grad_()
            for name, value in step.inputs.items()
            if isinstance(value, Tensor)
            and value.is_floating_point()
            and (name in step.parameters or name in origins or name not in step.constants)
        }
        self.leaves = list(found.values())
        self.adjoints = {}
        return found

    def read(self, site: SlotSite, origin: Tensor, values: Values) -> Tensor:
        """What the slot reads of its origin's value; its adjoint will be noted."""
        if origin.requires_grad:
            tap = torch.ops.aten.alias.default(origin)
        else:
            tap = origin.detach().requires_grad_()
            self.leaves.append(tap)
        tap.register_hook(self._noting(site))
        return site.through(tap, values)

    def _noting(self, site: SlotSite) -> Callable[[Tensor], None]:
        def note(adjoint: Tensor) -> None:
            self.adjoints[site.name] = self.taken(site.origin, adjoint)
            if self.seen is not None:
                self.seen(site, adjoint.detach())

        return note

    def taken(self, origin: Node, value: Tensor) -> Tensor:
        """The sampled ones among values of an origin."""
        return value.detach().reshape(-1)[self.drawn[origin].positions].double()
