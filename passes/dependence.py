"""What the nodes of a graph depend on: inputs of the call, or gradients that come in."""

from collections.abc import Sequence

import torch
from torch import SymInt, Tensor
from torch.fx import Node

from precc.protocols import GraphContext

__all__ = ["activations_in", "backward_of", "varying_in"]

_aten = torch.ops.aten
_SIZES = frozenset(
    {_aten.sym_size.int, _aten.sym_numel.default, _aten.sym_stride.int, _aten.sym_storage_offset.default}
)


def varying_in(nodes: Sequence[Node], context: GraphContext) -> set[Node]:
    """Those that depend on an input of the call that is neither parameter nor buffer.

    What depends on sizes alone does not: or zeros of the size of a batch would be an activation where that is dynamic.
    """
    inputs = [node for node in nodes if node.op == "placeholder" and not _is_tangent(node)]
    return _reached_from(nodes, {n for n in inputs if n.name not in context.constants and not _is_size(n)})


def activations_in(nodes: Sequence[Node], context: GraphContext) -> set[Node]:
    """Those that depend on a real tensor among the inputs of the call, or on an input and a parameter or buffer.

    What a batch of integers becomes by itself, such as a mask, is no activation, nor is what depends on sizes alone.
    """
    inputs = [n for n in nodes if n.op == "placeholder" and n.name not in context.constants and not _is_tangent(n)]
    tensors = [n for n in inputs if isinstance(n.meta.get("val"), Tensor) and n.name != context.plan]
    real = _reached_from(nodes, {n for n in tensors if n.meta["val"].is_floating_point()})
    constant = _reached_from(nodes, {n for n in nodes if n.op == "placeholder" and n.name in context.constants})
    return real | (_reached_from(nodes, set(tensors)) & constant)


def backward_of(nodes: Sequence[Node]) -> set[Node]:
    """Those that depend on a gradient of an output."""
    return _reached_from(nodes, {node for node in nodes if _is_tangent(node)})


def _reached_from(nodes: Sequence[Node], sources: set[Node]) -> set[Node]:
    reached = set(sources)
    for node in nodes:
        if not _is_size(node) and any(argument in reached for argument in node.all_input_nodes):
            reached.add(node)
    return reached


def _is_size(node: Node) -> bool:
    """Whether it is a number that comes from the shape of a tensor, and not from its values."""
    return node.target in _SIZES or (node.op == "placeholder" and isinstance(node.meta.get("val"), SymInt))


def _is_tangent(node: Node) -> bool:
    return node.op == "placeholder" and "tangents" in str(node.target)
