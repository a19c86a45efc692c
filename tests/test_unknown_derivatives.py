"""Operators without a derivative: an analysis goes on, and says of which slots it does not know all."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import precc
from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.unknown_slots import UnknownSlots
from precc.annotations import NodeRecord, Product, products_of, roundings_of
from precc.errors import PrecisionWarning
from precc.models.lenet5 import LeNet5

PLAN = precc.PrecisionPlan("e8m5")

#: Of a net of two layers with an operator between them, the slots in front of it, and those of which the gradient that
#: comes back to it depends too.
FIRST = tuple(f"a/product/fprop.{name}" for name in ("input", "weight", "accumulator"))
SECOND = tuple(f"b/product/fprop.{name}" for name in ("input", "weight", "accumulator"))
BACK = tuple(f"b/product/dgrad.{name}" for name in ("grad_output", "weight", "accumulator"))


@torch.library.custom_op("precc_tests::sine_backward", mutates_args=())
def sine_backward(gradient: Tensor, x: Tensor) -> Tensor:
    assert x.dtype is torch.float32, "as kernels of others, it has one dtype"
    return gradient * x.cos()


@torch.library.custom_op("precc_tests::sine", mutates_args=())
def sine(x: Tensor) -> Tensor:
    """Its backward is an operator without a derivative."""
    return x.sin()


@torch.library.custom_op("precc_tests::plain_sine_backward", mutates_args=())
def plain_sine_backward(gradient: Tensor, x: Tensor) -> Tensor:
    return gradient * x.cos()


@torch.library.custom_op("precc_tests::plain_sine", mutates_args=())
def plain_sine(x: Tensor) -> Tensor:
    """Its backward has a derivative."""
    return x.sin()


@torch.library.custom_op("precc_tests::shifted", mutates_args=())
def shifted(x: Tensor, y: Tensor) -> Tensor:
    """Its backward gives nothing for the second argument."""
    return x + y.cos()


@torch.library.custom_op("precc_tests::noisy", mutates_args=())
def noisy(x: Tensor) -> Tensor:
    return x.abs() + torch.rand_like(x)


@torch.library.custom_op("precc_tests::into", mutates_args={"out"})
def into(x: Tensor, out: Tensor) -> None:
    out.copy_(x.cos())


def _kept(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


for operator in (sine_backward, plain_sine_backward):
    operator.register_fake(lambda gradient, x: torch.empty_like(x))
for operator in (sine, plain_sine, noisy):
    operator.register_fake(lambda x: torch.empty_like(x))
shifted.register_fake(lambda x, y: torch.empty_like(x))
into.register_fake(lambda x, out: None)
sine.register_autograd(lambda ctx, g: sine_backward(g, *ctx.saved_tensors), setup_context=_kept)
plain_sine.register_autograd(lambda ctx, g: plain_sine_backward(g, *ctx.saved_tensors), setup_context=_kept)
plain_sine_backward.register_autograd(
    lambda ctx, g: (g * ctx.saved_tensors[1].cos(), -g * ctx.saved_tensors[0] * ctx.saved_tensors[1].sin()),
    setup_context=_kept,
)
shifted.register_autograd(lambda ctx, g: (g, None))

_LIBRARY = torch.library.Library("precc_tests_hidden", "DEF")
_LIBRARY.define("cosine(Tensor x) -> Tensor")
_LIBRARY.impl("cosine", lambda x: torch.from_numpy(x.detach().numpy()).cos(), "CPU")
torch.library.register_fake("precc_tests_hidden::cosine", lambda x: torch.empty_like(x), lib=_LIBRARY)


def between(kind: str, x: Tensor) -> Tensor:
    if kind == "sine":
        return sine(x)
    if kind == "plain sine":
        return plain_sine(x)
    if kind == "shifted":
        return shifted(x, x)
    if kind == "distances":
        return torch.cdist(x, x + 1, p=3.0)
    with torch.no_grad():
        if kind == "noisy":
            factor = noisy(x)
        elif kind == "hidden":
            factor = torch.ops.precc_tests_hidden.cosine(x)
        else:
            factor = torch.zeros_like(x)
            into(x, factor)
    return x * factor


class Between(nn.Module):
    """Two layers with an operator between them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.a, self.b = kind, nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(between(self.kind, self.a(x)))
        return logits


def square(output: Tensor) -> Tensor:
    return output.square().mean()


def inputs() -> Tensor:
    return torch.randn(12, 12, generator=torch.Generator().manual_seed(1))


def compiled(kind: str) -> Any:
    torch.manual_seed(0)
    return precc.compile(Between(kind), backend="reference")


def analysed(net: Any, **options: Any) -> Analysis:
    with pytest.warns(PrecisionWarning, match="do past an operator without a derivative"):
        found: Analysis = net.analyze(inputs(), loss=square, options=AnalysisOptions(**options))
    return found


@pytest.mark.parametrize(
    ("kind", "operator", "expected"),
    [
        ("sine", "precc_tests.sine_backward", UnknownSlots((), (*FIRST, *SECOND, *BACK))),
        ("distances", "aten._cdist_backward", UnknownSlots((), (*FIRST, *SECOND, *BACK))),
        ("noisy", "precc_tests.noisy", UnknownSlots(FIRST, FIRST)),
        ("shifted", "precc_tests.shifted", UnknownSlots(FIRST, FIRST)),
        ("into", "auto_functionalized_v2", UnknownSlots(FIRST, FIRST)),
    ],
)
def test_what_is_not_known_is_said(kind: str, operator: str, expected: UnknownSlots) -> None:
    found = analysed(compiled(kind))
    assert found.findings.sensitivities.unknown_slots == expected
    for own in found.findings.unknown:
        assert own.where.startswith(f"{operator} of the net itself, test_unknown_derivatives.py:")
    for name, record in found.records.items():
        assert record.unknown == expected.of(name)
    predicted, measured = found.predict(PLAN), found.measure(PLAN, 4)
    operands = UnknownSlots(
        *(tuple(n for n in own if n in found.operands) for own in (expected.loss, expected.gradient))
    )
    assert predicted.unknown == operands
    assert not measured.unknown
    assert predicted.gradient > 0
    assert measured.gradient > 0


@pytest.mark.filterwarnings("ignore:.*an autograd kernel was not registered")
def test_a_kernel_that_hides_what_it_does() -> None:
    assert analysed(compiled("hidden")).findings.sensitivities.unknown_slots == UnknownSlots(FIRST, FIRST)


def test_the_known_part_is_that_of_the_other_paths() -> None:
    """The loss is that of the same net in plain operators, and so is the gradient of slots behind the operator."""
    found = analysed(compiled("sine"))
    plain = compiled("plain sine").analyze(inputs(), loss=square)
    assert not plain.findings.unknown
    assert not plain.predict(PLAN).unknown
    assert found.predict(PLAN).loss == pytest.approx(plain.predict(PLAN).loss)
    behind = precc.PrecisionPlan("float64", {"a/product/wgrad.grad_output": "e8m5", "b/product/wgrad.input": "e8m5"})
    assert found.predict(behind).gradient == pytest.approx(plain.predict(behind).gradient, rel=0.1)
    assert not found.predict(behind).unknown
    before = precc.PrecisionPlan("float64", {"b/product/dgrad.weight": "e8m5"})
    assert found.predict(before).gradient == 0.0
    assert found.predict(before).unknown
    assert plain.predict(before).gradient > 0


def test_estimates_and_explanations_say_so(tmp_path: Path) -> None:
    net = compiled("sine")
    found = analysed(net)
    assert str(found.predict(PLAN)).endswith(
        "; partial in the gradient, for 6 slots act past operators without derivative: measure it"
    )
    shares = found.contributions(PLAN)
    assert shares["b/product/fprop.weight"].unknown == UnknownSlots((), ("b/product/fprop.weight",))
    assert not shares["b/product/wgrad.input"].unknown
    assert "unknown      what reaches the gradient through precc_tests.sine_backward" in net.explain("b/fprop.weight")
    assert "unknown" in net.explain("b/fprop.accumulator")
    assert "unknown" not in net.explain("b/wgrad.input")
    found.save(tmp_path / "step.precc")
    loaded = Analysis.load(tmp_path / "step.precc")
    assert loaded.findings.unknown == found.findings.unknown
    assert loaded.records == found.records
    assert loaded.predict(PLAN).unknown == found.predict(PLAN).unknown


def test_a_slot_whose_every_path_is_unknown_still_contributes() -> None:
    found = analysed(compiled("into"))
    weight = precc.PrecisionPlan("float64", {"a/product/fprop.weight": "e8m5"})
    assert found.contributions(weight)["a/product/fprop.weight"].unknown.loss
    sums = analysed(compiled("into"), sums=16)
    rounded = precc.PrecisionPlan("float64", accumulators={"a/product/fprop.accumulator": "bf16"})
    assert sums.predict(rounded).unknown == UnknownSlots(FIRST[2:], FIRST[2:])


def test_groups_of_which_not_all_is_known_are_not_corrected() -> None:
    net = compiled("sine")
    ratios = analysed(net).calibrate(PLAN, 3)
    assert {"wgrad.input", "wgrad.grad_output"} == set(ratios)
    record = net.precision_state()["calibration"]
    assert set(record["fprop.weight"]) == {"loss"}


def nodes_with_numbers(found: Analysis) -> list[Any]:
    def real(value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype.is_floating_point

    nodes = [node for node in found.step.graph.graph.nodes if node.op == "call_function"]
    return [node for node in nodes if any(map(real, tree_leaves(node.meta["val"])))]


def test_every_node_has_a_record() -> None:
    torch.manual_seed(0)
    net: Any = precc.compile(LeNet5(), backend="reference")
    x = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    found: Analysis = net.analyze(x, loss=square)
    gains = {own.name: own for own in found.findings.gains.nodes}
    names, products = set(), set()
    for node in nodes_with_numbers(found):
        record = node.meta["precc"]
        if node.target is torch.ops.precc.round.default:
            assert record is found.records[record.slot.name]
            continue
        assert record.condition is found.findings.conditions[node.name]
        assert record.gained is gains.get(node.name)
        assert record.unknown is None
        names.add(node.name)
        products |= {record.annotation.op} if isinstance(record.annotation, Product) else set()
    assert {"relu", "threshold_backward"} <= names
    assert products == {f"{name}/product" for name in ("conv1", "conv2", "fc1", "fc2", "fc3")}


def test_what_the_passes_noted_is_found_behind_the_records() -> None:
    torch.manual_seed(0)
    net: Any = precc.compile(LeNet5(), backend="reference")
    x = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    found: Analysis = net.analyze(x, loss=square)
    graph = found.step.graph.graph
    assert [slot.name for _, slot in roundings_of(graph)] == list(found.operands)
    assert [own.slot.name for _, product in products_of(graph) for own in product.operands] == list(found.operands)
    assert found.measure(precc.Uniform("bf16", accumulator="bf16").assign(), 2).gradient > 0


def test_magnitudes_and_missing_derivatives_of_nodes() -> None:
    found = analysed(compiled("noisy"))
    records = {str(node.target): node.meta["precc"] for node in nodes_with_numbers(found)}
    operator, product = records["precc_tests.noisy.default"], records["aten.mm.default"]
    assert isinstance(operator, NodeRecord)
    assert operator.unknown is found.findings.unknown[0]
    assert 0.5 < operator.rms < 2
    assert product.unknown is None
    assert math.isnan(product.rms)  # of the backward
