"""From a call of the net to compiled graphs: Dynamo, AOTAutograd's joint graph, passes, partition, backend.

The plan is an input of each graph that rounds: a placeholder that Dynamo does not know of is added at its end, and
the live tensor is handed over with every call. A new plan is a new tensor, so the backward of an earlier forward
still has that forward's plan, and nothing is compiled again.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any, Protocol
from weakref import ReferenceType, ref

import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._guards import TracingContext
from torch.fx import GraphModule, Node

from precc.amax_history import AmaxHistory
from precc.captured_graph import CapturedGraph, plan_position
from precc.decompositions import decomposition_table
from precc.double_backward import guard_double_backward
from precc.dynamo_graph import (
    constant_positions,
    floating_dtypes,
    input_names,
    layers_in_scope,
    refuse_several_devices,
    with_plan_input,
)
from precc.errors import BackendError, PreccError
from precc.pipeline import Pipeline
from precc.plan import PrecisionPlan
from precc.protocols import Backend, BoxedCallable, GraphContext, HalvesPass, KernelOwner
from precc.rounding import ROW_WIDTH
from precc.slots import CallNumbers, aliases_of, bound_aliases_of
from precc.stored_nodes import shown_constants
from precc.strict_dynamo import opened_products
from precc.tally import Tally

__all__ = ["GraphCompiler", "GraphOwner"]


class GraphOwner(Protocol):
    """What a net's graphs are for. They do not keep it alive: Dynamo keeps them longer than their net."""

    def net(self, region: str) -> nn.Module:
        """The net, whose module paths name the slots, for one of its regions."""
        ...

    def take(self, graph: CapturedGraph) -> None:
        """Take in a new graph, before it runs; may raise."""
        ...

    def lose(self, graphs: Sequence[CapturedGraph]) -> None:
        """Take note that graphs will not run again."""
        ...


@dataclass(eq=False, repr=False)
class GraphCompiler:
    """The ``torch.compile`` backend of one net, or of one region of it.

    Args:
        pipeline: the passes that place the rounding nodes.
        accumulating: the passes that each half goes through after the partition, so that sums can be rounded.
        fusing: those that it goes through then.
        saving: the passes that both halves go through at once, before all these.
        backend: makes graphs run.
        owner: what the graphs are for.
        amax: records of the net's slots.
        region: path of the module that is compiled; the root's is empty.
        only_plan: the one plan that graphs are built for; None: they are live.
        results: whether results have rounding nodes.
        fused_attention: whether attention is one op with slots of its own.
        runs: how often a compiled graph was entered.
        tally: of what was executed so far.
        numbers: of the calls of each module.
        frame: which code is being captured.
    """

    pipeline: Pipeline
    accumulating: Pipeline
    fusing: Pipeline
    saving: tuple[HalvesPass, ...]
    backend: Backend
    owner: "ReferenceType[GraphOwner]"
    amax: AmaxHistory
    region: str = ""
    only_plan: PrecisionPlan | None = None
    results: bool = False
    fused_attention: bool = False
    runs: int = 0
    tally: Tally = field(default_factory=Tally)
    numbers: CallNumbers = field(default_factory=CallNumbers)
    frame: Hashable = None
    _compiled: dict[int, "_Compiled"] = field(default_factory=dict)  # by number; Dynamo keeps what it is given for good
    _next: "count[int]" = field(default_factory=count)

    def __call__(self, dynamo_graph: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        refuse_several_devices(example_inputs)
        plan_input = torch.empty(1, ROW_WIDTH, dtype=torch.float64, device="cpu")
        layers = layers_in_scope(self.net)
        captured = CapturedGraph(
            next(iter(layers.values()), ""),
            self.tally,
            self._names(example_inputs),
            self.amax,
            region=self.region,
            accumulates=bool(self.accumulating.passes),
            rounds_results=self.results,
            live=self.only_plan is None,
        )
        opens = self.only_plan is None or any(map(self.only_plan.rounds, floating_dtypes(example_inputs)))
        constants = constant_positions(dynamo_graph, example_inputs)
        mkldnn = torch._C._get_mkldnn_enabled()
        build = _Build(self, captured, constants, len(example_inputs), layers, mkldnn)
        aot_compile = aot_autograd(
            fw_compiler=build.forward,
            bw_compiler=build.backward,
            inference_compiler=build.inference,
            partition_fn=build.partition,
            decompositions=decomposition_table(),
            keep_inference_input_mutations=True,
        )
        fused = self.fused_attention
        with opened_products(fused_attention=fused) if opens else nullcontext():
            graph = with_plan_input(dynamo_graph, plan_input, opens=opens, fused=fused)
            compiled = aot_compile(graph, [*example_inputs, plan_input])
        self._owned().take(captured)
        number = next(self._next)
        self._compiled[number] = _Compiled(compiled, captured)
        return partial(_run, ref(self), number)

    def run(self, number: int, args: Sequence[Any]) -> Any:
        """The results of one of its graphs."""
        graph = self._compiled[number]
        self.runs += 1
        outputs = graph.call(*args, graph.captured.next_rows(training=self.net.training))
        if graph.captured.training:
            guard_double_backward(outputs, args)
        return outputs

    @property
    def numbers_of_graphs(self) -> frozenset[int]:
        """By which its graphs are known."""
        return frozenset(self._compiled)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget graphs that will not be called again."""
        self._owned().lose([self._compiled.pop(number).captured for number in numbers])

    def _owned(self) -> GraphOwner:
        owner = self.owner()
        assert owner is not None, "graphs are called by their owner"
        return owner

    @property
    def net(self) -> nn.Module:
        """The net that is being captured."""
        return self._owned().net(self.region)

    def _names(self, values: Sequence[Any]) -> frozenset[str]:
        """All names of the parameters among these; sharded ones are other objects between the calls of their module."""
        taken = {id(value) for value in values if isinstance(value, nn.Parameter)}
        every = self.net.named_parameters(remove_duplicate=False)
        return frozenset(name for name, value in every if id(value) in taken)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A graph that can be called with the inputs that Dynamo has for it, and the plan's rows."""

    call: Callable[..., Any]
    captured: CapturedGraph


def _run(known: "ReferenceType[GraphCompiler]", number: int, *args: Any) -> Any:
    compiler = known()
    assert compiler is not None, "graphs are called by their net"
    return compiler.run(number, args)


@dataclass(slots=True)
class _Build:
    """One capture on its way: what AOTAutograd calls back."""

    compiler: GraphCompiler
    captured: CapturedGraph
    constants: frozenset[int]
    plan_index: int
    layers: Mapping[str, str]
    mkldnn: bool  # whether kernels may use it; it is off while the graph is traced
    context: GraphContext | None = None  # of the graph that has its slots
    shown_constants: frozenset[str] = frozenset()  # what the forward saves of parameters and buffers

    def partition(
        self, joint: GraphModule, joint_inputs: Any, *, num_fwd_outputs: int, **options: Any
    ) -> tuple[GraphModule, GraphModule]:
        """Place the slots on the joint graph, then split it into forward and backward."""
        self._place(joint)
        self.captured.training = True
        self.captured.visible_outputs = num_fwd_outputs
        forward, backward = min_cut_rematerialization_partition(
            joint, joint_inputs, num_fwd_outputs=num_fwd_outputs, **options
        )
        assert self.context is not None
        self.shown_constants = shown_constants(forward.graph, self.context.constants)
        for step in self.compiler.saving:
            step.run(forward, backward, num_fwd_outputs, self.context)
        return forward, backward

    def forward(self, graph: GraphModule, inputs: Sequence[Any]) -> BoxedCallable:
        tracing = TracingContext.try_get()
        if tracing is not None and tracing.fw_metadata is not None:
            # a backward that reuses saved tensors as its own memory would forbid retain_graph=True
            tracing.fw_metadata.bw_donated_idxs = []
        return self._compile(graph, inputs, visible_outputs=self.captured.visible_outputs, backward=False)

    def inference(self, graph: GraphModule, inputs: Sequence[Any]) -> BoxedCallable:
        """Graphs without gradients never reach the partitioner: the same slots are placed here."""
        self._place(graph)
        return self._compile(graph, inputs, visible_outputs=_count_outputs(graph), backward=False)

    def backward(self, graph: GraphModule, inputs: Sequence[Any]) -> BoxedCallable:
        return self._compile(graph, inputs, visible_outputs=_count_outputs(graph), backward=True)

    def _place(self, graph: GraphModule) -> None:
        names = input_names(graph.graph)
        net = self.compiler.net
        context = GraphContext(
            constants=frozenset(names[index] for index in self.constants if index in names),
            plan=names.get(self.plan_index),
            layers=self.layers,
            aliases={**bound_aliases_of(net), **aliases_of(net)},
            frame=(self.compiler.region, self.compiler.frame),
            numbers=self.compiler.numbers,
            only_plan=self.compiler.only_plan,
            results=self.compiler.results,
        )
        self.context = context
        self.compiler.pipeline.run(graph, context)
        self.captured.take_records(graph.graph)

    def _compile(
        self, graph: GraphModule, inputs: Sequence[Any], *, visible_outputs: int, backward: bool
    ) -> BoxedCallable:
        # AOTAutograd's example values have the strides that the forward left; its plan still has no rows.
        position = plan_position(graph.graph)
        if position is not None:
            plan = list(graph.graph.find_nodes(op="placeholder"))[position]
            inputs = [*inputs[:position], plan.meta["val"], *inputs[position + 1 :]]
        note = self.captured.work_counter(graph.graph)
        assert self.context is not None, "a graph has its slots before it is compiled"
        context = replace(self.context, constants=self.context.constants | self.shown_constants)
        self.compiler.accumulating.run(graph, context)
        self.compiler.fusing.run(graph, context)
        backend = self.compiler.backend
        tracing = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(self.mkldnn)
        try:
            compiled = backend.compile(graph, inputs, visible_outputs=visible_outputs, backward=backward)
        except PreccError:
            raise
        except Exception as error:
            half = "backward" if backward else "forward"
            hint = "" if backend.name == "reference" else "\nbackend='reference' needs no compiler"
            raise BackendError(
                f"backend {backend.name!r} failed on a {half} graph: {type(error).__name__}: {error}{hint}"
            ) from error
        finally:
            torch._C._set_mkldnn_enabled(tracing)
        if isinstance(compiled, KernelOwner):
            self.captured.kernel_owners.append(compiled)

        def run(args: list[Any]) -> Sequence[Any]:
            note(args)
            return compiled(args)

        run._boxed_call = True  # type: ignore[attr-defined]  # AOTAutograd's mark of the calling convention
        return run


def _count_outputs(graph: GraphModule) -> int:
    output: Node = graph.graph.output_node()
    outputs = output.args[0]
    return len(outputs) if isinstance(outputs, (tuple, list)) else 1
