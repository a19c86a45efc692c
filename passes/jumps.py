"""Where values jump: errors that cross a jump change them by whole steps, which no derivative knows."""

from torch import Tensor
from torch.fx import Node

from precc.analysis.finding import Finding
from precc.analysis.lost_derivatives import depends_on_values
from precc.analysis.slot_sites import VIEWS
from precc.analysis.traced_step import TracedStep
from precc.round_op import ROUND
from precc.source_places import place_of
from precc.stored_nodes import op_name

__all__ = ["JUMPS", "jumps"]

#: Operators whose result is not continuous in a real argument; in a backward, gradients of functions with kinks.
#: Rectifiers, also smooth ones in pieces, and max-pooling in two dimensions are not among them: their flips are
#: predicted.
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
        "cummax",
        "cummin",
        "eq",
        "floor",
        "floor_divide",
        "fake_quantize_per_tensor_affine_cachemask",
        "fake_quantize_per_channel_affine_cachemask",
        "fmod",
        "frac",
        "ge",
        "gt",
        "hardshrink_backward",
        "heaviside",
        "le",
        "lt",
        "kthvalue",
        "max_pool3d_with_indices_backward",
        "median",
        "mode",
        "nanmedian",
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
        varying = [argument for argument in node.all_input_nodes if argument in rounded]
        if node.target is ROUND or (varying and depends_on_values(node)):
            rounded.add(node)
        if (op_name(node) in JUMPS or _rounds(node)) and any(map(_is_real, varying)) and not _guards(node):
            found.append(_finding(node))
    return tuple(found)


#: Of what divides by a norm, the largest that it is compared with.
_GUARD = 1e-6

_NORMS = ("aten.linalg_vector_norm", "aten.norm")


def _guards(node: Node) -> bool:
    """Whether it tells a norm from 0, for a division by it: errors are small beside the norm, and do not go there."""
    if op_name(node) not in ("aten.eq", "aten.ne", "aten.ge", "aten.gt", "aten.le", "aten.lt"):
        return False
    norm, bound = node.args[:2]
    while isinstance(norm, Node) and op_name(norm) in VIEWS:
        norm = norm.args[0]
    small = isinstance(bound, (int, float)) and 0 <= bound <= _GUARD
    return small and isinstance(norm, Node) and op_name(norm) in _NORMS


def _rounds(node: Node) -> bool:
    """Whether it is an operator of another kind that rounds as it is called here: to integers, or to pixels."""
    name, value = op_name(node), node.meta.get("val")
    if name in ("aten._to_copy", "prims.convert_element_type"):
        return isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())
    if name == "aten.div":
        return node.kwargs.get("rounding_mode") is not None
    return name == "aten.grid_sampler_2d" and str(node.args[2]) == "1"  # nearest


def _is_real(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def _finding(node: Node) -> Finding:
    problem = f"{op_name(node)} jumps: what errors that cross a jump do is no part of predictions"
    return Finding("jump", node.name, "", place_of(node, ""), problem, "analysis.measure(plan)")
