"""Markers: an identity ``precc::Slot`` at each slot of the traced graph, which outlives the translation to ONNX."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from precc.annotations import Operand
from precc.backends.onnx.settled_scale import settled
from precc.backends.onnx.slot_rounding import SlotRounding
from precc.backends.onnx.traced_net import TracedNet
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan

__all__ = ["MARKER_DOMAIN", "Marker", "insert_markers"]

MARKER_DOMAIN = "precc"
_MARKER = "Slot"


@dataclass(frozen=True, slots=True, eq=False)
class Marker:
    """A slot of the forward graph.

    Args:
        operand: with its slot.
        is_product: whether it belongs to a product; else to a sum of activations.
        rounding: what becomes of its values.
        is_rounded: whether that changes any.
        weight: the value of an operand that depends on parameters alone.
        weight_key: equal for operands that are the same tensor.
    """

    operand: Operand
    is_product: bool
    rounding: SlotRounding
    is_rounded: bool
    weight: Tensor | None
    weight_key: str = ""


def insert_markers(net: PrecisionModule, traced: TracedNet, plan: PrecisionPlan) -> dict[str, Marker]:
    """Put a marker at each operand, and at each result that the plan rounds; by name of the slot."""
    history = session_of(net).amax
    markers: dict[str, Marker] = {}
    products = {node for node, _ in traced.products}

    def add(node: Node, operand: Operand, value: Node) -> None:
        name = operand.slot.name
        precision = settled(plan.precision(name), history.largest, name, operand.dtype)
        dims = len(value.meta["val"].shape)
        rounding = SlotRounding(name, precision, operand.contracted % dims, operand.channel % dims)
        is_rounded = operand.is_rounded(plan)
        weight = traced.constant(value) if is_rounded else None
        markers[name] = Marker(operand, node in products, rounding, is_rounded, weight, value.name)

    for node, operand in traced.operands:
        value = node.args[operand.position]
        assert isinstance(value, Node)
        add(node, operand, value)
        with traced.program.graph_module.graph.inserting_before(node):
            node.update_arg(operand.position, _marker(value, operand.slot.name))
    for node, result, stored in traced.results:
        if result.is_rounded(plan):
            add(node, result, stored)
            _mark_result(traced.program, stored, result.slot.name)
    traced.program.graph_module.recompile()
    return markers


def _mark_result(program: ExportedProgram, value: Node, slot: str) -> None:
    with program.graph_module.graph.inserting_after(value):
        marker = _marker(value, slot)
    value.replace_all_uses_with(marker, delete_user_cb=lambda user: user is not marker)
    program.graph_signature.replace_all_uses(value.name, marker.name)


def _marker(value: Node, slot: str) -> Node:
    """A node that torch.onnx translates to ``precc::Slot(value)`` with the slot's name as an attribute."""
    fake = value.meta["val"]
    attributes: dict[str, Any] = {
        "shape": list(fake.shape),
        "attr_keys": ["slot"],
        "attr_types": ["s"],
        "attr_pos": [(0, 1)],
        "attr_ints": [],
        "attr_floats": [],
        "attr_strs": [slot],
        "metadata_props_keys": [],
        "metadata_props_values": [],
        "domain": MARKER_DOMAIN,
        "version": 1,
    }
    dtype = _ONNX_TYPES[fake.dtype]
    marker = value.graph.call_function(torch.ops.onnx_symbolic._symbolic.default, ([value], _MARKER, dtype), attributes)
    marker.meta = dict(value.meta)
    marker.meta.pop("precc", None)
    return marker


#: The numbers of ONNX's TensorProto.DataType.
_ONNX_TYPES = {torch.float32: 1, torch.float16: 10, torch.float64: 11, torch.bfloat16: 16}
