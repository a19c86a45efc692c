"""Whether the slots of a document are in the graph: their tensors, and that nothing goes past a rounding."""

from collections.abc import Iterator
from typing import Any

from precc.backends.onnx.document import OnnxDocument, SlotPlace
from precc.backends.onnx.findings import Findings
from precc.backends.onnx.slot_graphs import ModelParts
from precc.backends.onnx.slot_values import is_rounded
from precc.rounding import Row

__all__ = ["check_places"]


def check_places(parts: ModelParts, document: OnnxDocument, findings: Findings) -> dict[str, SlotPlace]:
    """The places that can be computed with; what is wrong with the others, and what passes a rounding by, is told."""
    nodes = {node.name: node for node in parts.model.graph.node}
    found = {}
    for slot, place in document.places.items():
        reasons = [*_missing(parts, nodes, place), *_not_computable(place.rounding.row)]
        if not reasons:
            found[slot] = place
            reasons = [*_left_out(document, place), *_passed(parts, nodes[place.node], place, document)]
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
    import torch

    if document.flavor != "annotate" and not is_rounded(place) and place.rounding.precision.changes(torch.float32):
        yield f"it is to be {place.rounding.precision}, and nothing rounds it"


def _passed(parts: ModelParts, node: Any, place: SlotPlace, document: OnnxDocument) -> Iterator[str]:
    if not is_rounded(place):
        return
    if place.result:
        yield from _reads_unrounded(parts, place)
        return
    ends = {own.rounded for own in document.places.values() if own.node == place.node and not own.result}
    _, read = parts.nodes_to(node.output[:1], ends)
    if place.rounded not in read:
        yield f"the node {node.name!r} does not read {place.rounded!r}"
    elif place.source and place.source in read - ends:
        yield f"the node {node.name!r} reads {place.source!r} past the rounding"


def _reads_unrounded(parts: ModelParts, place: SlotPlace) -> Iterator[str]:
    between = {id(node) for node in parts.nodes_to([place.rounded], [place.source])[0]}
    for node in parts.readers(place.source):
        if id(node) not in between:
            yield f"the node {node.name!r} reads {place.source!r} past the rounding"
    if place.source in {output.name for output in parts.model.graph.output}:
        yield f"{place.source!r} is an output of the model, past the rounding"
