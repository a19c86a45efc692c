"""A backend that runs fused graphs node by node, by tensor operations: what passes make of a graph, without kernels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule, Node

from precc.accumulation.product_ops import PRODUCT_OPS
from precc.annotations import annotation_of
from precc.backends.eager import implement, run_eagerly
from precc.fusion_group import FusionGroup
from precc.protocols import BoxedCallable
from precc.round_op import round_by_tensor_ops

__all__ = ["Fused", "groups_in"]


def groups_in(graph: GraphModule) -> list[tuple[Node, FusionGroup]]:
    """The groups of a graph, in its order."""
    found = ((node, annotation_of(node)) for node in graph.graph.nodes if node.op == "call_module")
    return [(node, record) for node, record in found if isinstance(record, FusionGroup)]


@dataclass
class Fused:
    """It has the name of the backend for which graphs are fused; the groups of each graph are kept."""

    name: str = "triton"
    graphs: list[list[FusionGroup]] = field(default_factory=list)
    left: list[list[str]] = field(default_factory=list)

    def check(self) -> None:
        return None

    def compile(
        self, graph: GraphModule, inputs: Sequence[Any], *, visible_outputs: int, backward: bool
    ) -> BoxedCallable:
        self.graphs.append([record for _, record in groups_in(graph)])
        self.left.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        for module in (*graph.children(), graph):
            assert isinstance(module, GraphModule)
            implement(module, round_by_tensor_ops, PRODUCT_OPS)
        return run_eagerly(graph)
