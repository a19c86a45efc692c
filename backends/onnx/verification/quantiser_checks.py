"""Whether the quantisers of a rounding say what it is: QONNX's executor computes by their inputs and attributes.

The bodies in the file read some of these, and some that precc added. So a file that onnxruntime computes right could
mean something else to QONNX, and no value that onnxruntime computes would show it.
"""

from collections.abc import Iterator
from typing import Any

from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.roundings.node_writer import QUANT_DOMAIN
from precc.backends.onnx.roundings.portable import add_portable_rounding
from precc.backends.onnx.verification.slot_graphs import ModelParts
from precc.extras import imported

__all__ = ["has_quantisers", "quantiser_problems"]

#: Of one quantiser: what it is called, and its attributes and constant inputs by name or number.
_Said = tuple[str, dict[str, Any]]


def has_quantisers(parts: ModelParts, place: SlotPlace) -> bool:
    """Whether quantisers of QONNX round a place."""
    return any(node.domain == QUANT_DOMAIN for node in parts.nodes_to([place.rounded], [place.source])[0])


def quantiser_problems(parts: ModelParts, place: SlotPlace, opset: int) -> Iterator[str]:
    """What the quantisers between the source and the rounded tensor of a place say else than they should.

    A graph whose functions a tool has inlined, or another flavor's, has none, and is judged by its values alone.
    """
    nodes = parts.nodes_to([place.rounded], [place.source])[0]
    found = [node for node in nodes if node.domain == QUANT_DOMAIN]
    if not found:
        return
    wanted = _wanted(place, parts, opset)
    if len(found) != len(wanted):
        yield f"{len(found)} quantisers round it, and {len(wanted)} should"
    for node, (op_type, entries) in zip(found, wanted, strict=False):
        said = _said(parts, node)
        if said[0] != op_type:
            yield f"the node {node.name!r} is {said[0]}, not {op_type}"
            continue
        wrong = [name for name in entries if said[1].get(name) != entries[name]]
        yield from (
            f"the node {node.name!r} ({op_type}) says {name} {said[1].get(name)!r}, not {entries[name]!r}"
            for name in wrong
        )


def _said(parts: ModelParts, node: Any) -> _Said:
    onnx = imported("onnx", "onnx")
    attributes = {own.name: onnx.helper.get_attribute_value(own) for own in node.attribute}
    held = {name: parts.initializers[name] for name in node.input[1:] if name in parts.initializers}
    numbers = {name: onnx.numpy_helper.to_array(tensor).tolist() for name, tensor in held.items()}
    return node.op_type, attributes | {f"input {n}": numbers.get(name) for n, name in enumerate(node.input[1:], 1)}


def _wanted(place: SlotPlace, parts: ModelParts, opset: int) -> list[_Said]:
    """Those of the nodes that a rounding of the place is written as."""
    ir = imported("onnx_ir", "onnx")
    tape = imported("onnx_ir.tape", "onnx").Tape()
    shape = ir.Shape([f"d{dim}" for dim in range(_rank(place, parts))])
    value = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    add_portable_rounding(tape, value, place.rounding, opset)
    return [
        (
            node.op_type,
            {name: _plain(own.value) for name, own in node.attributes.items()}
            | {f"input {n}": _number(own) for n, own in enumerate(node.inputs[1:], 1)},
        )
        for node in tape.nodes
        if node.domain == QUANT_DOMAIN
    ]


def _rank(place: SlotPlace, parts: ModelParts) -> int:
    """Of the source, as the file says; of one that says none, what its axes need."""
    known = next((own for own in _values(parts.model.graph) if own.name == place.source), None)
    if known is not None and known.type.tensor_type.HasField("shape"):
        return len(known.type.tensor_type.shape.dim)
    return 1 + max(place.rounding.axis, place.rounding.channel)


def _values(graph: Any) -> Iterator[Any]:
    yield from (*graph.input, *graph.value_info, *graph.output)


def _plain(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _number(value: Any) -> Any:
    return None if value.const_value is None else value.const_value.numpy().tolist()
