"""What Dynamo captured, before AOTAutograd sees it: what its inputs are, the plan as one more, and products opened."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._dynamo.source import ConstantSource
from torch._dynamo.symbolic_convert import InstructionTranslator
from torch.fx import Graph, GraphModule

from precc.decompositions import replacement
from precc.errors import DeviceError

__all__ = [
    "constant_positions",
    "floating_dtypes",
    "input_names",
    "layers_in_scope",
    "refuse_several_devices",
    "with_plan_input",
]


def refuse_several_devices(example_inputs: Sequence[Any]) -> None:
    """Refuse inputs of one graph that lie on several devices.

    Raises:
        DeviceError: they do.
    """
    tensors = [value for value in example_inputs if isinstance(value, torch.Tensor)]
    devices = {value.device for value in tensors if value.dim() or value.device.type != "cpu"}
    if len(devices) > 1:
        names = " and ".join(sorted(str(device) for device in devices))
        raise DeviceError(f"one graph has tensors on {names}: move the model and its inputs to one device")


def floating_dtypes(values: Sequence[Any]) -> set[torch.dtype]:
    """Their real dtypes, and float32, to which others may be converted."""
    dtypes = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    return {torch.float32, *(dtype for dtype in dtypes if dtype.is_floating_point)}


def constant_positions(graph: GraphModule, example_inputs: Sequence[Any]) -> frozenset[int]:
    """Positions of the parameters and buffers among the inputs."""
    placeholders = graph.graph.find_nodes(op="placeholder")
    return frozenset(
        index
        for index, (node, value) in enumerate(zip(placeholders, example_inputs, strict=True))
        if isinstance(value, nn.Parameter) or "_dynamo_static_input_type" in node.meta.get("tensor_dict", {})
    )


def layers_in_scope(net: nn.Module) -> dict[str, str]:
    """Module paths of the local variables by which the code that is being captured knows its modules."""
    paths = {id(module): path for path, module in net.named_modules()}
    scope = InstructionTranslator.current_tx().output.local_scope
    return {name: paths[id(value)] for name, value in scope.items() if id(value) in paths}


def input_names(graph: Graph) -> dict[int, str]:
    """Names of the placeholders of a joint graph by their position among the inputs of the captured code."""
    names = {}
    for node in graph.find_nodes(op="placeholder"):
        index = getattr(node.meta.get("desc"), "idx", None)
        if index is not None:
            names[index] = node.name
    return names


def with_plan_input(graph: GraphModule, plan_input: torch.Tensor, *, opens: bool, fused: bool) -> GraphModule:
    """A copy with one more placeholder, perhaps with products opened; Dynamo goes on reading its own graph."""
    copy = Graph()
    output = copy.graph_copy(graph.graph, {})
    last = [node for node in copy.nodes if node.op == "placeholder"]
    with copy.inserting_after(last[-1]) if last else copy.inserting_before():
        plan = copy.placeholder("precc_plan")
    plan.meta["example_value"] = plan_input
    plan._dynamo_source = ConstantSource("precc_plan")
    copy.output(output)
    result = GraphModule(graph, copy)
    result.meta = dict(graph.meta)
    if opens:
        _open(result, fused=fused)
    return result


def _open(module: GraphModule, *, fused: bool) -> None:
    """Replace functions and methods, those in the bodies of checkpoints too, which become part of the graph."""
    for node in module.graph.nodes:
        called = node.op in ("call_function", "call_method")
        if called and (other := replacement(node.target, fused=fused)) is not None:
            node.op, node.target = "call_function", other
        elif node.target is torch.ops.higher_order.tag_activation_checkpoint:
            name = str(node.args[0].target)
            body = module.get_submodule(name)
            assert isinstance(body, GraphModule)
            own = Graph()
            own.output(own.graph_copy(body.graph, {}))
            opened = GraphModule(body, own)
            opened.meta = dict(body.meta)
            _open(opened, fused=fused)
            setattr(module, name, opened)
    module.recompile()
