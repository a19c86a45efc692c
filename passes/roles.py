"""Find the products of a graph, name them by module path, and tell fprop, dgrad and wgrad apart.

Forward: a product belongs to the innermost module of its stack and is numbered there in the order of execution. An
operand that depends on no input of the call, only on parameters and buffers, is the ``weight``, and the
other one the ``input``; where both or neither do, they are ``a`` and ``b``.

Backward: autograd gives the nodes of a backward formula the sequence number of its forward op. Of a backward
product's operands, the one that depends on a tangent is ``grad_output``; the other one is, through
views, one of the forward operands, and says which gradient it is: the one with respect to the other operand.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Node

from precc.annotations import Operand, Product, Unrounded, annotate, is_annotated
from precc.passes.dependence import backward_of, varying_in
from precc.passes.module_paths import module_path
from precc.passes.op_classes import OpClass, classify
from precc.passes.products import (
    OPAQUE_PRODUCTS,
    PRODUCTS,
    axes,
    dtype_of,
    groups,
    has_slots,
    is_ragged,
    multiply_adds,
    operands,
    origin,
    result_of,
)
from precc.protocols import GraphContext
from precc.slots import Role, Slot
from precc.stored_nodes import CONVOLUTION_BACKWARD, op_name, stored_by

__all__ = ["Roles"]

_aten = torch.ops.aten

_FAMILY = "product"

#: Of torch's own operators, none of which holds products beside those of `precc.passes.products`.
_OWN_NAMESPACES = frozenset({"aten", "prims", "precc", "profiler", "rngprims"})


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
        free = [n for n in nodes if not is_annotated(n)]  # not of fused attention
        varying, backward = varying_in(nodes, context), backward_of(nodes)
        forward = _forward_products(free, backward, varying, context)
        by_sequence: dict[int, list[_Forward]] = {}
        for node, product in forward:
            by_sequence.setdefault(node.meta.get("seq_nr", -1), []).append(product)
        seen: set[tuple[str, Role]] = set()
        for node in free:
            if node in backward and (node.target in PRODUCTS or node.target is CONVOLUTION_BACKWARD):
                candidates = by_sequence.get(node.meta.get("seq_nr", -1), [])
                if not _annotate_backward(node, backward, candidates, seen, context.constants):
                    reason = f"{op_name(node)} is a backward product that belongs to no forward product"
                    annotate(node, Unrounded(module_path(node, context), reason))
            elif reason := _why_no_slots(node, graph):
                annotate(node, Unrounded(module_path(node, context), reason))


def _forward_products(
    nodes: list[Node], backward: set[Node], varying: set[Node], context: GraphContext
) -> list[tuple[Node, _Forward]]:
    found = [n for n in nodes if n.target in PRODUCTS and n not in backward and has_slots(n)]
    layers = {node: module_path(node, context) for node in found}
    calls = Counter((layer, _FAMILY) for layer in layers.values())
    bases = context.numbers.number(context.frame, calls)
    used: Counter[str] = Counter()
    products = []
    for node in found:
        layer = layers[node]
        call = bases[layer, _FAMILY] + used[layer]
        used[layer] += 1
        first, second = operands(node)
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
        _annotate(node, product, Role.FPROP, positions, names, context.constants)
        products.append((node, product))
    return products


def _annotate_backward(
    node: Node,
    backward: set[Node],
    candidates: list[_Forward],
    seen: set[tuple[str, Role]],
    constants: frozenset[str],
) -> bool:
    """Annotate a backward product by the forward product that it belongs to; false if it belongs to none."""
    positions = _backward_positions(node)
    first, second = (node.args[position] for position in positions)
    assert isinstance(first, Node)
    assert isinstance(second, Node)
    gradient_first = first in backward
    if gradient_first == (second in backward):
        return False
    saved = origin(second if gradient_first else first)
    for product in candidates:
        matches = [k for k in (0, 1) if origin(product.operands[k]) is saved]
        # x @ x.T has one origin for both operands; autograd's order then tells the gradients apart
        order = matches if product.second_gradient_first else matches[::-1]
        for k in order:
            role = product.roles[1 - k]
            if (product.slot.op, role) not in seen:
                seen.add((product.slot.op, role))
                names = ("grad_output", product.names[k]) if gradient_first else (product.names[k], "grad_output")
                _annotate(node, product, role, positions, names, constants)
                return True
    return False


def _backward_positions(node: Node) -> tuple[int, int]:
    if node.target is not CONVOLUTION_BACKWARD:
        return PRODUCTS[node.target]
    # (grad_output, input, weight, ...): dgrad reads grad_output and weight, wgrad grad_output and input
    mask: Any = node.args[10]
    return (0, 2) if mask[0] else (0, 1)


def _annotate(
    node: Node,
    product: _Forward,
    role: Role,
    positions: tuple[int, int],
    names: tuple[str, str],
    constants: frozenset[str],
) -> None:
    slot = product.slot
    rounded = tuple(
        Operand(position, replace(slot, role=role, operand=name), *axes(node, position), dtype_of(node, position))
        for position, name in zip(positions, names, strict=True)
    )
    stored = stored_by(node, constants)
    result = None if stored is None else result_of(stored, replace(slot, role=role).result)
    annotate(node, Product(rounded, multiply_adds(node), groups(node), is_ragged(node), result))


def _why_no_slots(node: Node, graph: GraphModule) -> str:
    """Why a product is left as it is; empty for a node that is no product, or that has slots."""
    if op_name(node) in OPAQUE_PRODUCTS:
        return f"{op_name(node)} has no slots: what it computes is not rounded"
    if node.target in PRODUCTS and not has_slots(node):
        return f"{op_name(node)} of vectors, integers or complex numbers has no slots in this version"
    if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in _OWN_NAMESPACES:
        return f"{op_name(node)} is an operator that precc does not know: what it computes is not rounded"
    known = classify(node)
    if known is not None and known.kind is OpClass.PRODUCT and not _has_form(node):
        return f"{node.target} is a form of a product that has no slots in this version"
    if isinstance(node.target, torch._ops.OpOverload) and known is None:
        return f"{op_name(node)} is in no class of `precc ops`: it stays in the precision of its tensors"
    flex = "flex_attention" in str(node.target)
    if isinstance(node.target, torch._ops.HigherOrderOperator) and (flex or _holds_products(node, graph)):
        return f"products inside {node.target} have no slots in this version"
    return ""


def _has_form(node: Node) -> bool:
    return node.target in PRODUCTS or node.target is CONVOLUTION_BACKWARD


def _holds_products(node: Node, graph: GraphModule) -> bool:
    """Whether a control-flow node has a branch or body with a product, at any depth."""
    branches = (argument for argument in node.all_input_nodes if argument.op == "get_attr")
    for branch in branches:
        module = graph.get_submodule(str(branch.target)) if hasattr(graph, str(branch.target)) else None
        if isinstance(module, GraphModule):
            inside = list(module.graph.nodes)
            if any(n.target in PRODUCTS or op_name(n) in OPAQUE_PRODUCTS or _holds_products(n, module) for n in inside):
                return True
    return False
