"""The trace of the second derivative H of the loss by each weight, from the probes of the gradient.

A probe r gives ``H r``, where products read a weight, at all its elements: ``sum(r * H r)`` over them is an estimate of
the trace of its part of H (Hutchinson 1990). Where the first probes are an orthonormal basis B, and the others are
orthogonal to it, the sum over B and the mean over the others add up to one, exact in these directions (Meyer et al.
2021, Hutch++). In the norm of a metric M, r is ``sqrt(M) s``, and the product ``sum(r / M * H r)``.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.slot_sites import SlotSite, is_view
from precc.analysis.step_runs import computed
from precc.analysis.taps import Taps
from precc.analysis.traced_step import TracedStep
from precc.slots import Role

__all__ = ["WeightTraces"]

#: Ops beside views whose result holds values of their first argument, perhaps not all, or in another dtype.
_PARTS = frozenset(
    (
        "aten._to_copy",
        "aten.select",
        "aten.slice",
        "aten.split",
        "aten.split_with_sizes",
        "aten.unbind",
        "prims.convert_element_type",
    )
)


@dataclass(slots=True, eq=False)
class WeightTraces:
    """Sums up products of probes, one probe after another.

    Args:
        chains: name of the parameter that a weight's values come from, and the nodes from there to it, by origin.
        metric: M, by name of the parameter; none is the identity.
        found: by name of a slot that reads a weight, one a probe; those of all slots of a weight add up.
    """

    chains: Mapping[Node, tuple[str, tuple[Node, ...]]]
    metric: Mapping[str, Tensor]
    found: dict[str, list[float]] = field(default_factory=dict)
    _probe: dict[Node, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, step: TracedStep, taps: Taps, metric: Mapping[str, Tensor]) -> "WeightTraces":
        """Of the weights that the forward reads, and that are parameters or parts of them."""
        slots = ((site.origin, site.operand.slot) for site in taps.sites.values())
        origins = {origin for origin, slot in slots if slot.operand == "weight" and slot.role is Role.FPROP}
        chains = {origin: _chain(origin) for origin in origins}
        named = {
            origin: (step.parameters[chain[0].name], chain[1:])
            for origin, chain in chains.items()
            if chain[0].name in step.parameters
        }
        return cls(named, metric)

    def next_probe(self, taps: Taps, r: Mapping[str, Tensor], scale: float) -> None:
        """The gradient is differentiated along these vectors next, by name of the parameter, times the scale."""
        self._probe = {
            origin: _shown(r[name] / self.metric[name] if name in self.metric else r[name], chain) * scale**2
            for origin, (name, chain) in self.chains.items()
            if name in r
        }
        for site in taps.sites.values():
            if self._counts(site):
                self.found.setdefault(site.name, []).append(0.0)

    def see(self, site: SlotSite, adjoint: Tensor) -> None:
        """Take the adjoint of ``<gradient, r>`` at all values that a slot reads."""
        if self._counts(site):
            self.found[site.name][-1] += float((self._probe[site.origin].double() * adjoint.double()).sum())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What was found, [probes]."""
        return {name: torch.tensor(own, dtype=torch.float64) for name, own in self.found.items()}

    def _counts(self, site: SlotSite) -> bool:
        return site.origin in self._probe and site.operand.slot.operand == "weight"


def _chain(node: Node) -> tuple[Node, ...]:
    """From where the values come, to a node that holds some of them."""
    chain = [node]
    while _holds_part(node):
        node = node.all_input_nodes[0]
        chain.insert(0, node)
    return tuple(chain)


def _holds_part(node: Node) -> bool:
    name = str(getattr(node.target, "overloadpacket", ""))
    return len(node.all_input_nodes) == 1 and (is_view(node) or name in _PARTS or node.target is operator.getitem)


def _shown(value: Tensor, chain: tuple[Node, ...]) -> Tensor:
    """Of these values of a parameter, those at the end of a chain."""
    with torch.no_grad():
        for node in chain:
            value = computed(node, {node.all_input_nodes[0]: value})
    return value
