"""Split ``convolution_backward`` into its dgrad, its wgrad and the bias gradient.

ATen computes all three in one node, which leaves no place to give dgrad and wgrad formats of their own.
The bias gradient is a sum of the incoming gradient over batch and space; it is no product and stays unrounded.
"""

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Node

from precc.protocols import GraphContext

__all__ = ["SplitConvolutionBackward"]

_aten = torch.ops.aten
_MASK = 10  # position of output_mask in the arguments


@dataclass(frozen=True, slots=True)
class SplitConvolutionBackward:
    """One node a gradient: output masks [T,F,F] and [F,T,F], and a sum for the bias."""

    name: ClassVar[str] = "split_convolution_backward"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        for node in graph.graph.find_nodes(op="call_function", target=_aten.convolution_backward.default):
            _split(graph, node)


def _split(graph: GraphModule, node: Node) -> None:
    outputs = {user.args[1]: user for user in list(node.users) if user.target is operator.getitem}
    for index, getitem in outputs.items():
        with graph.graph.inserting_before(getitem):
            part = _bias_gradient(graph, node) if index == 2 else _one_gradient(graph, node, int(str(index)))
        part.meta = {**getitem.meta}
        if index != 2:
            source, values = part.args[0], [None, None, None]
            assert isinstance(source, Node)
            values[int(str(index))] = getitem.meta.get("val")
            source.meta = {**node.meta, "val": tuple(values)}
        getitem.replace_all_uses_with(part)
        graph.graph.erase_node(getitem)
    graph.graph.erase_node(node)


def _one_gradient(graph: GraphModule, node: Node, index: int) -> Node:
    arguments: list[Any] = list(node.args)
    arguments[_MASK] = [index == 0, index == 1, False]
    arguments[3] = None  # bias sizes: only the bias gradient needs them
    single = graph.graph.call_function(_aten.convolution_backward.default, tuple(arguments))
    return graph.graph.call_function(operator.getitem, (single, index))


def _bias_gradient(graph: GraphModule, node: Node) -> Node:
    grad_output = node.args[0]
    assert isinstance(grad_output, Node)
    dims = [dim for dim in range(grad_output.meta["val"].dim()) if dim != 1]
    return graph.graph.call_function(_aten.sum.dim_IntList, (grad_output, dims))
