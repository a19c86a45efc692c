"""What nodes say of themselves: the formats of their slots, and what an analysis knows of these."""

import json
from collections.abc import Mapping
from typing import Any

from precc.backends.onnx.computing_nodes import fx_name
from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.document_json import document_to_json
from precc.backends.onnx.traced_net import TracedNet
from precc.plan_json import sums_to_json
from precc.slots import Slot

__all__ = ["DOCUMENT_KEY", "annotate_nodes", "place_metadata"]

#: The key of the document in a model's metadata, and the start of the keys of nodes.
DOCUMENT_KEY = "precc"

_ATTENTION_OPS = frozenset({"Attention", "MatMul"})
_OPAQUE_OPS = frozenset({"Attention", "GRU", "LSTM", "RNN", "MatMul", "Gemm", "Conv", "Einsum"})


def place_metadata(place: SlotPlace) -> dict[str, str]:
    """The entries of one slot in the metadata of its node.

    >>> from precc.backends.onnx.slot_rounding import SlotRounding
    >>> from precc.precision import Precision
    >>> rounding = SlotRounding("fc/product/fprop.weight", Precision("e4m3"), 1, 0)
    >>> place_metadata(SlotPlace(rounding, "node_linear", False, "", "w", "FLOAT8E4M3FN", {"condition": 3.5}))
    {'precc.fprop.weight': 'float8_e4m3fn', 'precc.fprop.weight.condition': '3.5'}
    """
    slot = Slot.parse(place.rounding.slot)
    key = f"{DOCUMENT_KEY}.{slot.role.value}.{slot.operand}"
    facts = {f"{key}.{name}": f"{value:.4g}" for name, value in place.facts.items()}
    return {key: str(place.rounding.precision), **facts}


def annotate_nodes(model: Any, traced: TracedNet, document: OnnxDocument) -> None:
    """Write the document into a model's metadata, and what concerns them into that of its nodes."""
    nodes = {node.name: node for node in model.graph}
    for name, place in document.places.items():
        metadata = nodes[place.node].metadata_props
        metadata[f"{DOCUMENT_KEY}.op"] = Slot.parse(name).op
        metadata.update(place_metadata(place))
    _annotate_sums(nodes, traced, document)
    _annotate_attention(nodes, traced, document)
    _annotate_opaque(nodes, traced.opaque)
    model.metadata_props[DOCUMENT_KEY] = document_to_json(document)


def _annotate_sums(nodes: Mapping[str, Any], traced: TracedNet, document: OnnxDocument) -> None:
    for _, product in traced.products:
        sums = product.sums(document.plan)
        if sums is not None:
            node = nodes[document.places[product.operands[0].slot.name].node]
            key = f"{DOCUMENT_KEY}.{product.role.value}.accumulator"
            node.metadata_props[key] = json.dumps(sums_to_json(sums))


def _annotate_attention(nodes: Mapping[str, Any], traced: TracedNet, document: OnnxDocument) -> None:
    """Fused attention, on all nodes that torch.onnx has for it and that compute products."""
    calls = {node.name: product for node, product in traced.attention}
    for node in nodes.values():
        product = calls.get(fx_name(node))
        if product is not None and node.op_type in _ATTENTION_OPS:
            node.metadata_props[f"{DOCUMENT_KEY}.op"] = product.op
            for operand in product.operands:
                key = f"{DOCUMENT_KEY}.{product.role.value}.{operand.slot.operand}"
                node.metadata_props[key] = str(document.plan.precision(operand.slot.name))


def _annotate_opaque(nodes: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    for node in nodes.values():
        reason = reasons.get(fx_name(node))
        if reason is not None and node.op_type in _OPAQUE_OPS:
            node.metadata_props[f"{DOCUMENT_KEY}.not_annotated"] = (
                f"{reason}; slots that it has in training are in the plan"
            )
