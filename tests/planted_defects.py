"""Defects to plant into an exported file of `tests.mixed_net`."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["BETWEEN", "OF_VALUES", "TOLD", "Defect", "document", "in_float16", "slot_unknown"]

CONV_IN = "conv/product/fprop.input"
GROUPED_IN = "grouped/product/fprop.input"
FC1_IN = "fc1/product/fprop.input"
FC1_WEIGHT = "fc1/product/fprop.weight"
FC2_IN = "fc2/product/fprop.input"
FC2_RESULT = "fc2/product/fprop.result"
ADD = "add/fprop.result"
ROWS = "product#1/fprop.a"
INTEGER = "product/fprop.a"
PLAIN = "product#1/fprop.b"
HEAD_IN = "head/product/fprop.input"
HEAD_WEIGHT = "head/product/fprop.weight"


def producer(model: Any, tensor: str) -> Any:
    """The node that makes a tensor."""
    return next(node for node in model.graph.node if tensor in node.output)


def reader(model: Any, tensor: str) -> Any:
    """The first node that reads it."""
    return next(node for node in model.graph.node if tensor in node.input)


def quantiser(model: Any, slot: str) -> Any:
    """The node of QONNX that rounds a slot."""
    waiting = [slot]
    while waiting:
        node = producer(model, waiting.pop())
        if node.op_type.endswith("Quant"):
            return node
        waiting += [name for name in node.input if any(name in own.output for own in model.graph.node)]
    raise AssertionError(slot)


def reads(node: Any, old: str, new: str) -> None:
    """Make a node read another tensor."""
    position = list(node.input).index(old)
    node.input[position] = new


def constant(model: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Change an initializer."""
    tensor = next(own for own in model.graph.initializer if own.name == name)
    value = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(value)), name))


def attribute(node: Any, name: str) -> Any:
    """One of a node."""
    return next(own for own in node.attribute if own.name == name)


def document(model: Any, change: Callable[[Any], None]) -> None:
    """Change the document in the metadata."""
    entry = next(own for own in model.metadata_props if own.key == "precc")
    content = json.loads(entry.value)
    change(content)
    entry.value = json.dumps(content)


def dropped(model: Any) -> None:
    node = producer(model, CONV_IN)
    reads(reader(model, CONV_IN), CONV_IN, node.input[0])
    model.graph.node.remove(node)


def passed_by(model: Any) -> None:
    reads(reader(model, FC2_IN), FC2_IN, "tanh")


def one_more_bit(model: Any) -> None:
    constant(model, quantiser(model, HEAD_IN).input[3], lambda bits: bits + 1)


def one_bit_less(model: Any) -> None:
    constant(model, quantiser(model, FC2_RESULT).input[3], lambda bits: bits - 1)


def subnormals_off(model: Any) -> None:
    constant(model, quantiser(model, CONV_IN).input[4], lambda bias: bias - 1)


def too_large(model: Any) -> None:
    attribute(quantiser(model, GROUPED_IN), "shrink").f /= 2


def ties_to_even(model: Any) -> None:
    away, even = quantiser(model, CONV_IN), quantiser(model, HEAD_IN)
    for own in away.attribute:
        if own.name in ("mode", "rounding_mode"):
            own.CopyFrom(attribute(even, own.name))


def saturation_flipped(model: Any) -> None:
    attribute(quantiser(model, ADD), "saturation").i = 1


def saturation_lost(model: Any) -> None:
    attribute(quantiser(model, CONV_IN), "saturation").i = 0


def swapped(model: Any) -> None:
    first, second = quantiser(model, CONV_IN), quantiser(model, HEAD_IN)
    names = list(first.input[1:]), list(second.input[1:])
    attributes = list(first.attribute), list(second.attribute)
    for node, inputs, own in zip((second, first), names, attributes, strict=True):
        source = node.input[0]
        del node.input[:], node.attribute[:]
        node.input.extend([source, *inputs])
        node.attribute.extend(own)


def another_scale(model: Any) -> None:
    constant(model, producer(model, producer(model, FC2_IN).input[0]).input[1], lambda scale: scale * 2)


def along_columns(model: Any) -> None:
    scale = next(node for node in model.graph.node if node.op_type == "ReduceMax" and ROWS in _leads_to(model, node))
    constant(model, scale.input[1], np.zeros_like)


def _leads_to(model: Any, node: Any) -> set[str]:
    found = set(node.output)
    for other in model.graph.node:  # in topological order
        if other.op_type not in ("MatMul", "Gemm", "Conv") and found & set(other.input):
            found |= set(other.output)
    return found


def weight_changed(model: Any) -> None:
    parts = [own for own in model.graph.initializer if own.name.startswith(FC1_WEIGHT)]
    tensor = max(parts, key=lambda own: len(own.raw_data))
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1, *tensor.raw_data[1:]])


def weight_scale(model: Any) -> None:
    constant(model, f"{HEAD_WEIGHT}/scales", lambda scale: scale * 2)


def weight_unrounded(model: Any) -> None:
    value = numpy_helper.from_array(np.full([5, 40], 1 / 3, np.float32), "own")
    model.graph.initializer.append(value)
    reader(model, HEAD_IN).input[1] = "own"


def body_changed(model: Any) -> None:
    function = next(own for own in model.functions if own.name == "IntQuant")
    for node in _all_nodes(function.node):
        if node.op_type == "Round":
            node.op_type = "Floor"


def _all_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for own in node.attribute:
            yield from _all_nodes(own.g.node)


def rounded_unasked(model: Any) -> None:
    matmul = producer(model, "matmul_1")
    half = [
        helper.make_node("Cast", [matmul.input[1]], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["whole"], to=TensorProto.FLOAT),
    ]
    position = list(model.graph.node).index(matmul)
    matmul.input[1] = "whole"
    for node in reversed(half):
        model.graph.node.insert(position, node)


def in_float16(model: Any) -> None:
    """The product in float16: onnxruntime's CPU computes it in float32, and leaves the rounding of operands out."""
    node, conv = producer(model, GROUPED_IN), reader(model, GROUPED_IN)
    weight, bias, result = conv.input[1], conv.input[2], conv.output[0]
    cast = helper.make_node("Cast", [node.input[0]], [GROUPED_IN], to=TensorProto.FLOAT16)
    others = [helper.make_node("Cast", [own], [f"{own}.16"], to=TensorProto.FLOAT16) for own in (weight, bias)]
    conv.input[1], conv.input[2], conv.output[0] = f"{weight}.16", f"{bias}.16", f"{result}.16"
    back = helper.make_node("Cast", [conv.output[0]], [result], to=TensorProto.FLOAT)
    model.graph.node.insert(list(model.graph.node).index(conv) + 1, back)
    for own in others:
        model.graph.node.insert(list(model.graph.node).index(conv), own)
    position = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    model.graph.node.insert(position, cast)
    kept = [own for own in model.graph.value_info if own.name not in (GROUPED_IN, f"{result}.16")]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def another_plan(model: Any) -> None:
    def change(content: Any) -> None:
        content["plan"]["slots"]["conv/product/dgrad.grad_output"] = content["plan"]["slots"][HEAD_IN]

    document(model, change)


def another_precision(model: Any) -> None:
    def change(content: Any) -> None:
        places = content["places"]
        places[GROUPED_IN]["precision"] = places[CONV_IN]["precision"]

    document(model, change)


def slot_unknown(model: Any) -> None:
    document(model, lambda content: content["places"].update({"fc9" + HEAD_IN[4:]: content["places"].pop(HEAD_IN)}))


def node_contradicts(model: Any) -> None:
    node = next(own for own in model.graph.node if own.op_type == "Gemm")
    next(own for own in node.metadata_props if own.key == "precc.fprop.input").value = "bfloat16"


def output_changed(model: Any) -> None:
    constant(model, "head.bias", lambda bias: bias + 1)


def max_for_qonnx(model: Any) -> None:
    """Of a format whose overflow the body takes from float32."""
    constant(model, quantiser(model, GROUPED_IN).input[5], lambda largest: largest * 2)


def mode_for_qonnx(model: Any) -> None:
    """The mode's name, of which the body reads the number."""
    attribute(quantiser(model, HEAD_IN), "rounding_mode").s = b"FLOOR"


Defect = Callable[[Any], None]

#: Defects of values, in groups that can be planted together, each with the slots that it makes wrong.
OF_VALUES: list[dict[Defect, set[str]]] = [
    {
        one_more_bit: {HEAD_IN},
        one_bit_less: {FC2_RESULT},
        subnormals_off: {CONV_IN},
        too_large: {GROUPED_IN},
        saturation_flipped: {ADD},
        another_scale: {FC2_IN},
        along_columns: {ROWS},
        weight_changed: {FC1_WEIGHT},
        weight_scale: {HEAD_WEIGHT},
    },
    {ties_to_even: {CONV_IN}, in_float16: {GROUPED_IN}, body_changed: {FC2_IN, INTEGER}},
    {saturation_lost: {CONV_IN}},
    {swapped: {CONV_IN, HEAD_IN}},
]

#: Defects that are told, in groups likewise, each with two parts of what is said.
TOLD: list[dict[Defect, tuple[str, str]]] = [
    {
        dropped: (CONV_IN, "no tensor"),
        passed_by: (FC2_IN, "does not read"),
        weight_unrounded: (HEAD_WEIGHT, "does not read"),
        rounded_unasked: (PLAIN, "stands between"),
        another_precision: (GROUPED_IN, "in the net's plan"),
        node_contradicts: (FC1_IN, "says that"),
        another_plan: ("the plan of the file is not that of the net", "conv/product/dgrad.grad_output"),
    },
    {
        max_for_qonnx: (GROUPED_IN, "says input 5"),
        mode_for_qonnx: (HEAD_IN, "says rounding_mode b'FLOOR', not b'ROUND'"),
    },
    {
        slot_unknown: (HEAD_IN, "a slot of the net that the file has not"),
        output_changed: ("output 0", "off by"),
    },
]


def bias_changed(model: Any) -> None:
    constant(model, "fc1.bias", lambda bias: (bias * 1.01).astype(bias.dtype))


def leaking(model: Any) -> None:
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "LeakyRelu"
    relu.attribute.append(helper.make_attribute("alpha", 0.01))


def padded_aside(model: Any) -> None:
    attribute(reader(model, CONV_IN), "pads").ints[:] = [0, 2, 2, 0]


def output_scaled(model: Any) -> None:
    result = model.graph.output[0].name
    producer(model, result).output[0] = "unscaled"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1.001), "factor"))
    model.graph.node.append(helper.make_node("Mul", ["unscaled", "factor"], [result]))


#: Defects between roundings, in groups likewise, each with what is off.
BETWEEN: list[dict[Defect, str]] = [
    {bias_changed: FC2_IN, leaking: GROUPED_IN, output_scaled: "output 0"},
    {padded_aside: GROUPED_IN},
]
