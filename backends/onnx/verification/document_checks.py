"""Whether the document of a file says of the graph what is there: opset, flavor, types of weights, nodes of ops."""

from collections.abc import Iterator
from typing import Any

from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.node_metadata import DOCUMENT_KEY
from precc.backends.onnx.roundings.qdq_problems import qdq_problem
from precc.backends.onnx.verification.findings import Findings
from precc.backends.onnx.verification.quantiser_checks import has_quantisers
from precc.backends.onnx.verification.slot_graphs import ModelParts
from precc.backends.onnx.verification.slot_values import is_rounded
from precc.extras import imported
from precc.slots import Slot

__all__ = ["check_document"]

_NATIVE = frozenset({"DequantizeLinear", "QuantizeLinear"})


def check_document(model: Any, document: OnnxDocument, findings: Findings) -> None:
    """Tell what the document says else than the graph."""
    parts = ModelParts(model)
    for own in model.opset_import:
        if own.domain in ("", "ai.onnx") and own.version != document.opset:
            findings.problem(f"the document says opset {document.opset}, the file is of opset {own.version}")
    ops = {entry.value: node.name for node in model.graph.node for entry in node.metadata_props if entry.key == _OP}
    for slot, place in document.places.items():
        reasons = [*_other_node(ops, slot, place), *_other_flavor(parts, document, place), *_other_type(parts, place)]
        for reason in reasons:
            findings.problem(f"{slot}: {reason}")


_OP = f"{DOCUMENT_KEY}.op"


def _other_node(ops: dict[str, str], slot: str, place: SlotPlace) -> Iterator[str]:
    """A tool may have dropped what nodes say."""
    known = ops.get(Slot.parse(slot).op, place.node)
    if known != place.node:
        yield f"the document says that it is of the node {place.node!r}, the node {known!r} that it is of that"
    elif place.node in ops.values() and Slot.parse(slot).op not in ops:
        yield f"the node {place.node!r} is of another op"


def _other_flavor(parts: ModelParts, document: OnnxDocument, place: SlotPlace) -> Iterator[str]:
    if document.flavor == "annotate" and is_rounded(place):
        yield "the flavor is 'annotate', and the file rounds it"
    if document.flavor == "portable" and place.source and is_rounded(place):
        native = [node for node in parts.nodes_to([place.rounded], [place.source])[0] if node.op_type in _NATIVE]
        if native:
            yield f"the flavor is 'portable', and the node {native[0].name!r} ({native[0].op_type}) rounds it"
    if document.flavor == "qdq" and place.source and has_quantisers(parts, place):
        if not qdq_problem(place.rounding, document.opset):
            yield "the flavor is 'qdq', which can express it, and quantisers of QONNX round it"


def _other_type(parts: ModelParts, place: SlotPlace) -> Iterator[str]:
    if bool(place.stored) == bool(place.source):
        yield f"it is stored as {place.stored or 'nothing'!r}, and rounded from {place.source or 'nothing'!r}"
    if place.source:
        return
    names = imported("onnx", "onnx").TensorProto.DataType
    read = parts.nodes_to([place.rounded])[1] if place.rounded in parts.tensors else set()
    held = [name for name in read if name in parts.initializers]
    held = [name for name in held if name.endswith(("/codes", "/rounded"))] or held
    types = {names.Name(parts.initializers[name].data_type) for name in held}
    if types and place.stored not in types:
        yield f"the document says that it is stored as {place.stored}, the file has {', '.join(sorted(types))}"
