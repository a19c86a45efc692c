"""Which ATen ops are products, where their operands are, and how much work they do."""

import math
import operator
from typing import Any

import torch
from torch.fx import Node
from torch.utils.flop_counter import flop_registry

from precc.analysis.slot_sites import VIEWS
from precc.annotations import Operand, Size
from precc.grouped_product import GROUPED_PRODUCT
from precc.slots import Role, Slot
from precc.stored_nodes import CONVOLUTION_BACKWARD, op_name

__all__ = [
    "OPAQUE_PRODUCTS",
    "PRODUCTS",
    "axes",
    "dtype_of",
    "groups",
    "has_slots",
    "is_ragged",
    "multiply_adds",
    "operands",
    "origin",
    "result_of",
]

_aten = torch.ops.aten

#: Ops that compute one product, and the positions of its two operands. The composite ones appear in exports only.
PRODUCTS: dict[Any, tuple[int, int]] = {
    _aten.mm.default: (0, 1),
    _aten.addmm.default: (1, 2),
    _aten.bmm.default: (0, 1),
    _aten.baddbmm.default: (1, 2),
    GROUPED_PRODUCT: (0, 1),
    _aten.convolution.default: (0, 1),
    _aten.linear.default: (0, 1),
    _aten.matmul.default: (0, 1),
    _aten.conv1d.default: (0, 1),
    _aten.conv2d.default: (0, 1),
    _aten.conv3d.default: (0, 1),
    _aten.conv1d.padding: (0, 1),
    _aten.conv2d.padding: (0, 1),
    _aten.conv3d.padding: (0, 1),
    _aten.conv_transpose1d.default: (0, 1),
    _aten.conv_transpose2d.input: (0, 1),
    _aten.conv_transpose3d.input: (0, 1),
}

# With what `torch.utils.flop_counter` does not know; forward and backward, all overloads.
_OTHER_PRODUCTS = (
    "_addmm_activation",
    "_cdist_backward",
    "_cdist_forward",
    "_cudnn_rnn",
    "_cudnn_rnn_backward",
    "_euclidean_dist",
    "_grouped_mm",
    "_int_mm",
    "_native_multi_head_attention",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_fused_attention_overrideable_backward",
    "_scaled_grouped_mm",
    "_sparse_mm",
    "_transformer_encoder_layer_fwd",
    "_trilinear",
    "addbmm",
    "addmv",
    "addr",
    "cdist",
    "conv_tbc",
    "conv_tbc_backward",
    "dot",
    "einsum",
    "gru",
    "linalg_matrix_exp",
    "linalg_solve_ex",
    "lstm",
    "matrix_exp",
    "miopen_rnn",
    "mkldnn_rnn_layer",
    "mkldnn_rnn_layer_backward",
    "mv",
    "rnn_relu",
    "rnn_tanh",
    "scaled_dot_product_attention",
    "vdot",
)

#: Names of ops with products inside that have no slots: what torch counts floating-point operations of, and more.
OPAQUE_PRODUCTS = (
    frozenset(f"aten.{name}" for name in _OTHER_PRODUCTS)
    | frozenset(str(getattr(op, "overloadpacket", op)) for op in flop_registry)
) - frozenset(str(op.overloadpacket) for op in (*PRODUCTS, CONVOLUTION_BACKWARD))

#: Ops whose result holds the values of their first argument, at other places or in another dtype.
_SAME_VALUES = VIEWS | {"aten._to_copy"}


def multiply_adds(node: Node) -> Size:
    """Multiply-adds of a product: elements of the result times the length of a dot product.

    A convolution's fprop, dgrad and wgrad have the same number: each element on the side that
    the filter is applied to (the output; of a transposed one, the input) meets each weight of its filter once.
    """
    if node.target is CONVOLUTION_BACKWARD:
        output, x, weight = node.args[:3]
        transposed = bool(node.args[7])
    else:
        output, (x, weight) = node, operands(node)
        if is_ragged(node):
            return _elements(x) * _shape(weight)[-1]
        if "conv" not in op_name(node):
            return _elements(node) * _shape(x)[-1]
        transposed = _is_transposed(node)
    assert isinstance(output, Node)
    assert isinstance(x, Node)
    assert isinstance(weight, Node)
    # weight: [out, in / groups, *kernel]; transposed: [in, out / groups, *kernel]
    filter_size: Size = math.prod(_shape(weight)[1:])
    return _elements(x if transposed else output) * filter_size


def _is_transposed(node: Node) -> bool:
    """Whether a convolution is a transposed one."""
    return "conv_transpose" in op_name(node) or (node.target is _aten.convolution.default and bool(node.args[6]))


def is_ragged(node: Node) -> bool:
    """Whether its sums run over groups of different lengths: the wgrad of a product of rows in groups."""
    return node.target is GROUPED_PRODUCT and all(len(_shape(operand)) == 2 for operand in operands(node))


def groups(node: Node) -> int:
    """Groups of channels of a convolution of a captured graph; 1 for every other product."""
    positions: dict[Any, int] = {CONVOLUTION_BACKWARD: 9, _aten.convolution.default: 8}
    number: Any = node.args[positions[node.target]] if node.target in positions else 1
    return int(number)


def operands(node: Node) -> tuple[Node, Node]:
    """The two operands of a node of `PRODUCTS`."""
    first, second = (node.args[position] for position in PRODUCTS[node.target])
    assert isinstance(first, Node)
    assert isinstance(second, Node)
    return first, second


def _shape(node: Node) -> tuple[Size, ...]:
    return tuple(node.meta["val"].shape)


def _elements(node: Node) -> Size:
    size: Size = math.prod(_shape(node))
    return size


def has_slots(node: Node) -> bool:
    """Whether it is a product of real matrices: one with a vector is `mv` or `dot` once it is opened."""
    pair = operands(node)
    real = all(operand.meta["val"].dtype.is_floating_point for operand in pair)
    return real and all(len(_shape(operand)) >= 2 for operand in pair)


def axes(node: Node, position: int) -> tuple[int, int, int]:
    """Of an operand of a product: the contracted dimension, that of channels, and how many there are."""
    operand = node.args[position]
    assert isinstance(operand, Node)
    dims = len(_shape(operand))
    return (*_axes(node, position, dims), dims)


def result_of(node: Node, slot: Slot) -> Operand:
    """What a node stores, for a slot there; the channels of a weight's gradient are those of the weight."""
    value: torch.Tensor = node.meta["val"]
    last = max(value.dim() - 1, 0)
    convolved = value.dim() > 2 and slot.family == "product" and _is_convolution(node)
    channel = (0 if slot.role is Role.WGRAD else 1) if convolved else last
    return Operand(-1, slot, last, channel, value.dim(), value.dtype)


def _is_convolution(node: Node) -> bool:
    source = node.args[0] if node.target is operator.getitem else node
    return isinstance(source, Node) and "conv" in op_name(source)


def dtype_of(node: Node, position: int) -> torch.dtype:
    """Dtype of an argument."""
    operand = node.args[position]
    assert isinstance(operand, Node)
    dtype: torch.dtype = operand.meta["val"].dtype
    return dtype


def _axes(node: Node, position: int, dims: int) -> tuple[int, int]:
    if node.target is CONVOLUTION_BACKWARD:
        transposed, wgrad = bool(node.args[7]), not node.args[10][0]  # type: ignore[index]
        if wgrad:
            return 0, 1
        return (int(transposed), 0) if position == 2 else (1, 1)
    first = position == PRODUCTS[node.target][0]
    if "conv" in op_name(node):
        return (1, 1) if first else (int(not _is_transposed(node)), 0)
    last = dims - 1
    if first or node.target is _aten.linear.default:
        return last, last - 1
    return last - 1, last


def origin(node: Node) -> Node:
    """The node whose values this one shows, through views, transposes and conversions."""
    while op_name(node) in _SAME_VALUES and isinstance(node.args[0], Node):
        node = node.args[0]
    return node
