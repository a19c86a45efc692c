"""Where values jump: errors that cross a jump change them by whole steps, which no derivative knows."""

from torch import Tensor
from torch.fx import Node

from precc.analysis.finding import Finding
from precc.analysis.traced_step import TracedStep
from precc.passes.products import op_name
from precc.round_op import ROUND
from precc.source_places import place_of

__all__ = ["JUMPS", "jumps"]

#: Operators whose result is not continuous in a real argument; in a backward, gradients of functions with kinks.
#: Rectifiers and max-pooling in two dimensions are not among them: their flips are predicted.
JUMPS = frozenset(
    f"aten.{name}"
    for name in (
        "_prelu_kernel_backward",
        "adaptive_max_pool2d_backward",
        "adaptive_max_pool3d_backward",
        "argmax",
        "argmin",
        "argsort",
        "bucketize",
        "ceil",
        "eq",
        "floor",
        "floor_divide",
        "fmod",
        "ge",
        "gt",
        "hardshrink_backward",
        "hardsigmoid_backward",
        "hardswish_backward",
        "heaviside",
        "le",
        "lt",
        "max_pool3d_with_indices_backward",
        "ne",
        "remainder",
        "round",
        "searchsorted",
        "sgn",
        "sign",
        "softshrink_backward",
        "sort",
        "topk",
        "trunc",
    )
)


def jumps(step: TracedStep) -> tuple[Finding, ...]:
    """The operators that jump in values which depend on a rounding, in the order of the graph."""
    rounded: set[Node] = set()
    found = []
    for node in step.graph.graph.nodes:
        if node.target is ROUND or any(argument in rounded for argument in node.all_input_nodes):
            rounded.add(node)
        varying = (argument for argument in node.all_input_nodes if argument in rounded)
        if op_name(node) in JUMPS and any(map(_is_real, varying)):
            found.append(_finding(node))
    return tuple(found)


def _is_real(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def _finding(node: Node) -> Finding:
    problem = f"{op_name(node)} jumps: what errors that cross a jump do is no part of predictions"
    return Finding("jump", node.name, "", place_of(node, ""), problem, "analysis.measure(plan)")
