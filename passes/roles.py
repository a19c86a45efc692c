"""Find the products of a graph, name them by module path, and tell fprop, dgrad and wgrad apart.

Forward: a product belongs to the innermost module of its stack and is numbered there in the order of execution. An
operand that depends on no input of the call, only on parameters and buffers, is the ``weight``, and the
other one the ``input``; where both or neither do, they are ``a`` and ``b``.

Backward: autograd gives the nodes of a backward formula the sequence number of its forward op. Of a backward
product's operands, the one that depends on a tangent is ``grad_output``; the other one is, through
views, one of the forward operands, and says which gradient it is: the one with respect to the other operand.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Node

from precc.annotations import Operand, Product, Size, Unrounded, annotate
from precc.protocols import GraphContext
from precc.slots import Role, Slot

__all__ = ["OPAQUE_PRODUCTS", "PRODUCTS", "Roles"]

_aten = torch.ops.aten

#: Ops that compute one product, and the positions of its two operands. The composite ones appear in exports only.
PRODUCTS: dict[object, tuple[int, int]] = {
    _aten.mm.default: (0, 1),
    _aten.addmm.default: (1, 2),
    _aten.bmm.default: (0, 1),
    _aten.baddbmm.default: (1, 2),
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

_CONVOLUTION_BACKWARD = _aten.convolution_backward.default

#: Names of ops with products inside that have no slots yet; forward and backward, all overloads.
OPAQUE_PRODUCTS = frozenset(
    f"aten.{name}"
    for name in (
        "_addmm_activation",
        "_cdist_backward",
        "_cdist_forward",
        "_grouped_mm",
        "_int_mm",
        "_native_multi_head_attention",
        "_scaled_dot_product_attention_math_for_mps",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_cudnn_attention_backward",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_efficient_attention_backward",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_backward",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
        "_scaled_dot_product_fused_attention_overrideable",
        "_scaled_dot_product_fused_attention_overrideable_backward",
        "_scaled_mm",
        "_trilinear",
        "addbmm",
        "addmv",
        "addr",
        "conv_tbc",
        "conv_tbc_backward",
        "dot",
        "einsum",
        "gru",
        "lstm",
        "mkldnn_rnn_layer",
        "mkldnn_rnn_layer_backward",
        "mv",
        "rnn_relu",
        "rnn_tanh",
        "scaled_dot_product_attention",
        "vdot",
    )
)

#: Ops whose result holds the values of their first argument, at other places or in another dtype.
_SAME_VALUES = frozenset(
    f"aten.{name}"
    for name in (
        "_reshape_alias",
        "_to_copy",
        "_unsafe_view",
        "alias",
        "clone",
        "detach",
        "expand",
        "permute",
        "reshape",
        "squeeze",
        "t",
        "transpose",
        "unsqueeze",
        "view",
    )
)

_LOCAL = re.compile(r"L\['(\w+)'\]\.?(.*)")
_FAMILY = "product"


@dataclass(frozen=True, slots=True)
class _Forward:
    """What the backward must know of a forward product."""

    slot: Slot
    operands: tuple[Node, Node]
    names: tuple[str, str]
    roles: tuple[Role, Role]  # of the gradients with respect to the first and the second operand
    second_gradient_first: bool  # autograd's formulas run in the alphabetical order of the arguments' names


@dataclass(frozen=True, slots=True)
class Roles:
    """Annotate every product with its slots and work, and every product without slots with the reason."""

    name: ClassVar[str] = "roles"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        nodes = list(graph.graph.nodes)
        inputs = [n for n in nodes if n.op == "placeholder" and not _is_tangent(n)]
        varying = _reached_from(nodes, {n for n in inputs if n.name not in context.constants})
        backward = _reached_from(nodes, {n for n in nodes if _is_tangent(n)})
        forward = _forward_products(nodes, backward, varying, context)
        by_sequence: dict[int, list[_Forward]] = {}
        for node, product in forward:
            by_sequence.setdefault(node.meta.get("seq_nr", -1), []).append(product)
        seen: set[tuple[str, Role]] = set()
        for node in nodes:
            if node in backward and (node.target in PRODUCTS or node.target is _CONVOLUTION_BACKWARD):
                candidates = by_sequence.get(node.meta.get("seq_nr", -1), [])
                _annotate_backward(node, backward, candidates, seen, context)
            elif _op_name(node) in OPAQUE_PRODUCTS or (node.target in PRODUCTS and not _has_slots(node)):
                reason = f"{_op_name(node)} has no slots in this version"
                annotate(node, Unrounded(_op_name(node), _layer(node, context), reason))


def _forward_products(
    nodes: list[Node], backward: set[Node], varying: set[Node], context: GraphContext
) -> list[tuple[Node, _Forward]]:
    found = [n for n in nodes if n.target in PRODUCTS and n not in backward and _has_slots(n)]
    layers = {node: _layer(node, context) for node in found}
    calls = Counter((layer, _FAMILY) for layer in layers.values())
    bases = context.numbers.number(context.frame, calls)
    used: Counter[str] = Counter()
    products = []
    for node in found:
        layer = layers[node]
        call = bases[layer, _FAMILY] + used[layer]
        used[layer] += 1
        first, second = _operands(node)
        depends = (first in varying, second in varying)
        if depends == (True, False):
            names, roles = ("input", "weight"), (Role.DGRAD, Role.WGRAD)
        elif depends == (False, True):
            names, roles = ("weight", "input"), (Role.WGRAD, Role.DGRAD)
        else:
            names, roles = ("a", "b"), (Role.DGRAD_A, Role.DGRAD_B)
        slot = Slot(layer, _FAMILY, call, Role.FPROP, names[0])
        second_gradient_first = node.target in (_aten.mm.default, _aten.bmm.default)  # (self, mat2)
        product = _Forward(slot, (first, second), names, roles, second_gradient_first)
        positions = PRODUCTS[node.target]
        _annotate(node, product, Role.FPROP, positions, names)
        products.append((node, product))
    return products


def _annotate_backward(
    node: Node,
    backward: set[Node],
    candidates: list[_Forward],
    seen: set[tuple[str, Role]],
    context: GraphContext,
) -> None:
    convolution = node.target is _CONVOLUTION_BACKWARD
    if convolution:
        # (grad_output, input, weight, ...): dgrad reads grad_output and weight, wgrad grad_output and input
        mask: Any = node.args[10]
        assert isinstance(mask, (list, tuple))
        positions = (0, 2) if mask[0] else (0, 1)
    else:
        positions = PRODUCTS[node.target]
    first, second = (node.args[position] for position in positions)
    assert isinstance(first, Node)
    assert isinstance(second, Node)
    gradient_first = first in backward
    saved = _origin(second if gradient_first else first)
    for product in candidates:
        matches = [k for k in (0, 1) if _origin(product.operands[k]) is saved]
        if convolution:
            matches = [1 if mask[0] else 0]
        # x @ x.T has one origin for both operands; autograd's order then tells the gradients apart
        order = matches if product.second_gradient_first else matches[::-1]
        roles = [(product.roles[1 - k], product.names[k]) for k in order]
        fresh = [pair for pair in roles if (product.slot.op, pair[0]) not in seen]
        if fresh and gradient_first != (second in backward):
            role, saved_name = fresh[0]
            seen.add((product.slot.op, role))
            names = ("grad_output", saved_name) if gradient_first else (saved_name, "grad_output")
            _annotate(node, product, role, positions, names)
            return
    reason = "a backward product that belongs to no forward product"
    annotate(node, Unrounded(_op_name(node), _layer(node, context), reason))


def _annotate(node: Node, product: _Forward, role: Role, positions: tuple[int, int], names: tuple[str, str]) -> None:
    slot = product.slot
    operands = [
        Operand(position, Slot(slot.layer, slot.family, slot.call, role, name))
        for position, name in zip(positions, names, strict=True)
    ]
    annotate(node, Product((operands[0], operands[1]), _multiply_adds(node)))


def _multiply_adds(node: Node) -> Size:
    """Multiply-adds of a product: elements of the result times the length of a dot product.

    A convolution's fprop, dgrad and wgrad have the same number: each element on the side that
    the filter is applied to (the output; of a transposed one, the input) meets each weight of its filter once.
    """
    if node.target is _CONVOLUTION_BACKWARD:
        output, x, weight = node.args[:3]
        transposed = bool(node.args[7])
    else:
        output, (x, weight) = node, _operands(node)
        if "conv" not in _op_name(node):
            return _elements(node) * _shape(x)[-1]
        transposed = "conv_transpose" in _op_name(node) or (
            node.target is _aten.convolution.default and bool(node.args[6])
        )
    assert isinstance(output, Node)
    assert isinstance(x, Node)
    assert isinstance(weight, Node)
    # weight: [out, in / groups, *kernel]; transposed: [in, out / groups, *kernel]
    filter_size: Size = math.prod(_shape(weight)[1:])
    return _elements(x if transposed else output) * filter_size


def _operands(node: Node) -> tuple[Node, Node]:
    first, second = (node.args[position] for position in PRODUCTS[node.target])
    assert isinstance(first, Node)
    assert isinstance(second, Node)
    return first, second


def _shape(node: Node) -> tuple[Size, ...]:
    return tuple(node.meta["val"].shape)


def _elements(node: Node) -> Size:
    size: Size = math.prod(_shape(node))
    return size


def _has_slots(node: Node) -> bool:
    """Whether it is a product of real matrices: one with a vector is `mv` or `dot` once it is opened."""
    operands = _operands(node)
    real = all(operand.meta["val"].dtype.is_floating_point for operand in operands)
    return real and all(len(_shape(operand)) >= 2 for operand in operands)


def _is_tangent(node: Node) -> bool:
    return node.op == "placeholder" and "tangents" in str(node.target)


def _reached_from(nodes: list[Node], sources: set[Node]) -> set[Node]:
    reached = set(sources)
    for node in nodes:
        if any(argument in reached for argument in node.all_input_nodes):
            reached.add(node)
    return reached


def _origin(node: Node) -> Node:
    """The node whose values this one shows, through views, transposes and conversions."""
    while _op_name(node) in _SAME_VALUES and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def _op_name(node: Node) -> str:
    target = node.target
    return str(target.overloadpacket) if isinstance(target, torch._ops.OpOverload) else ""


def _layer(node: Node, context: GraphContext) -> str:
    """Path of the innermost module that the node runs in, from the root of the net."""
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    local = _LOCAL.fullmatch(path)
    if local is None:
        base = "" if stack else next(iter(context.layers.values()), "")
        return path or base
    base = context.layers.get(local[1], f"L['{local[1]}']")
    return ".".join(part for part in (base, local[2]) if part)
