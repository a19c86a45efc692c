"""How tight bounds are: L by intervals, by sampled Jacobians, and by products of norms."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.intervals import Interval
from precc.analysis.traced_step import TracedStep
from precc.passes.bounds import Bounds, SlotError, output_node, slot_nodes
from precc.passes.interval_graph import ancestors, called
from precc.round_op import ROUND

__all__ = ["Tightness", "in_float64", "sampled_inputs", "tightness"]

_aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Tightness:
    """Of one slot: the largest sum of magnitudes in a row of J at sampled points, which is below both bounds."""

    slot: str
    sampled: float
    by_intervals: float
    by_norms: float


def in_float64(
    step: TracedStep,
    inputs: Mapping[str, Tensor],
    changes: Mapping[Node, Callable[[Tensor], Tensor]],
    output: Node,
) -> dict[Node, Any]:
    """The values of a step's forward in float64, without rounding, and with changed values of nodes.

    Args:
        step: a step.
        inputs: real tensors in the place of those of the step, by placeholder.
        changes: by node, the function from its value to the changed one.
        output: up to which.
    """
    values: dict[Node, Any] = {}
    for node in ancestors(output):
        if node.op == "placeholder":
            value: Any = inputs.get(node.name, step.inputs.get(node.name))
        elif node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(step.graph)
        else:
            args, kwargs = called(node, values)
            value = _run(node, args, kwargs)
        value = value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        values[node] = changes[node](value) if node in changes else value
    return values


def _run(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    target: Any = node.target
    if target in (_aten._to_copy.default, _aten.detach.default, ROUND):
        return args[0]
    return target(*args, **kwargs)


def sampled_inputs(bounds: Bounds, step: TracedStep, generator: torch.Generator) -> dict[str, Tensor]:
    """A point of the box, at a corner or inside of it with equal chances."""
    found = {}
    for name in step.inputs:
        if name in bounds.intervals:
            found[name] = _sampled(bounds.intervals[name], generator)
    return found


def _sampled(box: Interval, generator: torch.Generator) -> Tensor:
    """A point of an interval: each element at an end or inside of it, with equal chances."""
    share = torch.rand(box.shape, generator=generator, dtype=torch.float64) * 2 - 0.5
    between = box.low + (box.high - box.low) * share.clamp(0, 1)
    return torch.maximum(torch.minimum(between, box.high), box.low)


def _noise(allowed: SlotError, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    def changed(x: Tensor) -> Tensor:
        share = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1
        return x + (share * (allowed.absolute + allowed.relative * x.detach().abs())).requires_grad_()

    return changed


def tightness(
    step: TracedStep, bounds: Bounds, *, samples: int = 10, seed: int = 0, output: str | None = None
) -> list[Tightness]:
    """Compare the bounds of a step with Jacobians at points of the box, with errors at slots."""
    generator = torch.Generator().manual_seed(seed)
    node = output_node(step, output)
    places = slot_nodes(step, node)
    largest = dict.fromkeys((name for name, _ in places), 0.0)
    for _ in range(samples):
        changes = {place: _noise(bounds.slots[name].allowed, generator) for name, place in places}
        values = in_float64(step, sampled_inputs(bounds, step, generator), changes, node)
        for row in values[node].flatten():
            slopes = torch.autograd.grad(row, [values[place] for _, place in places], retain_graph=True)
            for (name, _), slope in zip(places, slopes, strict=True):
                largest[name] = max(largest[name], float(slope.abs().sum()))
    known = bounds.slots
    return [Tightness(name, size, known[name].by_intervals, known[name].by_norms) for name, size in largest.items()]
