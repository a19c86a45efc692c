"""How errors grow from node to node of the forward part: one gain for each argument of each node.

Gains come from one run of the forward part in which each operator is called once more for each of its arguments, with
noise of ``2**-10`` of the argument's root mean square added to it.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.error_gains import ErrorGains, GainedNode
from precc.analysis.noise import Noise
from precc.analysis.slot_sites import is_view, sites_of
from precc.analysis.step_runs import StepRunner, Values, computed, forward_nodes, unrounded
from precc.analysis.traced_step import TracedStep
from precc.annotations import Product
from precc.captured_graph import size_value
from precc.passes.op_classes import OpClass, classify
from precc.round_op import ROUND
from precc.rounding import slot_number

__all__ = ["ForwardError", "GainWatcher"]

_NOISE = 2.0**-10


@dataclass(frozen=True, slots=True)
class ForwardError:
    """Find the gains of all nodes of the forward part.

    Args:
        seed: of the noise.
    """

    seed: int = 0

    name: ClassVar[str] = "forward_error"

    def watcher(self, step: TracedStep) -> "GainWatcher":
        """What finds them while it watches any run of the step."""
        return GainWatcher({site.node: site.name for site in sites_of(step)}, Noise(self.seed), forward_nodes(step))

    def run(self, step: TracedStep) -> ErrorGains:
        """Find them in a run of its own."""
        watcher = self.watcher(step)
        with torch.no_grad():
            StepRunner(step).run(unrounded, gradients=False, watch=watcher.watch)
        return watcher.result()


@dataclass(slots=True, eq=False)
class GainWatcher:
    """Finds the gains of each node as it is computed.

    Args:
        slots: name of the slot by rounding node.
        noise: that is added.
        forward: nodes that the loss depends on.
    """

    slots: Mapping[Node, str]
    noise: Noise
    forward: frozenset[Node]
    found: list[GainedNode] = field(default_factory=list)
    carriers: set[Node] = field(default_factory=set)  # nodes whose values have errors
    several: dict[Node, list[tuple[tuple[str, float], ...]]] = field(default_factory=dict)  # of each of many results

    def result(self) -> ErrorGains:
        """Those of all nodes seen."""
        return ErrorGains(tuple(self.found))

    @torch.no_grad()
    def watch(self, node: Node, value: Any, values: Values) -> None:
        """Look at a node with its value."""
        if node not in self.forward:
            return
        if node.target is ROUND:
            self._add(node, value, ((str(node.args[0]), 1.0),), self.slots[node])
            return
        arguments = [argument for argument in node.all_input_nodes if argument in self.carriers]
        if not arguments or node.op != "call_function":
            return
        if isinstance(value, (tuple, list)):
            self.carriers.add(node)
            self.several[node] = [self._gains(node, arguments, own, values, index) for index, own in enumerate(value)]
        elif node.target is operator.getitem:
            self._add(node, value, self.several[arguments[0]][int(str(node.args[1]))])
        elif is_view(node):
            self._add(node, value, ((arguments[0].name, 1.0),))
        elif (known := _known_gains(node, values)) is not None:
            found = tuple((argument.name, gain) for argument, gain in known if argument in self.carriers)
            self._add(node, value, found, _accumulator(node))
        else:
            gains = self._gains(node, arguments, value, values)
            if any(gain for _, gain in gains) or _accumulator(node):
                self._add(node, value, gains, _accumulator(node))

    def _gains(
        self, node: Node, arguments: Sequence[Node], value: Any, values: Values, index: int | None = None
    ) -> tuple[tuple[str, float], ...]:
        """Of one result of a node, for each argument."""
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return ()
        return tuple((argument.name, self._gain(node, argument, value, values, index)) for argument in arguments)

    def _add(self, node: Node, value: Any, arguments: tuple[tuple[str, float], ...], slot: str = "") -> None:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return
        size = _mean_square(value.detach())
        self.found.append(GainedNode(node.name, arguments, slot, size, _unit(node, value), _terms(node)))
        self.carriers.add(node)

    def _gain(self, node: Node, argument: Node, y: Tensor, values: Values, index: int | None) -> float:
        x = values[argument]
        if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel():
            return 0.0
        size = _mean_square(x) ** 0.5 * max(_NOISE, 8 * torch.finfo(x.dtype).eps)
        if not size:
            return 0.0
        noise = self.noise.normal(x, slot_number(argument.name)) * size
        own = {other: values[other] for other in node.all_input_nodes}
        moved = computed(node, {**own, argument: x + noise})
        size = _mean_square(noise)
        return _mean_square((moved if index is None else moved[index]) - y) / size if size else 0.0


def _unit(node: Node, y: Any) -> float:
    """Unit roundoff of what the operator does; 0 of those that are exact."""
    known = classify(node)
    exact = node.target in (ROUND, operator.getitem) or (known is not None and known.kind is OpClass.EXACT)
    return 0.0 if exact or not isinstance(y, Tensor) or not y.is_floating_point() else torch.finfo(y.dtype).eps / 2


def _terms(node: Node) -> int:
    product = node.meta.get("precc")
    if not isinstance(product, Product) or not product.accumulators:
        return 0
    outputs: int = node.meta["val"].numel()
    return max(1, size_value(product.multiply_adds, {}) // max(1, outputs))


def _accumulator(node: Node) -> str:
    product = node.meta.get("precc")
    return next((slot.name for slot in product.accumulators), "") if isinstance(product, Product) else ""


def _known_gains(node: Node, values: Values) -> list[tuple[Node, float]] | None:
    """Of sums and products of white noise; None for other operators."""
    product = node.meta.get("precc")
    if not isinstance(product, Product) or node.target not in _PLAIN:
        return None
    arguments: Any = node.args
    a, b = (arguments[operand.position] for operand in product.operands)
    terms = values[a].shape[-1]
    alpha, beta = (float(str(node.kwargs.get(name, 1))) for name in ("alpha", "beta"))
    scale = terms * alpha * alpha
    gains = [(a, scale * _mean_square(values[b])), (b, scale * _mean_square(values[a]))]
    return [(arguments[0], beta * beta), *gains] if node.target in _ADDED else gains


_aten = torch.ops.aten

#: Products whose every sum has as many terms, and no weight twice; those with a third argument add it.
_ADDED = frozenset({_aten.addmm.default, _aten.baddbmm.default})
_PLAIN = frozenset({_aten.mm.default, _aten.bmm.default, *_ADDED})


def _mean_square(x: Tensor) -> float:
    """Of the finite values: masks hold infinities."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    found = float(wide.square().mean()) if x.numel() else 0.0
    if math.isfinite(found):
        return found
    finite = x[x.isfinite()].double()
    return float(finite.square().mean()) if finite.numel() else 0.0
