"""What takes the place of each marker: the nodes of a rounding, a stored weight, or nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from precc.backends.onnx.computing_nodes import computing_node
from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.flavors import Flavor
from precc.backends.onnx.roundings.quant_functions import portable_functions
from precc.backends.onnx.slot_markers import MARKER_DOMAIN, Marker
from precc.backends.onnx.weights.stored_weights import StoredWeight
from precc.extras import imported

__all__ = ["expand_markers"]


def expand_markers(
    model: Any,
    markers: Mapping[str, Marker],
    flavor_of: Mapping[str, Flavor],
    opset: int,
    facts: Mapping[str, Mapping[str, float]],
) -> dict[str, SlotPlace]:
    """Replace the markers of a model by what the flavors have for them; where the slots are then, with facts of them.

    The bodies of the nodes that come in become functions of the model, and what nothing reads any more goes.
    """
    expansion = _Expansion(model.graph, opset)
    found = {own.attributes["slot"].as_string(): own for own in model.graph if own.domain == MARKER_DOMAIN}
    computing = {slot: _computing(node, markers[slot]) for slot, node in found.items()}
    values = {slot: expansion.of(node, markers[slot], flavor_of[slot]) for slot, node in found.items()}
    for function in portable_functions(list(model.graph), opset):
        model.functions[function.identifier()] = function
    model.graph.opset_imports.pop(MARKER_DOMAIN, None)
    for domain in {node.domain for node in model.graph} - set(model.graph.opset_imports):
        model.graph.opset_imports[domain] = 1
    imported("onnx_ir.passes.common", "onnx").RemoveUnusedNodesPass()(model)
    return {slot: _place(computing[slot], markers[slot], facts.get(slot, {}), *own) for slot, own in values.items()}


@dataclass(frozen=True, slots=True)
class _Expansion:
    """Of one graph; a weight that several slots round alike is stored once."""

    graph: Any
    opset: int
    weights: dict[Any, StoredWeight] = field(default_factory=dict)

    def of(self, node: Any, marker: Marker, flavor: Flavor) -> tuple[Any, Any, str]:
        """The value before the rounding, None of a stored weight; the value after it; the type of a stored weight."""
        source, marked = node.inputs[0], node.outputs[0]
        if not (marker.is_rounded and flavor.rounds):
            self._replace(node, source)
            return source, source, ""
        if marker.weight is not None:
            stored = self._stored(node, marker, flavor)
            self._replace(node, stored.value)
            return None, stored.value, stored.type
        tape = imported("onnx_ir.tape", "onnx").Tape()
        rounded = flavor.round(tape, source, marker.rounding, self.opset)
        self._insert(tape, node)
        rounded.name = marker.rounding.slot
        if marked in self.graph.outputs:  # an output keeps the name that it has without the rounding
            rounded.name, source.name = source.name, f"{source.name}.unrounded"
        self._replace(node, rounded)
        return source, rounded, ""

    def _stored(self, node: Any, marker: Marker, flavor: Flavor) -> StoredWeight:
        own = marker.rounding
        key = flavor.name, marker.weight_key, own.precision, own.axis, own.channel
        if key not in self.weights:
            assert marker.weight is not None
            tape = imported("onnx_ir.tape", "onnx").Tape()
            self.weights[key] = flavor.store(tape, marker.weight, own, self.opset, own.slot)
            self._insert(tape, node)
        return self.weights[key]

    def _insert(self, tape: Any, node: Any) -> None:
        self.graph.insert_before(node, list(tape.nodes))
        for value in tape.initializers:
            self.graph.register_initializer(value)

    def _replace(self, node: Any, value: Any) -> None:
        convenience = imported("onnx_ir.convenience", "onnx")
        convenience.replace_all_uses_with(node.outputs[0], value, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)


def _computing(node: Any, marker: Marker) -> Any:
    return computing_node(node, is_result=marker.operand.slot.is_result, is_sum=not marker.is_product)


def _place(node: Any, marker: Marker, facts: Mapping[str, float], source: Any, rounded: Any, stored: str) -> SlotPlace:
    return SlotPlace(
        rounding=marker.rounding,
        node=node.name,
        result=marker.operand.slot.is_result,
        source="" if source is None else source.name,
        rounded=rounded.name,
        stored=stored,
        facts=facts,
    )
