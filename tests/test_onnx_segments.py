"""Nets that exported files are compared with between roundings: sound ones pass, whatever they compute and return."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.backends.onnx.traced_net import TracedNet, opened_for_export
from precc.backends.onnx.verification.forced_values import ForcedValue, ForcedValues, is_within
from precc.backends.onnx.verification.verification import OnnxVerification
from precc.backends.onnx.verification.verify import _Example, verify_onnx
from precc.formats import Scaling
from precc.plan import PrecisionPlan
from precc.precision import Precision

ORT = "onnxruntime"


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class _Function(nn.Module):
    """Of inputs and a linear layer."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.own = nn.Linear(6, 4)
        self.function = function

    def forward(self, x: Tensor, **others: Tensor) -> Any:
        return self.function(self.own, x, **others)


class _Block(nn.Module):
    """A residual block with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.norm.running_mean.copy_(torch.tensor([0.3, -0.2]))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + x)


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.own(x)[0]
        return result


class _Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ConvTranspose2d(4, 6, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.own(x)
        return result


def compiled(model: nn.Module, policy: Any = "e4m3") -> precc.PrecisionModule:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return precc.compile(model, policy=policy, backend="reference")


def verified(
    net: precc.PrecisionModule, inputs: tuple[Tensor, ...], tmp_path: Path, runtimes: Any = ORT, **options: Any
) -> OnnxVerification:
    copies = tuple(own.clone() for own in inputs)
    precc.export_onnx(net, copies, tmp_path / "net.onnx", **options)
    return verify_onnx(tmp_path / "net.onnx", net, inputs, runtimes=runtimes)


def named(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return {
        "block": (_Block(), (normal(2, 2, 5, 5),)),
        "encoder": (encoder, (normal(2, 3, 8),)),
        "lstm": (_Recurrent(), (normal(2, 3, 3),)),
    }[name]


@pytest.mark.parametrize(
    ("name", "flavor"),
    [("block", "portable"), ("lstm", "qdq"), pytest.param("encoder", "annotate", marks=pytest.mark.slow)],
)
def test_sound_files_pass(name: str, flavor: str, tmp_path: Path) -> None:
    model, inputs = named(name)
    found = verified(compiled(model), inputs, tmp_path, flavor=flavor)
    assert found.ok, str(found)


def test_norms_that_changed_after_the_export(tmp_path: Path) -> None:
    model, inputs = named("block")
    net = compiled(model)
    precc.export_onnx(net, inputs, tmp_path / "net.onnx")
    with torch.no_grad():
        model.get_parameter("norm.weight").mul_(1.01)
    found = verify_onnx(tmp_path / "net.onnx", net, inputs, runtimes=ORT)
    assert "the constant 'norm.weight' has other values in the file than in the net" in found.problems
    assert any("output 0 is off by" in problem for problem in found.problems), str(found)


def changing(own: nn.Module, x: Tensor) -> Any:
    x.mul_(2)
    return own(x)


def many(own: nn.Module, x: Tensor) -> Any:
    y = own(x)
    steps = torch.arange(4).to(x.dtype)
    return y.log(), y.argmax(-1), y > 0, (y - y) / (y - y), (y * steps).to(torch.float16), steps.floor() * y


def summed(own: nn.Linear, x: Tensor) -> Any:
    return torch.addmm(own.bias, x, own.weight.t(), alpha=-0.3, beta=2.5)


@pytest.mark.parametrize("function", [changing, many, summed], ids=lambda function: function.__name__)
def test_what_nets_do_and_return(function: Callable[..., Any], tmp_path: Path) -> None:
    inputs = (normal(3, 6),)
    before = inputs[0].clone()
    found = verified(compiled(_Function(function)), inputs, tmp_path, runtimes=(ORT, "reference"))
    assert found.ok, str(found)
    assert torch.equal(inputs[0], before)


def test_copies_of_one_tensor_are_one_tensor() -> None:
    net, x = compiled(_Function(many)), normal(3, 6)
    (first, second), others = _Example.of(net, (x, x), {"flag": None}).copied()
    assert first is second
    assert first is not x
    assert others == {"flag": None}


def test_inputs_go_by_their_names(tmp_path: Path) -> None:
    net = compiled(_Function(lambda own, x, a, b: own(x + a) - own(b)))
    x, a, b = normal(3, 6), normal(3, 6) + 1, normal(3, 6) + 2
    precc.export_onnx(net, (x,), tmp_path / "net.onnx", kwargs={"a": a, "b": b})
    found = verify_onnx(tmp_path / "net.onnx", net, (x,), kwargs={"b": b, "a": a}, runtimes=ORT)
    assert found.ok, str(found)
    precc.export_onnx(compiled(_Function(lambda own, x, c: own(x + c))), (x,), tmp_path / "o.onnx", kwargs={"c": a})
    found = verify_onnx(tmp_path / "o.onnx", net, (x,), kwargs={"a": a, "b": b}, runtimes=ORT)
    assert "the file has an input 'c', and the net was given no such tensor" in found.problems
    assert "the net was given a tensor 'b', and the file has no such input" in found.problems


def test_fewer_and_more_outputs(tmp_path: Path) -> None:
    net = compiled(_Function(lambda own, x: (own(x), x)))
    precc.export_onnx(net, (normal(3, 6),), tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    del model.graph.output[1]
    onnx.save(model, tmp_path / "fewer.onnx")
    found = verify_onnx(tmp_path / "fewer.onnx", net, (normal(3, 6),), runtimes=ORT)
    assert found.problems == ("output 1 of the net is none of the file, which has 1",)
    model.graph.output.extend([model.graph.input[0]] * 2)
    model.graph.output[2].name = "own/product/fprop.weight/codes"
    onnx.save(model, tmp_path / "more.onnx")
    found = verify_onnx(tmp_path / "more.onnx", net, (normal(3, 6),), runtimes=ORT)
    problem = "the output 'own/product/fprop.weight/codes' of the file is none of the net, which has 2"
    assert problem in found.problems


def test_nets_of_float16_tensors(tmp_path: Path) -> None:
    model = _Function(lambda own, x: F.relu(own(x)))
    found = verified(compiled(model).half(), (normal(3, 6).half(),), tmp_path, flavor="annotate")
    assert found.ok, str(found)


def test_empty_batches_are_noted(tmp_path: Path) -> None:
    net = compiled(_Function(lambda own, x: F.relu(own(x))))
    precc.export_onnx(net, (normal(3, 6),), tmp_path / "net.onnx", dynamic_shapes="batch")
    found = verify_onnx(tmp_path / "net.onnx", net, (normal(0, 6),), runtimes=ORT)
    assert found.ok, str(found)
    assert any("output 0 is empty" in note for note in found.notes)


def test_what_the_evaluator_cannot_do_is_no_problem_of_the_file(tmp_path: Path) -> None:
    net, inputs = compiled(_Transposed()), (normal(2, 4, 5, 5),)
    found = verified(net, inputs, tmp_path, runtimes=(ORT, "reference"))
    assert found.ok, str(found)
    assert any("reference cannot run the model" in note and "onnxruntime can" in note for note in found.notes)
    alone = verify_onnx(tmp_path / "net.onnx", net, inputs, runtimes="reference")
    assert any("reference cannot run the model" in problem for problem in alone.problems)


def test_values_that_quantisers_of_onnx_cannot_give(tmp_path: Path) -> None:
    scaled = Precision("int8", scaling=Scaling("static", value=2.0**-10))
    plan = PrecisionPlan("float32", {"own/product/fprop.input": scaled})
    net = precc.compile(_Function(lambda own, x: own(x)), plan=plan, backend="reference")
    values = normal(2, 6)
    values[0, 0], values[1, 0] = torch.nan, 3e7
    found = verified(net, (values,), tmp_path, runtimes=(ORT, "reference"), flavor="qdq")
    assert found.ok, str(found)
    assert "onnxruntime: 1 values of own/product/fprop.input are NaN and are not compared" in found.notes


def test_buffers_are_as_they_were(tmp_path: Path) -> None:
    model = _Function(lambda own, x: own(x + own.count.add_(1)))
    model.own.register_buffer("count", torch.zeros(6))
    found = verified(compiled(model), (normal(3, 6),), tmp_path)
    assert found.ok, str(found)
    assert not model.own.get_buffer("count").any()


def test_tolerances_are_roundoffs_and_grow_where_sums_cancel() -> None:
    def forced(function: Callable[..., Any]) -> ForcedValue:
        net, x = compiled(_Function(function)), normal(3, 6)
        with opened_for_export(net):
            traced = TracedNet.of(net, (x,), {}, None)
        return ForcedValues.of(traced, {}, [x]).outputs[0]

    plain, cancelled = forced(lambda own, x: own(x)), forced(lambda own, x: own(x) + 1e4 - 1e4)
    assert 2e-6 < plain.tolerance / plain.value.abs().max() < 2e-5
    assert 1e-3 < cancelled.tolerance < 0.1
    assert is_within(plain.value + plain.tolerance / 2, plain)[0]
    assert not is_within(plain.value + 2 * plain.tolerance, plain)[0]
    ends = ForcedValue(torch.tensor([torch.inf, torch.nan, 1.0]), 1e-6)
    assert is_within(ends.value, ends)[0]
    assert not is_within(torch.tensor([3e38, torch.nan, 1.0]), ends)[0]
    assert not is_within(torch.tensor([torch.inf, 0.0, 1.0]), ends)[0]
