"""Rules of all ops over a graph: intervals forward, rows of slopes backward, and products of norms."""

import math
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from precc.analysis.intervals import Interval, add, point, whole
from precc.errors import AnalysisError
from precc.passes.interval_elementwise import CONSTANTS, ELEMENTWISE, SELECTIONS
from precc.passes.interval_norms import NORMS
from precc.passes.interval_products import PRODUCT_RULES
from precc.passes.interval_reductions import REDUCTIONS
from precc.passes.interval_rules import Rule, Value, WithoutRule

__all__ = ["RULES", "IntervalGraph", "ancestors", "called"]

#: The rules, by op.
RULES: dict[Any, Rule] = {**ELEMENTWISE, **SELECTIONS, **PRODUCT_RULES, **REDUCTIONS, **NORMS}

#: Of results and arguments of one node in floating point, beyond that of its rule.
_MORE = 1 + 2.0**-50

Rows = Interval | list[Interval | None]


def ancestors(output: Node) -> list[Node]:
    """The nodes that a node is computed from, and itself, in graph order."""
    found, waiting = {output}, [output]
    while waiting:
        waiting += [node for node in waiting.pop().all_input_nodes if node not in found and not found.add(node)]  # type: ignore[func-returns-value]
    return [node for node in output.graph.nodes if node in found]


def called(node: Node, values: Mapping[Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a node, with values in the place of nodes."""
    args: Any = map_arg(node.args, lambda argument: values[argument])
    kwargs: Any = map_arg(node.kwargs, lambda argument: values[argument])
    return tuple(args), dict(kwargs)


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _varies(value: Any) -> bool:
    return any(isinstance(leaf, Interval) for leaf in _leaves(value))


def _described(node: Node, reason: str) -> str:
    """What has no bounds and why, with the line of the user's code where it is known."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    place = f", at {lines[-1][0]}:{lines[-1][1]}" if lines else ""
    return f"node {node.name!r} ({node.target}{place}): {reason}"


@dataclass(slots=True)
class IntervalGraph:
    """The values of a graph's nodes as intervals, and what has none, with the reason.

    Args:
        module: holds the graph, and constants.
        nodes: of the graph those of interest, in its order.
        values: by node; those of placeholders are given.
        errors: by node, what may be added to its elements: absolute, and relative to their magnitude.
        unknown: by node, why it has the whole line for its values or slopes.
        added: by node, the largest error of an element that is in its interval.
    """

    module: GraphModule
    nodes: list[Node]
    values: dict[Node, Value]
    errors: Mapping[Node, tuple[float, float]]
    unknown: dict[Node, str] = field(default_factory=dict)
    added: dict[Node, float] = field(default_factory=dict)

    def forward(self) -> None:
        """Compute the values of all nodes."""
        for node in self.nodes:
            if node.op == "get_attr":
                self.values[node] = _constant(operator.attrgetter(str(node.target))(self.module))
            elif node.op == "call_function":
                self.values[node] = self._widened(node, self._value(node))

    def _value(self, node: Node) -> Value:
        args, kwargs = called(node, self.values)
        if node.target is operator.getitem:
            return args[0][args[1]]
        try:
            _refuse_random(node)
            return _of_rule(node, args, kwargs) if _varies((args, kwargs)) else _exact(node, args, kwargs)
        except WithoutRule as reason:
            self.unknown[node] = _described(node, str(reason))
            return _unbounded(node)

    def _widened(self, node: Node, value: Value) -> Value:
        absolute, relative = self.errors.get(node, (0.0, 0.0))
        if not isinstance(value, Interval) or absolute == relative == 0:
            return value
        radius = (value.magnitude * relative * _MORE + absolute) * _MORE
        self.added[node] = float(radius.max())
        return add(value, Interval(-radius, radius))

    def backward(self, output: Node, seeds: Tensor) -> Iterable[tuple[Node, Interval]]:
        """Rows of each node that the output depends on by a slope, from the output on; seeds are those of it."""
        rows: dict[Node, Rows] = {output: Interval(seeds, seeds)}
        for node in reversed(self.nodes):
            own = rows.pop(node, None)
            if own is None:
                continue
            if isinstance(own, Interval):
                yield node, own
            if node.op == "call_function":
                for argument, found in self._pulled(node, own):
                    self._collect(rows, argument, found)

    def _collect(self, rows: dict[Node, Rows], node: Node, found: Rows) -> None:
        known = rows.get(node)
        if known is None:
            rows[node] = found
        elif isinstance(known, Interval) and isinstance(found, Interval):
            rows[node] = add(known, found)
        else:
            assert isinstance(known, list)
            assert isinstance(found, list)
            pairs = zip(known, found, strict=True)
            rows[node] = [b if a is None else a if b is None else add(a, b) for a, b in pairs]

    def _pulled(self, node: Node, own: Rows) -> list[tuple[Node, Rows]]:
        if node.target is operator.getitem:
            source, index = node.args[0], node.args[1]
            assert isinstance(source, Node)
            return [(source, [own if place == index else None for place in range(len(self.values[source]))])]  # type: ignore[misc]
        count = next(rows for rows in _leaves(own) if rows is not None).shape[0]
        if not self._inputs(node):
            return []
        if node not in self.unknown:
            args, kwargs = called(node, self.values)
            nodes = self._by_value(node)
            try:
                return [(nodes[id(value)], found) for value, found in RULES[node.target].slopes(own, *args, **kwargs)]
            except WithoutRule as reason:
                self.unknown[node] = _described(node, str(reason))
        return [(argument, _whole_rows(count, self.values[argument])) for argument in self._inputs(node)]

    def _by_value(self, node: Node) -> dict[int, Node]:
        return {id(self.values[argument]): argument for argument in node.all_input_nodes}

    def _inputs(self, node: Node) -> list[Node]:
        return [argument for argument in node.all_input_nodes if _varies(self.values[argument])]

    def norms(self, output: Node) -> dict[Node, float]:
        """Of each node a bound of L: over all ways to the output the product of the norms of the ops, summed up."""
        found = {output: 1.0}
        for node in reversed(self.nodes):
            own = found.get(node)
            if own is None or node.op != "call_function":
                continue
            for argument, norm in self._norms_of(node):
                found[argument] = (found.get(argument, 0.0) + own * norm * _MORE) * _MORE
        return {node: norm if norm == norm else math.inf for node, norm in found.items()}

    def _norms_of(self, node: Node) -> list[tuple[Node, float]]:
        inputs = self._inputs(node)
        if node.target is operator.getitem:
            return [(argument, 1.0) for argument in inputs]
        known: dict[Node, float] = {}
        if inputs and node not in self.unknown:
            args, kwargs = called(node, self.values)
            nodes = self._by_value(node)
            for value, norm in RULES[node.target].norms(*args, **kwargs):
                known[nodes[id(value)]] = known.get(nodes[id(value)], 0.0) + norm
        return [(argument, known.get(argument, math.inf)) for argument in inputs]


def _refuse_random(node: Node) -> None:
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise WithoutRule("it draws random numbers")


def _of_rule(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
    rule = RULES.get(node.target)
    if rule is None:
        raise WithoutRule("the op has no rule of intervals")
    return rule.value(*args, **kwargs)


def _exact(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
    """A node without intervals among its arguments: integers and booleans, and constants."""
    target: Any = node.target
    if target in SELECTIONS:
        result = SELECTIONS[target].value(*args, **kwargs)
    else:
        result = target(*args, **kwargs)
    floats = any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in _leaves(result))
    if floats and target not in CONSTANTS and target not in SELECTIONS:
        raise WithoutRule("it computes real numbers of integers")
    return _constant(result)


def _constant(value: Any) -> Value:
    """A constant: real numbers as an interval of one point."""
    if isinstance(value, list | tuple):
        return tuple(_constant(part) for part in value)
    return point(value) if isinstance(value, Tensor) and value.is_floating_point() else value


def _unbounded(node: Node) -> Value:
    fake: Any = node.meta.get("val")
    if isinstance(fake, Tensor):
        return whole(fake.shape)
    if isinstance(fake, list | tuple):
        return tuple(whole(part.shape) if isinstance(part, Tensor) else part for part in fake)
    raise AnalysisError(_described(node, "neither a rule nor the shape of its result is known"))


def _whole_rows(count: int, value: Value) -> Rows:
    if isinstance(value, Interval):
        return whole((count, *value.shape))
    return [whole((count, *part.shape)) if isinstance(part, Interval) else None for part in value]
