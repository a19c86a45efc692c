"""Sound bounds of a step's forward: intervals of all its values over a box, and what errors at slots do to a result.

Forward, each node gets an interval that holds its value in exact arithmetic, for all inputs in the box and all errors
at slots that were allowed. Backward, rows of slopes are composed with those of each op (`precc.passes.interval_rules`),
from the result to each slot: L is the largest sum of magnitudes in a row, and errors e_i, in the largest norm, change
the result by at most ``sum L_i e_i`` (local Lipschitz constants: Shi, Wang, Zhang, Kolter, Hsieh 2022, arXiv
2210.07394; here by plain intervals). Where the product of the norms of the ops on the way is smaller, L is that.

Roundings of other ops than those with slots are not in it: they are taken to be exact, as are conversions.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.intervals import Interval, gamma, point, up
from precc.analysis.traced_step import TracedStep
from precc.annotations import products_of, roundings_of
from precc.errors import AnalysisError, expected_one_of
from precc.passes.interval_graph import IntervalGraph, ancestors
from precc.slots import Role

__all__ = ["Box", "Bounds", "SlotBound", "SlotError", "bounds_of", "output_node", "slot_nodes"]

#: Around a value, or its two ends.
Box = float | tuple[Tensor, Tensor]

#: So many rows at a time are composed.
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class SlotError:
    """What may be added to each element x at a slot: at most ``absolute + relative |x|``."""

    absolute: float = 0.0
    relative: float = 0.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(part) and part >= 0 for part in (self.absolute, self.relative)):
            raise AnalysisError(f"{self} is no error: both parts are finite and at least 0")


@dataclass(frozen=True, slots=True, eq=False)
class SlotBound:
    """Bounds at one slot.

    Args:
        slot: its name; that of an accumulator stands for the sum.
        lipschitz: an error of size e, in the largest norm, changes the result by at most this times e.
        value_low: of each element, with the error that was allowed.
        value_high: of each element.
        by_intervals: L by rows of slopes.
        by_norms: L by products of norms.
        error: the largest error of an element that is in the intervals.
        allowed: what error was asked for.
    """

    slot: str
    lipschitz: float
    value_low: Tensor
    value_high: Tensor
    by_intervals: float
    by_norms: float
    error: float
    allowed: SlotError


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Bounds of one result.

    Args:
        slots: by name, those that the result depends on.
        output: interval of the result.
        intervals: of all nodes that are real tensors, by name; of placeholders the box.
        unknown: why a node has no bounds of its own, by name: what depends on it may be infinite.
    """

    slots: Mapping[str, SlotBound]
    output: Interval
    intervals: Mapping[str, Interval]
    unknown: Mapping[str, str]

    def total(self, errors: Mapping[str, float]) -> float:
        """``sum L_i e_i``: by how much errors of these sizes, by slot, change the result at most.

        Each element's error must be one that was allowed; a size is that of the largest.

        Raises:
            AnalysisError: no such slot, or an error that is no size or larger than the intervals allow for.
        """
        total = 0.0
        for name, error in errors.items():
            known = self.slots.get(name)
            if known is None:
                raise AnalysisError(f"no bound of a slot {name!r}: {expected_one_of(self.slots)}")
            if not 0 <= error <= known.error:
                raise AnalysisError(f"an error {error} at {name}: the bounds hold from 0 to {known.error}")
            if error > 0 and known.lipschitz > 0:
                total = math.nextafter(total + math.nextafter(known.lipschitz * error, math.inf), math.inf)
        return total


def bounds_of(
    step: TracedStep,
    *,
    box: Mapping[str, Box] | None = None,
    radius: float = 0.0,
    errors: Mapping[str, SlotError] | None = None,
    output: str | None = None,
) -> Bounds:
    """Intervals of a step's forward over a box, and Lipschitz constants from its slots to a result.

    Args:
        step: a step.
        box: by placeholder or parameter, two tensors of its shape or one distance to its value.
        radius: the distance for all other real tensors that are no parameters, such as inputs and buffers.
        errors: by slot, what is added there.
        output: a node by name, or a product such as ``fc3/product``; None: the loss.

    Raises:
        AnalysisError: a name that the step does not have, values that are not finite, or a box that is empty.
    """
    node = output_node(step, output)
    places = {name: place for name, place in slot_nodes(step, node)}
    allowed = errors or {}
    _refuse_unknown(allowed, places, "slot")
    if not (math.isfinite(radius) and radius >= 0):
        raise AnalysisError(f"a radius {radius}: finite and at least 0")
    nodes = ancestors(node)
    given = {places[name]: (error.absolute, error.relative) for name, error in allowed.items()}
    graph = IntervalGraph(step.graph, nodes, _placeholders(step, nodes, box or {}, radius), given)
    graph.forward()
    result = graph.values[node]
    if not isinstance(result, Interval):
        raise AnalysisError(f"the result {node.name!r} is no tensor of real numbers")
    slopes = _largest_sums(graph, node, result, set(places.values()))
    norms = graph.norms(node)
    slots = {
        name: _slot_bound(name, graph, place, slopes.get(place, 0.0), norms.get(place, 0.0), allowed.get(name))
        for name, place in places.items()
    }
    intervals = {n.name: value for n, value in graph.values.items() if isinstance(value, Interval)}
    return Bounds(slots, result, intervals, {n.name: reason for n, reason in graph.unknown.items()})


def output_node(step: TracedStep, output: str | None) -> Node:
    """The node that a name means, the result of a product, or the loss.

    Raises:
        AnalysisError: none of these.
    """
    if output is None:
        return step.loss
    products = {product.op: node for node, product in products_of(step.graph.graph) if product.role is Role.FPROP}
    named = {node.name: node for node in ancestors(step.loss)} | products
    _refuse_unknown([output], named, "result")
    return named[output]


def slot_nodes(step: TracedStep, output: Node) -> list[tuple[str, Node]]:
    """The forward slots that a result depends on, each with the node at which its error is added."""
    graph, known = step.graph.graph, set(ancestors(output))
    found = [(slot.name, node) for node, slot in roundings_of(graph) if node in known]
    for node, product in products_of(graph):
        found += [(slot.name, node) for slot in product.accumulators if node in known]
    return found


def _refuse_unknown(asked: Iterable[str], known: Mapping[str, object], what: str) -> None:
    for name in asked:
        if name not in known:
            raise AnalysisError(f"no {what} {name!r} in the forward: {expected_one_of(known)}")


def _placeholders(
    step: TracedStep, nodes: list[Node], box: Mapping[str, Box], radius: float
) -> dict[Node, Interval | object]:
    used = {str(node.name): node for node in nodes if node.op == "placeholder"}
    names = {step.parameters.get(name, name): name for name in step.inputs}
    _refuse_unknown(box, names | dict.fromkeys(step.inputs, ""), "input or parameter")
    boxes = {names.get(name, name): own for name, own in box.items()}
    if len(boxes) < len(box):
        raise AnalysisError("a box is given twice, by the names of a parameter and of its placeholder")
    found: dict[Node, Interval | object] = {}
    for name, node in used.items():
        value = step.inputs.get(name)
        around = boxes.get(name, 0.0 if name in step.parameters else radius)
        real = isinstance(value, Tensor) and value.is_floating_point()
        found[node] = _box(name, value, around) if isinstance(value, Tensor) and real else value
    wrong = [name for name in boxes if name in used and not isinstance(found[used[name]], Interval)]
    if wrong:
        raise AnalysisError(f"{wrong[0]!r} is no tensor of real numbers: it has no box")
    return found


def _box(name: str, value: Tensor, around: Box) -> Interval:
    if not isinstance(around, tuple):
        if not (math.isfinite(around) and around >= 0):
            raise AnalysisError(f"a box of {name!r} with the radius {around}: finite and at least 0")
        middle = point(value)
        found = middle if around == 0 else Interval(-up(around - middle.low), up(middle.low + around))
    else:
        found = Interval(around[0].double(), around[1].double())
    if found.low.shape != value.shape or found.high.shape != value.shape:
        raise AnalysisError(f"the box of {name!r} has not its shape {tuple(value.shape)}")
    if not bool((found.low.isfinite() & found.high.isfinite()).all()):
        raise AnalysisError(f"{name!r} is not finite: a box has finite ends")
    if bool((found.low > found.high).any()):
        raise AnalysisError(f"the box of {name!r} is empty: low is above high")
    return found


def _largest_sums(graph: IntervalGraph, output: Node, result: Interval, places: set[Node]) -> dict[Node, float]:
    """The largest sum of magnitudes in a row of slopes, by place."""
    found: dict[Node, float] = {}
    count = result.low.numel()
    for start in range(0, count, _CHUNK):
        seeds = torch.eye(count, dtype=torch.float64)[start : start + _CHUNK].reshape(-1, *result.shape)
        for node, rows in graph.backward(output, seeds):
            if node in places:
                flat = rows.magnitude.reshape(len(rows.low), -1)
                largest = float(flat.sum(1).max()) * (1 + gamma(flat.shape[1]))
                found[node] = max(found.get(node, 0.0), largest)
    return found


def _slot_bound(
    name: str, graph: IntervalGraph, node: Node, slopes: float, norms: float, error: SlotError | None
) -> SlotBound:
    value = graph.values[node]
    assert isinstance(value, Interval)
    allowed, largest = error or SlotError(), graph.added.get(node, 0.0)
    return SlotBound(name, min(slopes, norms), value.low, value.high, slopes, norms, largest, allowed)
