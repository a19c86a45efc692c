"""How errors grow from node to node of the forward part: one gain for each argument of each node.

Gains come from one run of the forward part. Of most operators there is a formula; elementwise ones are called once more
for each argument at a sample of 1024 elements, with errors of ``2**-10`` of the argument's root mean square added to
them: the standard error of a gain is 3 % times the coefficient of variation of the squared slopes. Others are called
once more for each argument as a whole, with white noise of that size.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.error_gains import ErrorGains, GainedNode
from precc.analysis.lost_derivatives import depends_on_values
from precc.analysis.noise import Noise
from precc.analysis.slot_sites import is_view, sites_of
from precc.analysis.stacked_calls import StackedCalls
from precc.analysis.step_runs import StepRunner, Values, computed, forward_nodes, unrounded
from precc.analysis.traced_step import TracedStep
from precc.annotations import Product, annotation_of
from precc.captured_graph import size_value
from precc.passes.condition_elementwise import AT_ONE_PLACE
from precc.passes.condition_rules import is_real
from precc.passes.condition_sample import Sampler
from precc.passes.gain_rules import GAIN_RULES, Call, gain_of_differences
from precc.passes.op_classes import OpClass, classify
from precc.round_op import ROUND
from precc.rounding import slot_number

__all__ = ["ForwardError", "GainWatcher"]

_NOISE = 2.0**-10
_SAMPLES = 1024
_LONG = 2**22  # a sum of so many squares is not left to float32

#: Of an argument by its name; to be found at the end, if it is among others.
_Gains = tuple[tuple[str, float | Callable[[], float]], ...]


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
    seen: list["_Seen"] = field(default_factory=list)
    carriers: set[Node] = field(default_factory=set)  # nodes whose values may have errors
    several: dict[Node, Mapping[int, _Gains]] = field(default_factory=dict)  # of each of many results
    squares: dict[Node, float] = field(default_factory=dict)  # mean squares of values
    samples: Sampler = field(default_factory=lambda: Sampler(_SAMPLES, 0))
    calls: StackedCalls = field(default_factory=StackedCalls)

    def result(self) -> ErrorGains:
        """Those of all nodes seen whose values have errors."""
        found: dict[str, GainedNode] = {}
        for own in self.seen:
            arguments = tuple((name, _number(gain)) for name, gain in own.arguments if own.rounds or name in found)
            if own.rounds or any(gain for _, gain in arguments):
                found[own.name] = GainedNode(own.name, arguments, own.slot, own.square, own.unit, own.terms)
        return ErrorGains(tuple(found.values()))

    def watch(self, node: Node, value: Any, values: Values) -> None:
        """Look at a node with its value."""
        if node in self.forward:
            with torch.no_grad():
                self._look(node, value, values)

    def _look(self, node: Node, value: Any, values: Values) -> None:
        if node.target is ROUND:
            self._add(node, value, ((str(node.args[0]), 1.0),), self.slots[node])
            return
        arguments = [argument for argument in node.all_input_nodes if argument in self.carriers]
        if not arguments or node.op != "call_function":
            return
        if isinstance(value, (tuple, list)):
            self.carriers.add(node)
            parts = {int(str(user.args[1])) for user in node.users if user in self.forward}
            self.several[node] = self._gains(node, arguments, {index: value[index] for index in parts}, value, values)
        elif node.target is operator.getitem:
            self._add(node, value, self.several[arguments[0]][int(str(node.args[1]))])
        elif is_view(node):
            if arguments[0] in self.squares:
                self.squares[node] = self.squares[arguments[0]]
            self._add(node, value, ((arguments[0].name, 1.0),))
        elif is_real(value):
            self._add(node, value, self._gains(node, arguments, {0: value}, value, values)[0], _accumulator(node))

    def _gains(
        self, node: Node, arguments: Sequence[Node], parts: Mapping[int, Any], value: Any, values: Values
    ) -> dict[int, _Gains]:
        """Of some results of a node."""
        real = {index: own for index, own in parts.items() if is_real(own)}
        found = {index: self._known(node, own, value, values) for index, own in real.items()}
        unknown = {index: own for index, own in real.items() if found[index] is None}
        measured = self._measured(node, arguments, unknown, value, values) if unknown else {}
        every = {index: measured[index] if known is None else known for index, known in found.items()}
        return {index: every.get(index, ()) for index in parts}

    def _known(self, node: Node, y: Tensor, value: Any, values: Values) -> _Gains | None:
        """By a formula, or from a sample; None for other operators, and for those that read a node twice."""
        if sum(isinstance(own, Node) for own in node.args) > len(node.all_input_nodes) or not y.numel():
            return None
        rule = GAIN_RULES.get(node.target)
        if rule is None:
            return self._sampled(node, y, values) if node.target in AT_ONE_PLACE else None
        known = rule(Call(node.args, node.kwargs, values.__getitem__, self._square(values), y, value, self.samples))
        if known is None:
            return None
        pairs = ((_argument(node, place), gain) for place, gain in known.items())
        return tuple((own.name, gain) for own, gain in pairs if own in self.carriers)

    def _sampled(self, node: Node, y: Tensor, values: Values) -> _Gains:
        args = [values[own] if isinstance(own, Node) else own for own in node.args]
        taken = (self.samples.raw(own.detach(), y.shape) if isinstance(own, Tensor) else own for own in args)
        place = self.calls.add(gain_of_differences, (node.target, *taken), **node.kwargs)
        real = [own for own in node.args if isinstance(own, Node) and is_real(values[own])]
        return tuple(
            (own.name, lambda at=at: self.calls.results()[place][at])
            for at, own in enumerate(real)
            if own in self.carriers
        )

    def _measured(
        self, node: Node, arguments: Sequence[Node], parts: Mapping[int, Tensor], value: Any, values: Values
    ) -> dict[int, _Gains]:
        found: dict[int, list[tuple[str, float]]] = {index: [] for index in parts}
        for argument in arguments if depends_on_values(node) else ():  # called again, a random one would draw on
            noise = self._noise(argument, values)
            size = 0.0 if noise is None else _mean_square(noise)
            if noise is not None and size:
                own = {other: values[other] for other in node.all_input_nodes}
                moved = computed(node, {**own, argument: values[argument] + noise})
            for index, y in parts.items():
                change = (moved if value is y else moved[index]) - y if size else None
                found[index].append((argument.name, 0.0 if change is None else _mean_square(change) / size))
        return {index: tuple(own) for index, own in found.items()}

    def _noise(self, argument: Node, values: Values) -> Tensor | None:
        x = values[argument]
        if not is_real(x) or not x.numel():
            return None
        size = self._square(values)(argument) ** 0.5 * max(_NOISE, 8 * torch.finfo(x.dtype).eps)
        noise: Tensor = self.noise.normal(x, slot_number(argument.name)) * size
        return noise

    def _square(self, values: Values) -> Callable[[Node], float]:
        def square(node: Node) -> float:
            if node not in self.squares:
                self.squares[node] = _mean_square(values[node].detach())
            return self.squares[node]

        return square

    def _add(self, node: Node, value: Any, arguments: _Gains, slot: str = "") -> None:
        if not is_real(value):
            return
        square = self._square({node: value})(node)
        self.seen.append(_Seen(node.name, arguments, slot, square, _unit(node, value), _terms(node)))
        self.carriers.add(node)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A node of the forward part that may have errors; the names are those of `GainedNode`."""

    name: str
    arguments: _Gains
    slot: str
    square: float
    unit: float
    terms: int

    @property
    def rounds(self) -> bool:
        """Whether a slot or an accumulator is rounded here."""
        return bool(self.slot)


def _number(gain: float | Callable[[], float]) -> float:
    return gain() if callable(gain) else gain


def _argument(node: Node, place: Any) -> Any:
    """The argument at a position, or within a list there."""
    found: Any = node.args
    for at in place if isinstance(place, tuple) else (place,):
        found = found[at] if at < len(found) else None
    return found


def _unit(node: Node, y: Any) -> float:
    """Unit roundoff of what the operator does; 0 of those that are exact."""
    known = classify(node)
    exact = node.target in (ROUND, operator.getitem) or (known is not None and known.kind is OpClass.EXACT)
    return 0.0 if exact or not isinstance(y, Tensor) or not y.is_floating_point() else torch.finfo(y.dtype).eps / 2


def _terms(node: Node) -> int:
    product = annotation_of(node)
    if not isinstance(product, Product) or not product.accumulators:
        return 0
    outputs: int = node.meta["val"].numel()
    return max(1, size_value(product.multiply_adds, {}) // max(1, outputs))


def _accumulator(node: Node) -> str:
    product = annotation_of(node)
    return next((slot.name for slot in product.accumulators), "") if isinstance(product, Product) else ""


def _mean_square(x: Tensor) -> float:
    """Of the finite values: masks hold infinities."""
    quick = x.dtype == torch.float32 and x.is_contiguous() and x.numel() < _LONG
    found = float(torch.linalg.vector_norm(x if quick else x.double())) ** 2 / max(1, x.numel())
    if math.isfinite(found):
        return found
    x = x.float() if x.dtype.itemsize < 4 else x
    others = float((x - x).nan_to_num_(1.0).sum())  # by numbers: masks of a whole tensor are slow
    total = float(torch.linalg.vector_norm(x.nan_to_num(0.0, 0.0, 0.0), dtype=torch.float64)) ** 2
    return total / max(1.0, x.numel() - others)
