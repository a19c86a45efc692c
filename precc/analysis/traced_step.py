"""One training step of a net as one graph: forward, loss and gradients, with a rounding node at each slot.

The graph is the one that a training call runs, with the loss inside of it and without a partition. Nothing of it is
compiled, and capturing it counts as no compilation of the net.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._dynamo.eval_frame import reset_code
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import Unsupported, UserError
from torch.fx import Graph, GraphModule, Node

from precc.analysis.loss_marker import marked, only_loss
from precc.decompositions import decomposition_table
from precc.dynamo_graph import (
    constant_positions,
    input_names,
    layers_in_scope,
    refuse_several_devices,
    with_plan_input,
)
from precc.errors import AnalysisError, CaptureError
from precc.generators import Generators
from precc.open_regions import open_regions
from precc.pipeline import Pipeline
from precc.protocols import GraphContext
from precc.rounding import ROW_WIDTH
from precc.slots import CallNumbers, aliases_of, bound_aliases_of
from precc.strict_dynamo import opened_products, strict_dynamo

__all__ = ["LOSS_FRAME", "TracedStep", "trace_step"]

#: By this name in their stack traces, nodes of the loss are told from those of the net.
LOSS_FRAME = "_loss_of_output"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TracedStep:
    """A step as a graph, and the tensors that it was called with.

    Args:
        graph: joint: its first output is the loss, the others are gradients; one ``precc.round`` node a slot.
        inputs: value of each placeholder by name; of the plan none.
        plan: name of the placeholder of the plan.
        parameters: names of the net's parameters by placeholder; those that are tied have one.
        constants: placeholders of parameters and buffers.
        gradients: the node that computes the gradient, by name of the parameter.
    """

    graph: GraphModule
    inputs: Mapping[str, Any]
    plan: str
    parameters: Mapping[str, str]
    constants: frozenset[str]
    gradients: Mapping[str, Node]

    @property
    def loss(self) -> Node:
        """The node whose value is the loss."""
        outputs: Any = self.graph.graph.output_node().args[0]
        node: Node = outputs[0]
        return node


def trace_step(
    net: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    loss: Callable[[Any], Tensor],
    *,
    title: str,
    pipeline: Pipeline,
    fused_attention: bool = False,
    regions: tuple[str, ...] = (),
    results: bool = False,
) -> TracedStep:
    """The step ``loss(net(*args, **kwargs))`` and its gradients, in the net's present mode.

    Args:
        net: whose forward is called, with the hooks that it has.
        args: of the call.
        kwargs: of the call.
        loss: of the net's output, one real number.
        title: name of the net in errors.
        pipeline: places the slots.
        fused_attention: whether attention is one op.
        regions: paths of the modules that are compiled; empty if the net is as a whole.
        results: whether results have rounding nodes.

    Raises:
        AnalysisError: the step is not one graph, computes nothing, or its loss is no real number.
        CaptureError, DeviceError: as for a call of the net.
    """
    tracer = _Tracer(net, pipeline, fused_attention, regions, results)
    kept = Generators.of((*net.parameters(), *net.buffers()))
    code = _step.__code__.replace(co_name="precc_analysed_step")
    entry = FunctionType(code, globals())
    try:
        with torch.enable_grad(), strict_dynamo(title, net, args, kwargs), open_regions(), kept.again():
            optimized: Any = torch._dynamo.optimize(tracer, nopython=True, dynamic=False)
            optimized(entry)(net, args, dict(kwargs), loss)
    except _Captured:
        pass
    except UserError as error:
        raise AnalysisError(f"an analysis needs the step, with its loss, as one graph: {error}") from error
    except CaptureError as error:
        if not isinstance(error.__cause__, Unsupported):
            raise
        raise AnalysisError(f"an analysis needs the step, with its loss, as one graph, and {error}") from error
    finally:
        reset_code(code)
        step, tracer.step, tracer.net = tracer.step, None, nn.Module()  # Dynamo keeps its backends for good
    if step is None:
        raise AnalysisError(f"a step of {title} has no tensor operation to analyse")
    return step


def _step(net: Any, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> Any:
    return _loss_of_output(loss, net._call_impl(*args, **kwargs))


def _loss_of_output(loss: Any, output: Any) -> Any:
    return marked(loss(output))


class _Captured(Exception):
    """The graph is there: it need not run."""


@dataclass(slots=True)
class _Tracer:
    """A Dynamo backend that keeps the joint graph of the first thing that it is given, and runs nothing."""

    net: nn.Module
    pipeline: Pipeline
    fused_attention: bool
    regions: tuple[str, ...]
    results: bool
    step: TracedStep | None = field(default=None)

    def __call__(self, dynamo_graph: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        refuse_several_devices(example_inputs)
        only_loss(dynamo_graph)
        plan = torch.empty(1, ROW_WIDTH, dtype=torch.float64, device="cpu")
        layers = layers_in_scope(self.net)
        constants = constant_positions(dynamo_graph, example_inputs)
        inputs = [*example_inputs, plan]
        found: list[GraphModule] = []

        def partition(joint: GraphModule, joint_inputs: Any, **options: Any) -> Any:
            found.append(joint)
            raise _Captured

        def inference(graph: GraphModule, graph_inputs: Any) -> Any:
            found.append(graph)
            raise _Captured

        compile_joint = aot_autograd(
            fw_compiler=inference,
            inference_compiler=inference,
            partition_fn=partition,
            decompositions=decomposition_table(),
            keep_inference_input_mutations=True,
        )
        with opened_products(fused_attention=self.fused_attention):
            graph = with_plan_input(dynamo_graph, plan, opens=True, fused=self.fused_attention)
            try:
                compile_joint(graph, inputs)
            except _Captured:
                self.step = self._taken(found[0], inputs, constants, layers)

        def stop(*args: Any) -> Any:
            raise _Captured

        return stop

    def _taken(
        self, joint: GraphModule, inputs: Sequence[Any], constants: frozenset[int], layers: Mapping[str, str]
    ) -> TracedStep:
        names = input_names(joint.graph)
        plan = names[len(inputs) - 1]
        places = {name: index for index, name in names.items()}
        context = GraphContext(
            constants=frozenset(names[index] for index in constants if index in names),
            plan=plan,
            layers=layers,
            aliases={**bound_aliases_of(self.net), **aliases_of(self.net)},
            frame=("analysis", 0),
            numbers=CallNumbers(),
            regions=self.regions,
            results=self.results,
        )
        _drop_mutations(joint)
        owned = {id(value): name for name, value in self.net.named_parameters()}
        parameters = {name: owned[id(inputs[i])] for i, name in names.items() if id(inputs[i]) in owned}
        kept = _keep_only(joint, _loss_node(joint.graph), _gradients(joint.graph, names, parameters))
        self.pipeline.run(joint, context)  # behind: rows of a plan are numbered by the products that there are
        outputs: Any = joint.graph.output_node().args[0]
        gradients = {name: outputs[place] for name, place in kept.items()}
        values = {name: _plain(inputs[index]) for index, name in names.items() if name != plan}
        for name in context.constants:
            value = values.get(name)
            if isinstance(value, Tensor) and not isinstance(inputs[places[name]], nn.Parameter):
                values[name] = value.clone()  # a later step writes to buffers
        return TracedStep(joint, values, plan, parameters, context.constants, gradients)


def _outputs(graph: Graph) -> list[tuple[Any, Any]]:
    """The outputs with AOTAutograd's descriptions of them."""
    output = graph.output_node()
    values: Any = output.args[0]
    return list(zip(values, output.meta["desc"], strict=True))


def _loss_node(graph: Graph) -> Node:
    """Of the outputs, which begin with inputs that are written to and other effects, the one that the step returns."""
    plain = [own for own, what in _outputs(graph) if type(what).__name__ == "PlainAOTOutput"]
    if not plain or not isinstance(plain[0], Node):
        raise AnalysisError("the loss is a number that does not come from the net's output: return it as a tensor")
    found: Node = plain[0]
    return found


def _keep_only(joint: GraphModule, loss: Node, gradients: Mapping[str, Node]) -> dict[str, int]:
    """Leave out what neither the loss nor a gradient of a parameter needs, such as the gradient of an input.

    Returns:
        Which output is the gradient of a parameter; two may share one.
    """
    kept = list(dict.fromkeys([loss, *gradients.values()]))
    joint.graph.output_node().args = (tuple(kept),)
    joint.graph.eliminate_dead_code()
    joint.recompile()
    return {name: kept.index(node) for name, node in gradients.items()}


def _drop_mutations(joint: GraphModule) -> None:
    """Buffers keep their values: an analysis changes nothing."""
    for node in joint.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default):
        if node.args[0].op == "placeholder" and not node.users:
            joint.graph.erase_node(node)
    joint.recompile()


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _gradients(graph: Graph, names: Mapping[int, str], parameters: Mapping[str, str]) -> dict[str, Node]:
    """The nodes that compute gradients of the net's parameters, by name of the parameter; two may share one."""
    found = {}
    for node, what in _outputs(graph):
        placeholder = names.get(getattr(getattr(what, "grad_of", None), "idx", -1), "")
        if isinstance(node, Node) and placeholder in parameters:
            found[parameters[placeholder]] = node
    return found
