"""What passes, backends and rules of control must offer. Passes hand backends nothing but a graph and a plan."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor
from torch.fx import GraphModule

from precc.kernel_listing import KernelListing
from precc.plan import PrecisionPlan
from precc.slots import CallNumbers

__all__ = ["Backend", "BoxedCallable", "ControlRule", "GraphContext", "HalvesPass", "KernelOwner", "Pass"]

Seen = TypeVar("Seen", contravariant=True)
State = TypeVar("State")
Decided = TypeVar("Decided", covariant=True)

#: Takes its arguments as one list, which it may empty, and returns the outputs.
BoxedCallable = Callable[[list[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class GraphContext:
    """What a pass may know of a graph beside its nodes.

    Args:
        constants: names of the placeholders that hold parameters and buffers.
        plan: name of the placeholder that holds the plan.
        layers: module path of the modules by which the graph's module stacks start.
        aliases: the first path of each module that has several, by its other paths.
        frame: which code of the model the graph was captured from.
        numbers: call numbers, shared by all graphs of a net.
        regions: paths of the modules that are compiled, where a graph holds more than one of them; empty: all of it is.
        only_plan: the plan, where the graph is built for one plan alone.
        results: whether results have rounding nodes.
    """

    constants: frozenset[str]
    plan: str | None
    layers: Mapping[str, str]
    aliases: Mapping[str, str]
    frame: Hashable
    numbers: CallNumbers
    regions: tuple[str, ...] = ()
    only_plan: PrecisionPlan | None = None
    results: bool = False


class Pass(Protocol):
    """A change or annotation of a joint, forward or exported graph, in place."""

    @property
    def name(self) -> str: ...

    def run(self, graph: GraphModule, context: GraphContext) -> None: ...


class HalvesPass(Protocol):
    """A change of both halves of a partitioned graph, in place."""

    @property
    def name(self) -> str: ...

    def run(self, forward: GraphModule, backward: GraphModule, visible_outputs: int, context: GraphContext) -> None:
        """Change a forward, whose first outputs a caller sees, and its backward."""
        ...


class Backend(Protocol):
    """Makes a partitioned graph run. Its fields are its options."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raise BackendError where this machine cannot run it, with the way out."""
        ...

    def compile(
        self, graph: GraphModule, inputs: Sequence[Any], *, visible_outputs: int, backward: bool
    ) -> BoxedCallable:
        """A callable for a forward or backward graph with ``precc.round`` nodes.

        Args:
            graph: the graph, after partition.
            inputs: example values of its placeholders, fake tensors or symbolic integers.
            visible_outputs: how many of the first outputs a caller sees (their strides must be kept).
            backward: whether it is a backward graph.
        """
        ...


@runtime_checkable
class KernelOwner(Protocol):
    """What a backend may return from `Backend.compile` beside: a callable that knows its kernels."""

    def prepare(self, plan: Tensor) -> None:
        """A plan is used from now on: have the kernels that its live tensor needs, as far as sizes are known."""
        ...

    def listing(self) -> KernelListing:
        """Its kernels, and what remains without one."""
        ...


class ControlRule(Protocol[Seen, State, Decided]):
    """What a controller decides by: a frozen dataclass of constants, without torch, net or optimizer.

    Pure: what it remembers is in the state, an immutable value that the controller keeps; equal arguments give equal
    results. The reason of a decision, where there is one, is in it.
    """

    def init(self) -> State:
        """The state before the first step."""
        ...

    def step(self, seen: Seen, state: State, /) -> tuple[Decided, State]:
        """The decision on what was seen, and the state after it."""
        ...
