"""The annotated ONNX file: metadata, plan, plain arithmetic, bad input."""

import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import precc
from precc.errors import BackendError, CaptureError
from precc.models.lenet5 import LeNet5, example_inputs
from precc.plan import PrecisionPlan
from precc.precision import Precision
from tests.nets import MODELS, Attention, Convolutional, inputs_of, loss_of, uniform
from tests.zoo import llama


def test_each_slot_and_the_plan_are_metadata(tmp_path: Path) -> None:
    net = precc.compile(LeNet5(), backend="reference")
    (images,) = example_inputs()
    loss_of(net, images).backward()
    changed = {
        "conv2/product/fprop.weight": Precision(precc.FORMATS["bfloat16"]),
        "fc1/product/wgrad.input": Precision(precc.FORMATS["float8_e5m2"]),
    }
    net.set_plan(PrecisionPlan(uniform("e4m3").default, changed))
    path = tmp_path / "lenet5.onnx"
    precc.export_onnx(net, (images,), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["lenet5.onnx"]

    model = onnx.load(path)
    onnx.checker.check_model(model)
    nodes: dict[str, dict[str, str]] = {}
    for node in model.graph.node:
        metadata = {entry.key: entry.value for entry in node.metadata_props if entry.key.startswith("precc.")}
        if metadata:
            nodes[metadata.pop("precc.op")] = metadata
    assert list(nodes) == [f"{layer}/product" for layer in ("conv1", "conv2", "fc1", "fc2", "fc3")]
    assert nodes["conv2/product"] == {"precc.fprop.input": "float8_e4m3fn", "precc.fprop.weight": "bfloat16"}

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    plan = PrecisionPlan.from_json(session.get_modelmeta().custom_metadata_map["precc.plan"])
    assert plan == net.plan
    assert plan.slots == net.plan.slots


@pytest.mark.parametrize("model_class", MODELS)
def test_the_graph_computes_what_the_model_computes(model_class: type[nn.Module], tmp_path: Path) -> None:
    model = model_class()
    x = inputs_of(model)
    net = precc.compile(model, policy="e4m3", backend="reference")
    precc.export_onnx(net, (x,), tmp_path / "net.onnx")  # before any call: nothing is captured yet
    assert net.training
    assert model.training
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (ours,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = model.eval()(x)
    assert torch.allclose(torch.from_numpy(ours), expected, rtol=1e-3, atol=1e-4)


def test_export_changes_nothing_of_the_net(tmp_path: Path) -> None:
    net = precc.compile(Convolutional(), policy="e4m3", backend="reference")
    x = inputs_of(Convolutional())
    net.drop.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = {name: module.training for name, module in net.named_modules()}
    precc.export_onnx(net, (x,), tmp_path / "net.onnx")
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.compilations == 0


class Contraction(nn.Module):
    """An einsum, which training sees as a product."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bij,bkj->bik", x, x + 1)


def test_einsum_has_the_slots_of_training(tmp_path: Path) -> None:
    net = precc.compile(Contraction(), backend="reference")
    x = torch.randn(2, 3, 4, requires_grad=True)
    net(x).sum().backward()
    precc.export_onnx(net, (x.detach(),), tmp_path / "net.onnx")
    metadata = [entry for node in onnx.load(tmp_path / "net.onnx").graph.node for entry in node.metadata_props]
    assert [entry.value for entry in metadata if entry.key == "precc.op"] == ["product"]


def test_a_recurrent_node_says_that_its_formats_are_in_the_plan(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.rnn = nn.GRU(4, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.rnn(self.fc(x))[0]
            return result

    net = precc.compile(Recurrent(), policy="e4m3", backend="reference")
    x = torch.randn(2, 3, 4)
    net(x).sum().backward()
    precc.export_onnx(net, (x,), tmp_path / "net.onnx")
    notes = {
        node.op_type: entry.value
        for node in onnx.load(tmp_path / "net.onnx").graph.node
        for entry in node.metadata_props
        if entry.key == "precc.not_annotated"
    }
    assert list(notes) == ["GRU"]
    assert "slots that it has in training are in precc.plan" in notes["GRU"]


def test_bad_arguments(tmp_path: Path) -> None:
    net = precc.compile(LeNet5(), backend="reference")
    with pytest.raises(CaptureError, match="made by precc.compile, not LeNet5"):
        precc.export_onnx(LeNet5(), example_inputs(), tmp_path / "a.onnx")  # type: ignore[arg-type]
    with pytest.raises(CaptureError, match="tuple of the net's inputs"):
        precc.export_onnx(net, example_inputs()[0], tmp_path / "a.onnx")  # type: ignore[arg-type]
    cached = precc.compile(llama(), backend="reference")
    with pytest.raises(CaptureError, match="cannot trace LlamaForCausalLM.*: set model.config.use_cache = False"):
        precc.export_onnx(cached, (torch.ones(1, 4, dtype=torch.long),), tmp_path / "a.onnx")
    with pytest.raises(CaptureError, match="cannot trace LeNet5"):
        precc.export_onnx(net, (torch.zeros(1),), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        precc.export_onnx(net, example_inputs(), tmp_path / "file" / "a.onnx")


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent: Any = None
    monkeypatch.setitem(sys.modules, "onnxscript", absent)
    net = precc.compile(Attention(), backend="reference")
    with pytest.raises(BackendError, match=r"pip install 'precc\[onnx\]'"):
        precc.export_onnx(net, (inputs_of(Attention()),), tmp_path / "a.onnx")
