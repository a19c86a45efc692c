"""What the nodes of a graph depend on: inputs of the call, or gradients that come in."""

from collections.abc import Sequence

from torch.fx import Node

from precc.protocols import GraphContext

__all__ = ["backward_of", "varying_in"]


def varying_in(nodes: Sequence[Node], context: GraphContext) -> set[Node]:
    """Those that depend on an input of the call that is neither parameter nor buffer."""
    inputs = [node for node in nodes if node.op == "placeholder" and not _is_tangent(node)]
    return _reached_from(nodes, {node for node in inputs if node.name not in context.constants})


def backward_of(nodes: Sequence[Node]) -> set[Node]:
    """Those that depend on a gradient of an output."""
    return _reached_from(nodes, {node for node in nodes if _is_tangent(node)})


def _reached_from(nodes: Sequence[Node], sources: set[Node]) -> set[Node]:
    reached = set(sources)
    for node in nodes:
        if any(argument in reached for argument in node.all_input_nodes):
            reached.add(node)
    return reached


def _is_tangent(node: Node) -> bool:
    return node.op == "placeholder" and "tangents" in str(node.target)
