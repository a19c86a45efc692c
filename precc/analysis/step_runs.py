"""Running a traced step node by node, with a function of the caller's in the place of each rounding.

Nodes run in the order of the graph; a value is dropped after its last use. What `aten.detach` cuts in autograd is not
cut here: the step is a function of its slots' values, gradients included, and errors pass where gradients do not.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from precc.analysis.lost_derivatives import Derivatives
from precc.analysis.traced_step import TracedStep
from precc.generators import Generators
from precc.round_op import ROUND

__all__ = ["SlotFunction", "StepRun", "StepRunner", "Values", "Watch", "computed", "forward_nodes", "unrounded"]

_DETACH = torch.ops.aten.detach.default

#: Of the rounding node, and the values computed so far: what is read there.
SlotFunction = Callable[[Node, "Values"], Tensor]
Values = dict[Node, Any]

#: Of a node, its value, and the values before it.
Watch = Callable[[Node, Any, Values], None]


@dataclass(frozen=True, slots=True, eq=False)
class StepRun:
    """What a run computed: the loss, and gradients by name of the parameter (none where they were not asked for)."""

    loss: Tensor
    gradients: Mapping[str, Tensor]


@dataclass(eq=False)
class StepRunner:
    """Runs a step any number of times, with the same random numbers.

    Args:
        step: the step.
        uses: nodes whose values a slot function reads beside the argument of the slot's node.
        derivatives: of its operators, where gradients are recorded.
    """

    step: TracedStep
    uses: Mapping[Node, Sequence[Node]] = field(default_factory=dict)
    derivatives: Derivatives = field(default_factory=Derivatives)
    generators: Generators = field(init=False)

    def __post_init__(self) -> None:
        self.generators = Generators.of(value for value in self.step.inputs.values() if isinstance(value, Tensor))

    @cached_property
    def _whole(self) -> "_Schedule":
        return _Schedule.of([self.step.loss, *self.step.gradients.values()], self.uses)

    @cached_property
    def _forward(self) -> "_Schedule":
        return _Schedule.of([self.step.loss], self.uses)

    def run(
        self,
        at_slot: SlotFunction,
        *,
        inputs: Mapping[str, Any] | None = None,
        gradients: bool = True,
        watch: Watch | None = None,
    ) -> StepRun:
        """The loss and the gradients, differentiable where gradients are recorded and an input needs them.

        Args:
            at_slot: computes what a product reads in the place of the rounding.
            inputs: values in the place of the step's, by placeholder.
            gradients: whether to compute them.
            watch: called with each node, its value and the values before it.
        """
        schedule = self._whole if gradients else self._forward
        with self.generators.again():
            values = self._run(schedule, at_slot, {**self.step.inputs, **(inputs or {})}, watch)
        computed = {name: values[node] for name, node in self.step.gradients.items()} if gradients else {}
        return StepRun(values[self.step.loss], computed)

    def _run(
        self,
        schedule: "_Schedule",
        at_slot: SlotFunction,
        inputs: Mapping[str, Any],
        watch: Watch | None,
    ) -> Values:
        values: Values = {}
        for node, dead in zip(schedule.nodes, schedule.dead, strict=True):
            if node.target is ROUND:
                value: Any = at_slot(node, values)
            else:
                value = self._value(node, values, inputs)
            if watch is not None:
                watch(node, value, values)
            values[node] = value
            for gone in dead:
                del values[gone]
        return values

    def _value(self, node: Node, values: Values, inputs: Mapping[str, Any]) -> Any:
        if node.op == "placeholder":
            return inputs[node.name] if node.name in inputs else _tangent(node)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.step.graph)
        return computed(node, values, self.derivatives)


def unrounded(node: Node, values: Values) -> Tensor:
    """A slot function that rounds nothing."""
    value: Tensor = values[node.args[0]]  # type: ignore[index]
    return value


def forward_nodes(step: TracedStep) -> frozenset[Node]:
    """The nodes that the loss depends on."""
    return frozenset(_Schedule.of([step.loss], {}).nodes)


def computed(node: Node, values: Mapping[Node, Any], derivatives: Derivatives | None = None) -> Any:
    """The value of a node that calls an operator."""
    if node.target is _DETACH:
        return values[node.all_input_nodes[0]]
    if torch.is_grad_enabled():
        return (derivatives or Derivatives()).value(node, values)
    args: Any = torch.fx.node.map_arg(node.args, lambda argument: values[argument])
    kwargs: Any = torch.fx.node.map_arg(node.kwargs, lambda argument: values[argument])
    target: Any = node.target
    return target(*args, **kwargs)


def _tangent(node: Node) -> Tensor:
    """Of the loss: one."""
    fake: Tensor = node.meta["val"]
    return torch.ones(fake.shape, dtype=fake.dtype, device=fake.device)


@dataclass(frozen=True, slots=True, eq=False)
class _Schedule:
    """Nodes in order, and after each those whose values are needed no more."""

    nodes: tuple[Node, ...]
    dead: tuple[tuple[Node, ...], ...]

    @classmethod
    def of(cls, targets: Sequence[Node], uses: Mapping[Node, Sequence[Node]]) -> "_Schedule":
        graph = targets[0].graph
        read = {node: (*node.all_input_nodes, *uses.get(node, ())) for node in graph.nodes}
        for node in graph.find_nodes(op="call_function", target=ROUND):
            read[node] = tuple(argument for argument in read[node] if argument is not node.args[1])  # the plan
        needed, waiting = set(targets), list(targets)
        while waiting:
            for argument in read[waiting.pop()]:
                if argument not in needed:
                    needed.add(argument)
                    waiting.append(argument)
        nodes = tuple(node for node in graph.nodes if node in needed)
        last = {argument: position for position, node in enumerate(nodes) for argument in read[node]}
        dead: list[list[Node]] = [[] for _ in nodes]
        for argument, position in last.items():
            if argument not in targets:
                dead[position].append(argument)
        return cls(nodes, tuple(map(tuple, dead)))
