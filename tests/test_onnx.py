"""Exported files: what they hold, that they compute what the net computes, and what is refused."""

import itertools
import re
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers as hf
from torch import Generator, Tensor, nn
from torch.utils import _pytree

import precc
from precc.annotations import Operand, Product, Unrounded
from precc.backends.onnx.constant_values import ConstantValues
from precc.backends.onnx.document_json import document_from_json
from precc.backends.onnx.exported_program import exported_program as export_program
from precc.backends.onnx.translation import translate
from precc.errors import BackendError, CaptureError, ExtraError, PlanError
from precc.models import gpt, lenet5, mlp, resnet20
from precc.models.lenet5 import LeNet5, example_inputs
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import Role, Slot
from tests.few_always import few_always
from tests.nets import MODELS, Attention, Convolutional, inputs_of, loss_of, uniform
from tests.onnx_graphs import by_qonnx
from tests.zoo import bare_prompts, bert, llama, sentences

Example = tuple[nn.Module, tuple[Tensor, ...], dict[str, Tensor]]


def of_module(module: Any, name: str) -> Callable[[], Example]:
    """One of ours, with three of its example inputs."""
    return lambda: (getattr(module, name)(), tuple(own[:3] for own in module.example_inputs()), {})


def tiny_resnet() -> Example:
    """A block that keeps the shape, and one that does not."""
    model = resnet20.ResNet20()
    model.blocks, model.fc = model.blocks[2:4], nn.Linear(32, 10)
    return model, (torch.randn(3, 3, 16, 16),), {}


def tiny_gpt() -> Example:
    """Of one layer."""
    return gpt.GPT(20, context=16, width=16, layers=1, heads=2), (torch.randint(20, (3, 8)),), {}


def tiny_bert() -> Example:
    """Of one layer, with padded sentences."""
    model: Any = bert(hf.BertModel)
    model.encoder.layer = model.encoder.layer[:1]
    return model, (), dict(sentences(3, Generator().manual_seed(0)))


def tiny_llama() -> Example:
    """Of one layer, without a cache, which torch.export cannot trace."""
    model: Any = llama()
    model.config.use_cache = False
    model.model.layers = model.model.layers[:1]
    return model, (), dict(bare_prompts(3, Generator().manual_seed(0)))


EXAMPLES: dict[str, Callable[[], Example]] = {
    "lenet5": of_module(lenet5, "LeNet5"),
    "resnet20": tiny_resnet,
    "mlp": of_module(mlp, "MLP"),
    "gpt": tiny_gpt,
    "bert": tiny_bert,
    "llama": tiny_llama,
}


#: The others in each flavor, and each way.
IN_EVERY_PAIR = ("lenet5", "gpt")


def session_of(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path: Path, *inputs: Tensor) -> list[Tensor]:
    """The outputs in onnxruntime."""
    session = session_of(path)
    feed = {own.name: value.numpy() for own, value in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(own) for own in session.run(None, feed)]


def outputs_of(net: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> list[Tensor]:
    """Those of the net, in eval mode, in order."""
    with torch.no_grad():
        output = net.eval()(*args, **kwargs)
    leaves: list[Tensor] = _pytree.tree_leaves(dict(output) if hasattr(output, "keys") else output)
    return leaves


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch makes of the one net of a test is made once, and once with an open batch."""
    programs: dict[bool, Any] = {}
    models: dict[bool, Any] = {}

    def exported(net: Any, args: Any, kwargs: Any, shapes: Any) -> Any:
        if (key := shapes is None) not in programs:
            programs[key] = export_program(net, args, kwargs, shapes)
        return deepcopy(programs[key])

    def translated(program: Any, opset: int, shapes: Any) -> Any:
        if (key := shapes is None) not in models:
            models[key] = translate(program, opset, shapes)
        model = models[key].clone()
        model.graph.opset_imports[""] = opset
        return model

    monkeypatch.setattr("precc.backends.onnx.traced_net.exported_program", exported)
    monkeypatch.setattr("precc.backends.onnx.export.translate", translated)


def assert_nearer(ours: Tensor, net: Tensor, model: Tensor) -> None:
    """What a file gives is the net's, not the model's, whose products are not rounded."""
    assert ours.shape == net.shape
    assert (ours - net).abs().mean() <= 0.1 * (model - net).abs().mean()


# BERT and Llama have the layers of GPT and of the encoder in test_onnx_segments, which has several outputs too.
@pytest.mark.parametrize("name", few_always(EXAMPLES, [own for own in EXAMPLES if own not in ("bert", "llama")]))
@pytest.mark.usefixtures("traced_once")
def test_models_compute_the_bits_of_the_net_in_every_flavor(name: str, tmp_path: Path) -> None:
    """Of every slot; and as a whole they are much nearer to the net than what is not rounded."""
    torch.manual_seed(0)
    model, args, kwargs = EXAMPLES[name]()
    policy = precc.Uniform("e4m3", scaling=precc.Scaling("tensor"))
    net = precc.compile(model, policy=policy, backend="reference")
    pairs = list(itertools.product(("portable", "qdq", "annotate"), (None, "batch")))
    if name not in IN_EVERY_PAIR:
        pairs = [own for own in pairs if own not in (("qdq", "batch"), ("annotate", None))]
    for flavor, dynamic in pairs:
        path, opset = (
            tmp_path / f"{flavor}{dynamic}.onnx",
            26 if flavor == "portable" else 23,
        )  # the same graph of torch
        precc.export_onnx(net, args, path, kwargs=kwargs, flavor=flavor, dynamic_shapes=dynamic, opset=opset)
        onnx.checker.check_model(str(path), full_check=True)
        assert precc.load_plan(path) == net.plan
        given = tuple(own[:2] if dynamic else own for own in args)
        named = {key: own[:2] if dynamic else own for key, own in kwargs.items()}
        plain, wanted = outputs_of(model, given, named), outputs_of(net, given, named)
        ours = run(path, *given, *named.values())
        for own, rounded, unrounded in zip(ours, wanted, plain, strict=True):
            if flavor == "annotate":
                assert torch.allclose(own, unrounded, rtol=1e-4, atol=1e-5)
            else:
                assert_nearer(own, rounded, unrounded)
        if flavor != "annotate" and not dynamic:
            runtimes = ("onnxruntime", "reference") if flavor == "portable" else ("onnxruntime",)
            found = precc.verify_onnx(path, net, given, kwargs=named, runtimes=runtimes)
            assert found.ok, (flavor, str(found))


@pytest.mark.parametrize("flavor", ["Portable", "Qdq"])
def test_a_file_without_roundings_is_seen(flavor: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(f"precc.backends.onnx.flavors.{flavor}.round", lambda own, tape, value, *rest: value)
    torch.manual_seed(0)
    model, args, _ = EXAMPLES["mlp"]()
    net = precc.compile(model, policy=precc.Uniform("e4m3", scaling=precc.Scaling("tensor")), backend="reference")
    precc.export_onnx(net, args, tmp_path / "net.onnx", flavor=flavor.lower())
    (ours,), (wanted,), (plain,) = (
        run(tmp_path / "net.onnx", *args),
        outputs_of(net, args, {}),
        outputs_of(model, args, {}),
    )
    with pytest.raises(AssertionError):
        assert_nearer(ours, wanted, plain)
    found = precc.verify_onnx(tmp_path / "net.onnx", net, args, runtimes=["onnxruntime"])
    said = " ".join((*found.problems, *(row.slot for row in found.wrong)))
    assert all(f"fc{layer}/product/fprop.input" in said for layer in (1, 2, 3)), str(found)


FC = "fc/product/fprop.weight"


def small_integers(model: nn.Module) -> None:
    """Parameters whose products and sums are exact in any order."""
    for parameter in model.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape).float()


class Perceptron(nn.Module):
    """Two layers; whatever order sums are in, small integers give the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.fc = nn.Linear(4 * 6 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x).relu().flatten(1)
        result: Tensor = self.fc(hidden)
        return result


class Deep(nn.Module):
    """Convolutions, a residual sum, products of two activations; small integers stay exact in any order of sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.max_pool2d(self.stem(x).relu(), 2)  # up to 110
        hidden = (hidden + self.block(hidden)).relu().clamp(max=509).flatten(2)
        scores = (hidden.transpose(1, 2) @ hidden).clamp(max=1021)
        result: Tensor = self.fc((hidden @ scores).clamp(max=2039).flatten(1))
        return result


EXACT = {
    "portable": ("bfloat16", "e4m3", "int8", "mxfp8", "mxfp4", "bfp8.16", "fixed8.2"),
    "qdq": ("bfloat16", "e4m3", "int8", "mxfp8", "fixed8.2"),
}


@pytest.mark.parametrize("flavor", EXACT)
@pytest.mark.parametrize("dynamic", few_always([None, "batch"], ["batch"]))
@pytest.mark.usefixtures("traced_once")
def test_exact_sums_give_the_bits_of_the_net(flavor: str, dynamic: str | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Deep()
    small_integers(model)
    net = precc.compile(model, backend="reference")
    x = torch.randint(-3, 4, (3, 2, 8, 8)).float()
    for policy in EXACT[flavor]:
        net.set_plan(PrecisionPlan(policy))
        path = tmp_path / f"{policy}.onnx"
        precc.export_onnx(
            net, (x,), path, flavor=flavor, dynamic_shapes=dynamic, opset=26 if flavor == "portable" else 23
        )
        given = x[:2] if dynamic else x
        (ours,), (wanted,) = run(path, given), outputs_of(net, (given,), {})
        assert torch.equal(ours, wanted), policy
        assert not torch.equal(ours, outputs_of(model, (given,), {})[0]), policy


@pytest.mark.parametrize("opset", [18, 21])
def test_earlier_opsets_give_the_same_bits(opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Deep()
    small_integers(model)
    net = precc.compile(model, plan=PrecisionPlan("e4m3", {"fc/product/fprop.input": "mxfp4"}), backend="reference")
    x = torch.randint(-3, 4, (2, 2, 8, 8)).float()
    precc.export_onnx(net, (x,), tmp_path / "net.onnx", opset=opset)
    assert torch.equal(run(tmp_path / "net.onnx", x)[0], outputs_of(net, (x,), {})[0])


def test_qonnx_computes_an_exported_net(tmp_path: Path) -> None:
    """Its executor, node by node: shapes are static and said, and weights of types that NumPy has."""
    torch.manual_seed(0)
    model = Deep()
    small_integers(model)
    slots = {
        "block/product/fprop.input": "int8",
        "block/product/fprop.weight": "int4",
        "product/fprop.a": "fixed8.-1",
        "product/fprop.b": "mxfp8",
        "fc/product/fprop.input": "e5m2",
        "fc/product/fprop.weight": "mxfp4",
    }
    net = precc.compile(model, plan=PrecisionPlan("e4m3", slots), backend="reference")
    x, path = torch.randint(-3, 4, (2, 2, 8, 8)).float(), tmp_path / "net.onnx"
    precc.export_onnx(net, (x,), path, opset=18)
    found = onnx.load(path)
    assert {"FloatQuant", "IntQuant"} <= {node.op_type for node in found.graph.node}
    theirs = by_qonnx(found, x)
    assert torch.equal(theirs, run(path, x)[0])
    assert torch.equal(theirs, outputs_of(net, (x,), {})[0])
    assert not torch.equal(theirs, outputs_of(model, (x,), {})[0])


def document_of(path: Path) -> Any:
    metadata = {own.key: own.value for own in onnx.load(path).metadata_props}
    return document_from_json(metadata["precc"])


def metadata_of(path: Path) -> dict[str, dict[str, str]]:
    """What nodes say, by op."""
    found = {}
    for node in onnx.load(path).graph.node:
        own = {entry.key: entry.value for entry in node.metadata_props if entry.key.startswith("precc.")}
        if own:
            found[own.pop("precc.op", node.op_type)] = own
    return found


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
    assert {entry.name for entry in tmp_path.iterdir()} == {"lenet5.onnx", "lenet5.onnx.precc.json"}
    nodes = metadata_of(path)
    assert list(nodes) == [f"{layer}/product" for layer in ("conv1", "conv2", "fc1", "fc2", "fc3")]
    assert nodes["conv2/product"] == {"precc.fprop.input": "float8_e4m3fn", "precc.fprop.weight": "bfloat16"}
    document = document_of(path)
    assert document.plan == net.plan
    assert document.plan.slots == net.plan.slots
    assert document_from_json((tmp_path / "lenet5.onnx.precc.json").read_text()) == document
    session = session_of(path)
    assert document_from_json(session.get_modelmeta().custom_metadata_map["precc"]) == document
    assert document.places["conv2/product/fprop.weight"].stored == "BFLOAT16"
    assert document.places["fc1/product/fprop.weight"].stored == "FLOAT8E4M3FN"


def test_what_an_analysis_knows_is_metadata(tmp_path: Path) -> None:
    net = precc.compile(LeNet5(), policy="e4m3", backend="reference")
    (images,) = example_inputs()
    net.analyze(images, loss=lambda output: output.square().mean())
    precc.export_onnx(net, (images,), tmp_path / "net.onnx")
    facts = document_of(tmp_path / "net.onnx").places["fc1/product/fprop.input"].facts
    assert set(facts) == {"condition", "condition_p99", "sensitivity", "error", "loss_error"}
    assert facts["condition"] >= 1
    assert facts["error"] > 0
    node = metadata_of(tmp_path / "net.onnx")["fc1/product"]
    assert float(node["precc.fprop.input.condition"]) == pytest.approx(facts["condition"], rel=1e-3)
    assert float(node["precc.fprop.input.error"]) == pytest.approx(facts["error"], rel=1e-3)


class Residual(nn.Module):
    """A sum of two activations, products whose results are stored, one of them the output."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        result: Tensor = self.b(hidden + hidden.tanh())
        return result


def test_results_are_rounded_and_outputs_keep_their_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plan = PrecisionPlan("bf16", default_result="e5m2")
    net = precc.compile(Residual(), plan=plan, backend="reference")
    x = torch.randn(4, 8, requires_grad=True)
    net(x).sum().backward()
    x = x.detach()
    precc.export_onnx(net, (x,), tmp_path / "net.onnx")
    precc.export_onnx(net, (x,), tmp_path / "plain.onnx", flavor="annotate")
    names = [[own.name for own in session_of(tmp_path / f"{name}.onnx").get_outputs()] for name in ("net", "plain")]
    assert names[0] == names[1]
    document = document_of(tmp_path / "net.onnx")
    assert {slot for slot, place in document.places.items() if place.result} == {
        "a/product/fprop.result",
        "add/fprop.result",
        "b/product/fprop.result",
    }
    (ours,), (wanted,) = run(tmp_path / "net.onnx", x), outputs_of(net, (x,), {})
    assert torch.equal(precc.round_to(ours, "e5m2"), ours)
    assert (ours != wanted).float().mean() < 0.2  # a sum in another order may flip one
    assert precc.verify_onnx(tmp_path / "net.onnx", net, (x,)).ok


def test_a_weight_that_two_calls_read_is_stored_once(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 64, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.fc(self.fc(x).relu())
            return result

    net = precc.compile(Twice(), policy="e4m3", backend="reference")
    precc.export_onnx(net, (torch.randn(2, 64),), tmp_path / "net.onnx")
    assert 4096 < (tmp_path / "net.onnx").stat().st_size < 2 * 4096 + 8000
    places = document_of(tmp_path / "net.onnx").places
    weights = {place.rounded for slot, place in places.items() if slot.endswith("weight")}
    assert len(weights) == 1


def test_a_delayed_scale_is_the_one_of_the_next_forward(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scaling = precc.Scaling("tensor", history=4)
    net = precc.compile(Perceptron(), policy=precc.Uniform("e4m3", scaling=scaling), backend="reference")
    for scale in (1.0, 8.0):
        net(scale * torch.randn(2, 2, 8, 8)).sum().backward()
    x = 20 * torch.randn(2, 2, 8, 8)
    precc.export_onnx(net, (x,), tmp_path / "net.onnx")
    places = document_of(tmp_path / "net.onnx").places
    assert all(own.rounding.precision.scaling.granularity.value == "static" for own in places.values())
    (ours,), (wanted,) = run(tmp_path / "net.onnx", x), outputs_of(net, (x,), {})
    assert (ours - wanted).abs().max() < 0.05 * wanted.abs().max()
    assert precc.load_plan(tmp_path / "net.onnx") == net.plan


def test_a_recurrent_layer_is_opened_as_in_training(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.rnn = nn.GRU(4, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.rnn(self.fc(x))[0]
            return result

    torch.manual_seed(0)
    model = Recurrent()
    net = precc.compile(model, policy="e4m3", backend="reference")
    x = torch.randn(2, 3, 4)
    net(x).sum().backward()
    precc.export_onnx(net, (x,), tmp_path / "net.onnx")
    forward = {name for name in net.plan.slots if "/fprop." in name and not name.endswith("accumulator")}
    assert set(document_of(tmp_path / "net.onnx").places) == forward
    (ours,), (wanted,), (plain,) = run(tmp_path / "net.onnx", x), outputs_of(net, (x,), {}), outputs_of(model, (x,), {})
    assert_nearer(ours, wanted, plain)


def test_bags_of_embeddings_whose_shapes_decide_a_branch(tmp_path: Path) -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.EmbeddingBag(50, 16, mode="mean")
            self.fc = nn.Linear(16, 4)

        def forward(self, categories: Tensor, offsets: Tensor) -> Tensor:
            result: Tensor = self.fc(self.table(categories, offsets))
            return result

    net = precc.compile(Bags(), policy="e4m3", backend="reference")
    inputs = torch.tensor([3, 1, 4, 1, 5, 9]), torch.tensor([0, 2, 2])
    precc.export_onnx(net, inputs, tmp_path / "net.onnx")
    assert "If" not in {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    found = precc.verify_onnx(tmp_path / "net.onnx", net, inputs)
    assert found.ok, str(found)


class Contraction(nn.Module):
    """An einsum, which training sees as a product."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bij,bkj->bik", x, x + 1)


def test_einsum_has_the_slots_of_training(tmp_path: Path) -> None:
    net = precc.compile(Contraction(), backend="reference")
    x = torch.randn(2, 3, 4, requires_grad=True)
    net(x).sum().backward()
    precc.export_onnx(net, (x.detach(),), tmp_path / "net.onnx")
    assert list(metadata_of(tmp_path / "net.onnx")) == ["product"]


@pytest.mark.parametrize("model_class", few_always(MODELS, [Attention, Convolutional]))
def test_the_plain_graph_computes_what_the_model_computes(model_class: type[nn.Module], tmp_path: Path) -> None:
    model = model_class()
    x = inputs_of(model)
    net = precc.compile(model, policy="e4m3", backend="reference")
    precc.export_onnx(net, (x,), tmp_path / "net.onnx", flavor="annotate")  # before any call: nothing is captured yet
    assert net.training
    assert model.training
    with torch.no_grad():
        expected = model.eval()(x)
    assert torch.allclose(run(tmp_path / "net.onnx", x)[0], expected, rtol=1e-3, atol=1e-4)


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


def test_two_dimensions_may_change(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, (tokens,), _ = tiny_gpt()
    net = precc.compile(model, policy="e4m3", backend="reference")
    precc.export_onnx(net, (tokens,), tmp_path / "net.onnx", dynamic_shapes=({0: "batch", 1: "length"},))
    assert session_of(tmp_path / "net.onnx").get_inputs()[0].shape == ["batch", "length"]
    other = torch.randint(20, (2, 13))
    (ours,), (wanted,) = run(tmp_path / "net.onnx", other), outputs_of(net, (other,), {})
    assert_nearer(ours, wanted, outputs_of(model, (other,), {})[0])


def test_tensors_beside_the_file(tmp_path: Path) -> None:
    net = precc.compile(LeNet5(), policy="e4m3", backend="reference")
    path = tmp_path / "net.onnx"
    precc.export_onnx(net, example_inputs(), path, external_data=True, sidecar=False)
    assert sorted(re.sub(r"\b[0-9a-f]{8}\b", "*", entry.name) for entry in tmp_path.iterdir()) == [
        "net.onnx",
        "net.onnx.*.data",
    ]
    (ours,), (wanted,) = run(path, *example_inputs()), outputs_of(net, example_inputs(), {})
    assert torch.equal(ours, wanted)
    assert precc.load_plan(path) == net.plan


def test_tensors_that_do_not_fit_go_beside_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("precc.backends.onnx.write_model.FITS", 10_000)
    net = precc.compile(LeNet5(), policy="e4m3", backend="reference")
    precc.export_onnx(net, example_inputs(), tmp_path / "net.onnx")
    assert len(list(tmp_path.glob("net.onnx.*.data"))) == 1
    with pytest.raises(BackendError, match="do not fit one ONNX file: leave external_data=False out"):
        precc.export_onnx(net, example_inputs(), tmp_path / "other.onnx", external_data=False)
    assert not (tmp_path / "other.onnx").exists()


def test_a_file_is_written_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = precc.compile(LeNet5(), policy="e4m3", backend="reference")
    path = tmp_path / "net.onnx"
    precc.export_onnx(net, example_inputs(), path)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    def full(*args: Any, **kwargs: Any) -> None:
        Path(args[1]).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("onnx_ir.save", full)
    net.set_plan(PrecisionPlan("bf16"))
    with pytest.raises(OSError, match="no space left"):
        precc.export_onnx(net, example_inputs(), path)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def refused(net: Any, x: Tensor, tmp_path: Path, **options: Any) -> str:
    """The message; nothing is written."""
    with pytest.raises(BackendError) as caught:
        precc.export_onnx(net, (x,), tmp_path / "net.onnx", **options)
    assert not list(tmp_path.iterdir())
    return str(caught.value)


def test_what_portable_cannot_express_is_named(tmp_path: Path) -> None:
    x = torch.randn(2, 2, 8, 8)
    net = precc.compile(Perceptron(), policy=precc.Uniform("e4m3", rounding="stochastic"), backend="reference")
    message = refused(net, x, tmp_path)
    assert "cannot express 4 slot(s)" in message
    assert "'conv/product/fprop.input'" in message
    assert "flavor='annotate'" in message
    precc.export_onnx(net, (x,), tmp_path / "net.onnx", flavor="annotate")
    assert precc.load_plan(tmp_path / "net.onnx") == net.plan


def test_rounded_sums_are_named_and_annotated(tmp_path: Path) -> None:
    x = torch.randn(2, 2, 8, 8)
    net = precc.compile(Perceptron(), plan=PrecisionPlan("bf16", default_accumulator="bf16"), backend="reference")
    assert "'conv/product/fprop.accumulator', 'fc/product/fprop.accumulator': no ONNX operator" in refused(
        net, x, tmp_path
    )
    precc.export_onnx(net, (x,), tmp_path / "net.onnx", flavor="annotate")
    assert "precc.fprop.accumulator" in metadata_of(tmp_path / "net.onnx")["fc/product"]


def test_what_qdq_cannot_express_is_named_or_portable(tmp_path: Path) -> None:
    x = torch.randn(2, 2, 8, 8)
    plan = PrecisionPlan("e4m3", {"fc/product/fprop.input": "e3m4"})
    net = precc.compile(Perceptron(), plan=plan, backend="reference")
    message = refused(net, x, tmp_path, flavor="qdq")
    assert "cannot express 1 slot(s): 'fc/product/fprop.input'" in message
    assert "unsupported='portable'" in message
    precc.export_onnx(net, (x,), tmp_path / "net.onnx", flavor="qdq", unsupported="portable")
    nodes = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert nodes.count("FloatQuant") == 1
    assert "Cast" in nodes
    assert precc.verify_onnx(tmp_path / "net.onnx", net, (x,)).ok


def test_half_tensors_are_named(tmp_path: Path) -> None:
    net = precc.compile(nn.Linear(4, 4).bfloat16(), policy="e4m3", backend="reference")
    assert "its values are bfloat16 tensors" in refused(net, torch.randn(2, 4).bfloat16(), tmp_path)


def test_fused_attention_is_named(tmp_path: Path) -> None:
    class Fused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    net = precc.compile(Fused(), policy="e4m3", backend="reference", attention="fused")
    assert "fused attention" in refused(net, torch.randn(2, 2, 4, 8), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flavor": "onnx"}, "unknown flavor 'onnx': expected one of"),
        ({"flavor": 3}, "unknown flavor 3"),
        ({"opset": 17}, "opset 17 is none of 18 to"),
        ({"opset": 99}, "opset 99 is none of 18 to"),
        ({"opset": "26"}, "opset '26' is none of"),
        ({"unsupported": "drop"}, "unsupported is 'drop'"),
        ({"external_data": "yes"}, "external_data is None, True or False"),
        ({"sidecar": None}, "sidecar True or False"),
        ({"external_data": 1}, "external_data is None, True or False"),
        ({"external_data": np.zeros(2)}, "external_data is None, True or False"),
        ({"unsupported": np.zeros(2)}, "unsupported is array"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    net = precc.compile(LeNet5(), policy="e4m3", backend="reference")
    assert message in refused(net, example_inputs()[0], tmp_path, **options)


def test_bad_arguments(tmp_path: Path) -> None:
    net = precc.compile(LeNet5(), backend="reference")
    (x,) = example_inputs()
    with pytest.raises(CaptureError, match="made by precc.compile, not LeNet5"):
        precc.export_onnx(LeNet5(), (x,), tmp_path / "a.onnx")  # type: ignore[arg-type]
    with pytest.raises(CaptureError, match="tuple of the net's inputs"):
        precc.export_onnx(net, x, tmp_path / "a.onnx")  # type: ignore[arg-type]
    with pytest.raises(CaptureError, match="kwargs has the net's inputs by name"):
        precc.export_onnx(net, (x,), tmp_path / "a.onnx", kwargs=[])  # type: ignore[arg-type]
    cached = precc.compile(llama(), backend="reference")
    with pytest.raises(CaptureError, match="cannot trace LlamaForCausalLM.*: set model.config.use_cache = False"):
        precc.export_onnx(cached, (torch.ones(1, 4, dtype=torch.long),), tmp_path / "a.onnx")
    with pytest.raises(CaptureError, match="cannot trace LeNet5"):
        precc.export_onnx(net, (torch.zeros(1),), tmp_path / "a.onnx")
    with pytest.raises(CaptureError, match="cannot trace LeNet5"):
        precc.export_onnx(net, (x[:1],), tmp_path / "a.onnx", dynamic_shapes="batch")
    assert not list(tmp_path.iterdir())


def test_unwritable_places(tmp_path: Path) -> None:
    net = precc.compile(LeNet5(), backend="reference")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.onnx", tmp_path / "folder", tmp_path / "none" / "a.onnx", Path("/proc/a.onnx")):
        with pytest.raises(OSError, match=path.name.replace(".", r"\.") + "|proc"):
            precc.export_onnx(net, example_inputs(), path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}


class Unknown(nn.Module):
    """An operator that ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x) @ x


def test_an_operator_without_a_translation_is_named(tmp_path: Path) -> None:
    net = precc.compile(Unknown(), policy="e4m3", backend="reference")
    with pytest.raises(CaptureError, match="cannot translate the graph.*svd"):
        precc.export_onnx(net, (torch.randn(4, 4),), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnx_ir"])
def test_without_the_extra(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent: Any = None
    monkeypatch.setitem(sys.modules, module, absent)
    net = precc.compile(Attention(), backend="reference")
    with pytest.raises(ExtraError, match=r"pip install 'precc\[onnx\]'"):
        precc.export_onnx(net, (inputs_of(Attention()),), tmp_path / "a.onnx")


def slots_of(net: Any, *x: Tensor) -> set[str]:
    """Those of the forward, by a step of training."""
    net(*x).sum().backward()
    return {name for name in net.plan.slots if "/fprop." in name}


class Computing(nn.Module):
    """Whatever a function makes of matrices, a vector, and inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        generator = Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(8, 8, generator=generator))
        self.u = nn.Parameter(torch.randn(8, 8, generator=generator))
        self.v = nn.Parameter(torch.randn(8, generator=generator))
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def computing(function: Callable[..., Any], **plan: Any) -> precc.PrecisionModule:
    return precc.compile(Computing(function), plan=PrecisionPlan("e4m3", **plan), backend="reference")


def of_a_vector(own: Any, x: Tensor) -> Tensor:
    return nn.functional.linear(x, own.w, own.v) + x @ own.w + own.v @ own.u


def of_matrices(own: Any, x: Tensor) -> Any:
    return torch.linalg.multi_dot([torch.tensordot(x, own.w, 1), own.w, own.u]) + x @ (own.w @ own.u)


@pytest.mark.parametrize(("function", "shape"), [(of_a_vector, (8,)), (of_matrices, (4, 8))])
def test_no_product_is_lost(function: Callable[..., Any], shape: tuple[int, ...], tmp_path: Path) -> None:
    net = computing(function, default_result="bf16")
    x = torch.randn(shape, generator=Generator().manual_seed(1))
    precc.export_onnx(net, (x,), tmp_path / "net.onnx")
    places = document_of(tmp_path / "net.onnx").places
    assert {name for name in places if not name.endswith("result")} == slots_of(net, x)
    found = precc.verify_onnx(tmp_path / "net.onnx", net, (x,), runtimes=("onnxruntime",))
    assert found.ok, str(found)
    assert all(row.precision != "-" for row in found.rows)


def test_a_cell_is_opened_as_in_training(tmp_path: Path) -> None:
    net = precc.compile(nn.GRUCell(4, 4), policy="e4m3", backend="reference")
    precc.export_onnx(net, (torch.randn(2, 4),), tmp_path / "net.onnx")
    assert set(document_of(tmp_path / "net.onnx").places) == slots_of(net, torch.randn(2, 4))


def test_what_is_drawn_is_no_weight(tmp_path: Path) -> None:
    net = computing(lambda own, x: x @ torch.rand(8, 8) + x @ own.w)
    precc.export_onnx(net, (torch.randn(2, 8),), tmp_path / "net.onnx")
    places = document_of(tmp_path / "net.onnx").places
    assert [bool(own.source) for name, own in places.items() if name.endswith("weight")] == [True, False]
    assert "RandomUniformLike" in [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]


def test_values_of_constants_are_computed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    computed = []
    compute = ConstantValues._computed
    monkeypatch.setattr(ConstantValues, "_computed", lambda own, node: computed.append(node) or compute(own, node))

    def doubled(own: Any, x: Tensor) -> Tensor:
        weight = own.w
        for _ in range(30):
            weight = weight + weight
        return x @ weight

    precc.export_onnx(computing(doubled), (torch.randn(2, 8),), tmp_path / "net.onnx")
    assert len(computed) == len(set(computed)) == 31


@pytest.mark.parametrize("slot", ["1/product/fprop.input", "0/product#1/fprop.weight", "0/product#1/fprop.accumulator"])
def test_a_plan_of_another_model_is_refused(slot: str, tmp_path: Path) -> None:
    named: Any = {"accumulators": {slot: "bf16"}} if slot.endswith("accumulator") else {"slots": {slot: "bf16"}}
    net = precc.compile(nn.Sequential(nn.Linear(8, 8)), plan=PrecisionPlan("e4m3", **named), backend="reference")
    with pytest.raises(PlanError, match=f"the plan names 1 slot.*{re.escape(slot)}.*of another model"):
        precc.export_onnx(net, (torch.randn(2, 8),), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_slots_of_the_backward_and_of_updates_are_no_reason(tmp_path: Path) -> None:
    plan = PrecisionPlan("e4m3", {"0/product/wgrad.input": "bf16", "0/weight/update.master": "bf16"})
    net = precc.compile(nn.Sequential(nn.Linear(8, 8)), plan=plan, backend="reference")
    precc.export_onnx(net, (torch.randn(2, 8),), tmp_path / "net.onnx")


class Auxiliary(nn.Module):
    """A head of training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.a(x) + (self.b(x) if self.training else 0)
        return result


def test_what_training_alone_runs_is_told(tmp_path: Path) -> None:
    net = precc.compile(Auxiliary(), policy="e4m3", backend="reference")
    assert len(slots_of(net, torch.randn(2, 8))) == 4
    told = r"has not 2 slot\(s\), 'b/product/fprop.input', 'b/product/fprop.weight': the forward in eval mode"
    with pytest.warns(precc.PrecisionWarning, match=told):
        precc.export_onnx(net, (torch.randn(2, 8),), tmp_path / "net.onnx")
    again = precc.compile(Auxiliary(), plan=net.plan, backend="reference")
    with pytest.warns(precc.PrecisionWarning, match=told):
        precc.export_onnx(again, (torch.randn(2, 8),), tmp_path / "net.onnx")


def test_products_without_slots_where_training_has_some_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    net = computing(lambda own, x: torch.tensordot(x, own.w, 1))
    slots_of(net, torch.randn(2, 8))
    hidden = lambda program, **_: program.run_decompositions({})  # noqa: E731
    monkeypatch.setattr("precc.backends.onnx.exported_program.with_opened_composites", hidden)
    monkeypatch.setattr("precc.backends.onnx.slot_coverage.unrounded_of", lambda _: [(None, Unrounded("", "hidden"))])
    with pytest.raises(PlanError, match=r"has not 2 slot.*'product/fprop.input'.*: hidden; write the product as"):
        precc.export_onnx(net, (torch.randn(2, 8),), tmp_path / "net.onnx")


def test_products_of_no_module_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = computing(lambda own, x: x @ own.w)
    operand = Operand(0, Slot("gone", "product", 0, Role.FPROP, "input"), 1, 0, 2, torch.float32)
    monkeypatch.setattr("precc.backends.onnx.slot_coverage.products_of", lambda _: [(None, Product((operand,), 1))])
    with pytest.raises(PlanError, match="sees 1 product.*'gone/product', of no module of the net"):
        precc.export_onnx(net, (torch.randn(2, 8),), tmp_path / "net.onnx")


def test_inputs_stay_as_they_are(tmp_path: Path) -> None:
    net = computing(lambda own, x: x.add_(1.0) @ own.w)
    x = torch.randn(4, 8)
    before = x.clone()
    with pytest.raises(CaptureError, match="specialized it to be a constant"):
        precc.export_onnx(net, (x,), tmp_path / "net.onnx", dynamic_shapes={1: "feat"})
    assert torch.equal(x, before)
    assert not [name for name in vars(x) if "dynamo" in name]
    net(x.clone())


def test_qdq_weights_are_of_onnx_types_or_named(tmp_path: Path) -> None:
    x = torch.randn(2, 2, 8, 8)
    for name in ("e3m4", "int3", "nested8.4"):
        net = precc.compile(Perceptron(), plan=PrecisionPlan("e4m3", {FC: name}), backend="reference")
        message = refused(net, x, tmp_path, flavor="qdq")
        assert f"cannot express 1 slot(s): {FC!r}: ONNX has no type" in message
    precc.export_onnx(net, (x,), tmp_path / "net.onnx", flavor="qdq", unsupported="portable")
    assert precc.verify_onnx(tmp_path / "net.onnx", net, (x,), runtimes=("onnxruntime",)).ok


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ("", "calls dimension 0 of inputs[0] ''"),
        ("a b", "a name is letters, digits, _"),
        (3, "dynamic_shapes is 3: expected a name"),
        (({2: "n"},), "a dimension 2 of inputs[0], a tensor of 2 dimensions"),
        ({2: "n"}, "a dimension 2, and no input has more than 2"),
        ({1: "n"}, "dimension 1 of inputs[0] may change and is 1 in the example"),
    ],
)
def test_bad_dynamic_shapes(shapes: Any, message: str, tmp_path: Path) -> None:
    net = precc.compile(nn.Linear(1, 8), policy="e4m3", backend="reference")
    with pytest.raises(CaptureError) as caught:
        precc.export_onnx(net, (torch.randn(4, 1),), tmp_path / "net.onnx", dynamic_shapes=shapes)
    assert message in str(caught.value)


def test_dimensions_of_all_inputs_may_change(tmp_path: Path) -> None:
    net = computing(lambda own, x, y: x @ own.w + y[:, None])
    x, y = torch.randn(2, 3, 8), torch.randn(2, 8)
    precc.export_onnx(net, (x, y), tmp_path / "net.onnx", dynamic_shapes={0: "batch", 2: 8})
    assert [own.shape for own in session_of(tmp_path / "net.onnx").get_inputs()] == [["batch", 3, 8], ["batch", 8]]


@pytest.mark.parametrize("output", [None, 3])
def test_outputs_that_are_no_tensors_are_named(output: Any, tmp_path: Path) -> None:
    net = computing(lambda own, x: (x @ own.w, output))
    with pytest.raises(CaptureError, match=f"output 1 of the net is {output}, which no ONNX file returns"):
        precc.export_onnx(net, (torch.randn(2, 8),), tmp_path / "net.onnx")


def test_a_net_without_values(tmp_path: Path) -> None:
    net = precc.compile(nn.Linear(8, 8, device="meta"), policy="e4m3", backend="reference")
    with pytest.raises(CaptureError, match="'weight' is on the device 'meta'"):
        precc.export_onnx(net, (torch.randn(2, 8),), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (None, BackendError, "path is that of a file"),
        (3, BackendError, "path is that of a file"),
        ("a\0b", OSError, "NUL"),
        ("a" * 250, OSError, "too long"),
        ("sidecar", OSError, "sidecar.precc.json' is a folder"),
    ],
)
def test_bad_paths_are_told_before_anything_is_traced(
    path: Any, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sidecar.precc.json").mkdir()
    with pytest.raises(error, match=message):
        precc.export_onnx(precc.compile(LeNet5(), backend="reference"), (), path)
