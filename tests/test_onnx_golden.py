"""What is written, as text: the nodes of each rounding, the bodies of quantisers, what nodes say, the verification."""

from pathlib import Path

import onnx
import pytest

import precc
from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.export import onnx_model
from precc.backends.onnx.verification.slot_graphs import ModelParts
from precc.extras import imported
from tests.golden import check_golden
from tests.mixed_net import MixedNet, mixed_inputs, mixed_net


def proto_of(net: precc.PrecisionModule, **options: object) -> tuple[onnx.ModelProto, dict[str, SlotPlace]]:
    model, document = onnx_model(net, mixed_inputs(), **options)  # type: ignore[arg-type]
    return imported("onnx_ir", "onnx").to_proto(model), dict(document.places)


def said(node: onnx.NodeProto) -> str:
    """An op with its attributes, and its constants if there are few."""
    own = (f"{entry.name}={onnx.helper.get_attribute_value(entry)}" for entry in node.attribute)
    return f"{node.op_type}({', '.join(own)})"


@pytest.mark.parametrize("flavor", ["portable", "annotate"])
def test_the_nodes_of_each_slot_and_what_computing_nodes_say(flavor: str) -> None:
    model, places = proto_of(mixed_net(), flavor=flavor)
    parts, lines = ModelParts(model), []
    for slot, place in places.items():
        nodes = parts.nodes_to([place.rounded], [place.source])[0] if place.source != place.rounded else []
        lines.append(f"{slot}: {place.rounding.precision}" + (f" stored as {place.stored}" if place.stored else ""))
        lines += [f"    {said(node)}" for node in nodes]
    lines.append("")
    for node in model.graph.node:
        own = [f"    {entry.key} = {entry.value}" for entry in node.metadata_props if entry.key.startswith("precc.")]
        lines += [f"{node.op_type}", *own] if own else []
    check_golden(f"onnx_{flavor}.txt", "\n".join(lines))


@pytest.mark.parametrize("opset", [21, 26])
def test_the_body_of_a_float(opset: int) -> None:
    net = precc.compile(MixedNet(), policy="e4m3", backend="reference")
    model, _ = proto_of(net, opset=opset)
    (body,) = model.functions
    check_golden(f"onnx_float_body_{opset}.txt", onnx.printer.to_text(body).rstrip())


def test_a_verification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = mixed_net()
    precc.export_onnx(net, mixed_inputs(), "mixed.onnx")
    found = str(precc.verify_onnx("mixed.onnx", net, mixed_inputs(), runtimes=("onnxruntime",)))
    table = [line.rstrip() for line in found.splitlines() if "is off by" not in line]  # of the machine's own sums
    check_golden("onnx_verification.txt", "\n".join(table))
