"""Whether the slots of a document are in the graph: their tensors, and that nothing goes past a rounding."""

from collections.abc import Iterator
from typing import Any

import torch

from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.verification.findings import Findings
from precc.backends.onnx.verification.quantiser_checks import quantiser_problems
from precc.backends.onnx.verification.slot_graphs import ModelParts
from precc.backends.onnx.verification.slot_values import is_rounded
from precc.rounding import Row

__all__ = ["check_places"]

#: Ops that change no values.
_MOVES = frozenset({"Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def check_places(parts: ModelParts, document: OnnxDocument, findings: Findings) -> dict[str, SlotPlace]:
    """The places that can be computed with; what is wrong with the others, and what passes a rounding by, is told."""
    nodes = {node.name: node for node in parts.model.graph.node}
    found = {}
    for slot, place in document.places.items():
        reasons = [*_missing(parts, nodes, place), *_not_computable(place.rounding.row)]
        if not reasons:
            found[slot] = place
            node = nodes[place.node]
            reasons = [*_left_out(document, place), *_passed(parts, node, place, document)]
            reasons += _changed(parts, node, place, document)
            reasons += quantiser_problems(parts, place, document.opset) if is_rounded(place) and place.source else []
        for reason in reasons:
            findings.problem(f"{slot}: {reason}")
    return found


def _missing(parts: ModelParts, nodes: dict[str, Any], place: SlotPlace) -> Iterator[str]:
    for name in (place.source, place.rounded):
        if name and name not in parts.tensors:
            yield f"the graph has no tensor {name!r}"
    if place.node not in nodes:
        yield f"the graph has no node {place.node!r}"


def _not_computable(row: Row) -> Iterator[str]:
    if row.is_stochastic or row.transform is not None:
        yield "its rounding draws random bits, or transforms before: it cannot be compared bit for bit"


def _left_out(document: OnnxDocument, place: SlotPlace) -> Iterator[str]:
    if document.flavor != "annotate" and not is_rounded(place) and place.rounding.precision.changes(torch.float32):
        yield f"it is to be {place.rounding.precision}, and nothing rounds it"


def _passed(parts: ModelParts, node: Any, place: SlotPlace, document: OnnxDocument) -> Iterator[str]:
    if not is_rounded(place):
        return
    if place.result:
        yield from _reads_unrounded(parts, place)
        return
    ends = _ends(document, node)
    _, read = parts.nodes_to(node.output[:1], ends)
    if place.rounded not in read:
        yield f"the node {node.name!r} does not read {place.rounded!r}"
    elif place.source and place.source in read - ends:
        yield f"the node {node.name!r} reads {place.source!r} past the rounding"


def _changed(parts: ModelParts, node: Any, place: SlotPlace, document: OnnxDocument) -> Iterator[str]:
    """What computes with the rounded values before the product does."""
    if place.result:
        return
    made = {place.rounded}
    for other in parts.nodes_to(node.output[:1], _ends(document, node))[0]:  # in the order of the graph
        if made & set(other.input) and other is not node and other.op_type != "Shape":
            made |= set(other.output)
            if other.op_type not in _MOVES:
                yield f"the node {other.name!r} ({other.op_type}) stands between {place.rounded!r} and {node.name!r}"


def _ends(document: OnnxDocument, node: Any) -> set[str]:
    """The rounded operands of a node."""
    return {own.rounded for own in document.places.values() if own.node == node.name and not own.result}


def _reads_unrounded(parts: ModelParts, place: SlotPlace) -> Iterator[str]:
    between = {id(node) for node in parts.nodes_to([place.rounded], [place.source])[0]}
    for node in parts.readers(place.source):
        if id(node) not in between:
            yield f"the node {node.name!r} reads {place.source!r} past the rounding"
    if place.source in {output.name for output in parts.model.graph.output}:
        yield f"{place.source!r} is an output of the model, past the rounding"
