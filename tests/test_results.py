"""Results that are stored in a format: names, bits in every backend, rules, what is predicted, and what is chosen."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc import AnalysisOptions, ErrorBudget, Precision, PrecisionPlan, Rule, Uniform
from precc.analysis.analysis import Analysis
from precc.analysis.explanation import explained
from precc.analysis.file_checks import check_entries
from precc.analysis.rounded_sample import errors_of, mean_square_of
from precc.assignment.check_runs import check_runs
from precc.assignment.limits import Limits
from precc.assignment.step_work import step_work
from precc.cost.cost_of_plan import cost_of
from precc.cost.energy import Energy
from precc.cost.memory import Memory
from precc.cost.roofline import Roofline
from precc.errors import AnalysisError, PlanError
from precc.models.gpt import GPT
from precc.models.lenet5 import LeNet5
from precc.models.resnet20 import ResNet20
from precc.target import TARGETS, Target
from tests.few_always import few_always
from tests.nets import Convolutional, Stack, equal, inputs_of, loss_and_gradients

BACKENDS = ("reference", "cpp", "inductor")


class Residual(nn.Module):
    """Two layers, each beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x + self.a(x)
        output: Tensor = hidden + self.b(hidden)
        return output


class Rectified(nn.Module):
    """A perceptron whose operands are results, rectified or as they are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.c(self.b(F.relu(self.a(x))))
        return logits


class _Stored(torch.autograd.Function):
    """A linear layer that stores its result and its gradients in a format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, fmt: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.fmt = fmt
        return precc.round_to(torch.addmm(bias, x, weight.t()), fmt)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        stored = [precc.round_to(own, ctx.fmt) for own in (gradient @ weight, gradient.t() @ x)]
        return *stored, gradient.sum(0), None


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, fmt: str) -> Tensor:
        return precc.round_to(x, fmt)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def by_hand(model: Residual, x: Tensor, fmt: str) -> list[Tensor]:
    """Output and gradients of the residual net with results in a format."""
    hidden = x
    for layer in (model.a, model.b):
        hidden = _Rounded.apply(hidden + _Stored.apply(hidden, layer.weight, layer.bias, fmt), fmt)
    hidden.square().sum().backward()
    return [hidden.detach(), *(_taken(own) for own in model.parameters())]


def _taken(parameter: nn.Parameter) -> Tensor:
    gradient, parameter.grad = parameter.grad, None
    assert gradient is not None
    return gradient


def names(net: Any, *, graph: int = 0) -> list[str]:
    return sorted(own.slot.name for own in net._precc_session.graphs.known[graph].results)


@pytest.mark.parametrize("fmt", ["e4m3", "bfloat16", "e5m2"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bits_of_results_and_gradients_are_those_by_hand(backend: str, fmt: str) -> None:
    model, x = Residual(), torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    wanted = by_hand(model, x, fmt)
    net = precc.compile(model, policy=Uniform("float32", results=fmt), backend=backend)
    output = net(x)
    output.square().sum().backward()
    assert equal([output.detach(), *(_taken(own) for own in model.parameters())], wanted)


@pytest.mark.parametrize("model_class", few_always([Convolutional, Stack], [Convolutional]))
@pytest.mark.parametrize(
    "plan",
    [
        PrecisionPlan("e4m3", default_result="bfloat16"),
        PrecisionPlan("float32", default_result=Precision("e4m3", "stochastic", "tensor")),
        PrecisionPlan("e5m2", default_accumulator="bfloat16", default_result=Precision("e3m4", scaling="channel")),
    ],
    ids=["bfloat16", "stochastic", "sums"],
)
def test_compiled_kernels_store_alike(model_class: type[nn.Module], plan: PrecisionPlan) -> None:
    torch.manual_seed(0)
    model = model_class()
    x = inputs_of(model)
    nets = [precc.compile(model, plan=plan, backend=name) for name in ("reference", "cpp")]
    assert equal(*(loss_and_gradients(net, x, seed=3) for net in nets))


def test_names_are_those_of_the_products_and_of_sums_of_activations() -> None:
    net = precc.compile(Residual())
    net(torch.randn(2, 8)).sum().backward()
    gradients = ["a/product/wgrad.result", "b/product/dgrad.result", "b/product/wgrad.result"]
    forward = ["a/product/fprop.result", "b/product/fprop.result", "add/fprop.result", "add#1/fprop.result"]
    assert names(net) == sorted(gradients + forward)


@pytest.mark.parametrize(
    ("model", "x", "additions"),
    [
        (ResNet20(), torch.randn(2, 3, 32, 32), 9),
        (GPT(layers=2, width=32, heads=2), torch.randint(65, (2, 16)), 4),
        (LeNet5(), torch.randn(2, 1, 28, 28), 0),
    ],
    ids=["resnet20", "gpt", "lenet5"],
)
def test_names_are_the_same_in_training_and_evaluation(model: nn.Module, x: Tensor, additions: int) -> None:
    net = precc.compile(model, backend="reference")
    net(x)
    trained = {own for own in names(net) if "fprop" in own}
    assert len([own for own in trained if "/add" in own or own.startswith("add")]) == additions
    net.eval()
    with torch.no_grad():
        net(x)
    graphs = net._precc_session.graphs.known
    assert {own.slot.name for graph in graphs if not graph.training for own in graph.results} == trained


def test_biases_statistics_and_differences_are_no_sums_of_activations() -> None:
    class Others(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.norm, self.bias = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.fc(x)) + self.bias + 1.0
            return y - y.mean(0, keepdim=True)

    net = precc.compile(Others(), backend="reference")
    net(torch.randn(4, 6)).sum().backward()
    assert names(net) == ["fc/product/fprop.result", "fc/product/wgrad.result"]


def test_fused_attention_stores_what_its_kernel_likes() -> None:
    torch.manual_seed(0)
    net = precc.compile(GPT(layers=1, width=32, heads=2), attention="fused", backend="reference")
    net.set_plan(Uniform("e4m3", results="bfloat16").assign())
    net(torch.randint(65, (2, 16))).sum().backward()
    assert not [own for own in names(net) if "/attention/" in own]


@pytest.mark.parametrize("backend", BACKENDS)
def test_plans_change_while_the_net_lives(backend: str) -> None:
    model, x = Residual(), torch.randn(5, 8)
    net = precc.compile(model, policy=Uniform("float32", results="e4m3"), backend=backend)
    fine, coarse = Uniform("float32").assign(), Uniform("float32", results="e4m3").assign()
    stored = net(x)
    net.set_plan(fine)
    assert torch.equal(net(x), model(x))
    net.set_plan(coarse)
    assert torch.equal(net(x), stored)
    assert net.compilations == 1


def test_graphs_without_their_slots_are_built_again_when_asked() -> None:
    model, x = Residual(), torch.randn(5, 8)
    net = precc.compile(model, backend="reference")
    net(x)
    plan = PrecisionPlan("float32", {"add/fprop.result": "e4m3"})
    with pytest.raises(PlanError, match=r"rounds results, .*recompile=True"):
        net.set_plan(plan)
    assert torch.equal(net(x), model(x))
    net.set_plan(plan, recompile=True)
    hidden = precc.round_to((x + model.a(x)).detach(), "e4m3")
    assert torch.equal(net(x), hidden + model.b(hidden))


def test_a_graph_for_one_plan_alone_has_those_that_it_rounds() -> None:
    model, x = Residual(), torch.randn(5, 8)
    plan = PrecisionPlan("float32", {"add/fprop.result": "e4m3"})
    net = precc.compile(model, plan=plan, live=False, backend="reference")
    hidden = precc.round_to((x + model.a(x)).detach(), "e4m3")
    assert torch.equal(net(x), hidden + model.b(hidden))


def test_copies_keep_their_slots() -> None:
    model, x = Residual(), torch.randn(5, 8)
    net = precc.compile(model, policy=Uniform("float32", results="e4m3"), backend="reference")
    other = copy.deepcopy(net)
    assert torch.equal(other(x), net(x))


def test_stochastic_results_draw_again_and_repeat_with_the_seed() -> None:
    net = precc.compile(
        Residual(), policy=Uniform("float32", results=Precision("e4m3", "stochastic")), backend="reference"
    )
    x = torch.randn(5, 8)
    torch.manual_seed(1)
    first, second = net(x), net(x)
    torch.manual_seed(1)
    assert torch.equal(net(x), first)
    assert not torch.equal(first, second)


def test_delayed_scales_of_results_come_from_their_history() -> None:
    delayed = precc.Scaling("tensor", history=4, scale_format="float32")
    net = precc.compile(
        Residual(), policy=Uniform("float32", results=Precision("e4m3", scaling=delayed)), backend="reference"
    )
    x = torch.randn(5, 8)
    net(x).sum().backward()
    record = net.precision_state()["amax"]
    assert set(record) == set(names(net))
    assert record["add/fprop.result"] == [pytest.approx(float((x + net.a(x)).detach().abs().max()), rel=0.1)]


# rules and plans


def test_a_rule_for_results_names_them() -> None:
    plan = PrecisionPlan("e4m3", rules=[Rule("a", operand="result", format="bfloat16"), Rule("*", format="e5m2")])
    assert str(plan.precision("a/product/fprop.result")) == "bfloat16"
    assert str(plan.precision("a/product/fprop.weight")) == "float8_e5m2"
    assert not plan.precision("b/product/fprop.result").changes(torch.float64)
    model, x = Residual(), torch.randn(3, 8)
    net = precc.compile(model, rules=[Rule("add", operand="result", format="e4m3", required=False)], backend="cpp")
    assert torch.equal(net(x), model(x))
    with pytest.raises(PlanError, match="decides no slot"):
        precc.compile(LeNet5(), rules=[Rule("fc1", role="dgrad_a", operand="result", format="e4m3")])(
            torch.randn(1, 1, 28, 28)
        )


def test_plans_keep_them_in_json_and_say_so() -> None:
    plan = PrecisionPlan("e4m3", {"add/fprop.result": "e5m2"}, default_result=Precision("bf16", "stochastic"))
    assert PrecisionPlan.from_json(plan.to_json()) == plan
    plain = PrecisionPlan("e4m3")
    assert "default_result" not in plain.to_json()
    assert plan != plain
    assert hash(plan) != hash(plain)
    assert str(plan).splitlines() == [
        "plan: float8_e4m3fn in every slot, results in bfloat16 stochastic but:",
        "  add/fprop.result  float8_e5m2",
    ]
    assert str(plain.diff(plan)).splitlines() == [
        "add/fprop.result: as stored -> float8_e5m2",
        "*.result: as stored -> bfloat16 stochastic",
    ]
    assert plan.average_bits == 8
    assert Uniform("e4m3", results="bf16").assign() == PrecisionPlan("e4m3", default_result="bfloat16")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"c/product/fprop.result": "e4m3"}, "names 1 slot"),
        ({"a/product/fprop.results": "e4m3"}, "names 1 slot"),
        ({"a/product/fprop.result": Precision("e4m3", transform="hadamard")}, "transforms are of operands"),
    ],
)
def test_plans_that_do_not_fit(plan: dict[str, Any], message: str) -> None:
    net = precc.compile(Residual(), policy=Uniform("float32", results="e4m3"), backend="reference")
    x = torch.randn(3, 8)
    net(x)
    with pytest.raises(PlanError, match=message):
        net.set_plan(PrecisionPlan("float32", plan))
    net(x)


def test_the_report_and_the_export_name_them(tmp_path: Path) -> None:
    net = precc.compile(Residual(), policy=Uniform("e4m3", results="bfloat16"), backend="reference")
    x = torch.randn(3, 8)
    net(x).sum().backward()
    report = net.report()
    assert "float8_e4m3fn, stored bfloat16" in report.text(200)
    assert "10 slots and 7 results" in report.notes[0]
    assert [row.op for row in net.report().rows if row.layer == ""] == ["add", "add#1"]
    onnx = pytest.importorskip("onnx")
    precc.export_onnx(net, (x,), tmp_path / "net.onnx")
    nodes = onnx.load(tmp_path / "net.onnx").graph.node
    found = [entry.value for node in nodes for entry in node.metadata_props if entry.key == "precc.fprop.result"]
    assert found == ["bfloat16"] * 4  # two products, two sums


# what is predicted


def analysed(model: nn.Module, x: Tensor, **options: Any) -> Analysis:
    y = torch.arange(len(x)) % 10
    net: Any = precc.compile(model, backend="reference")
    found: Analysis = net.analyze(
        x, loss=lambda output: F.cross_entropy(output, y), options=AnalysisOptions(results=True, **options)
    )
    return found


@pytest.fixture(scope="module")
def lenet5() -> Analysis:
    torch.manual_seed(0)
    return analysed(LeNet5(), torch.randn(48, 1, 28, 28), probes=8)


@pytest.fixture(scope="module")
def rectified() -> Analysis:
    return analysed(Rectified(), torch.randn(64, 12, generator=torch.Generator().manual_seed(0)), probes=8)


@pytest.mark.parametrize(
    "results", ["bfloat16", Precision("e4m3", scaling="tensor"), Precision("e5m4", "stochastic", "tensor")], ids=str
)
@pytest.mark.parametrize("operands", ["float32", "bfloat16"])
def test_predictions_are_what_is_measured(lenet5: Analysis, operands: str, results: Any) -> None:
    plan = PrecisionPlan(operands, default_result=results)
    predicted, measured = lenet5.predict(plan), lenet5.measure(plan, 20)
    assert 1 / 1.5 < measured.gradient / predicted.gradient < 1.5
    assert 1 / 2.5 < measured.loss / predicted.loss < 2.5


def test_a_residual_stream_is_predicted() -> None:
    torch.manual_seed(0)
    found = analysed(ResNet20(), torch.randn(16, 3, 32, 32), probes=8)
    stream = {name: "e4m5" for name in found.results if "/add/" in name}
    assert len(stream) == 9
    plan = PrecisionPlan("float32", stream)
    predicted, measured = found.predict(plan), found.measure(plan, 10)
    assert 1 / 1.6 < measured.gradient / predicted.gradient < 1.6


@pytest.mark.parametrize(
    ("precision", "repeated"),
    [
        (Precision("e4m3"), {"b/product/fprop.input", "c/product/fprop.input"}),
        (Precision("e4m3", scaling="tensor"), {"c/product/fprop.input"}),
        (Precision("e4m3", scaling="channel"), set()),
    ],
    ids=["plain", "tensor", "channel"],
)
def test_what_was_rounded_when_it_was_stored_is_not_rounded_again(
    rectified: Analysis, precision: Precision, repeated: set[str]
) -> None:
    samples = rectified.findings.sensitivities.samples
    plan = PrecisionPlan(precision, default_result=precision)
    slots = [slot for sample in samples for slot in sample.slots]
    again = {slot.name for slot in slots if not slot.rounded_in(plan).changes(torch.float32)}
    assert {name for name in again if "fprop" in name} == repeated
    both = PrecisionPlan("float32", {name: precision for name in ("b/product/fprop.result", "c/product/fprop.input")})
    alone = PrecisionPlan("float32", {"b/product/fprop.result": precision})
    if "c/product/fprop.input" in repeated:
        assert rectified.predict(both) == rectified.predict(alone)
        measured = [rectified.measure(plan, 5).gradient for plan in (both, alone)]
        assert measured[0] == pytest.approx(measured[1], rel=1e-4)


def test_an_analysis_without_results_says_how_to_get_them(rectified: Analysis, tmp_path: Path) -> None:
    net: Any = precc.compile(Rectified(), backend="reference")
    without = net.analyze(torch.randn(4, 12), loss=lambda output: output.square().mean())
    for use in (without.predict, without.measure, without.contributions):
        with pytest.raises(AnalysisError, match="results=True"):
            use(PrecisionPlan("float32", default_result="e4m3"))
    with pytest.raises(AnalysisError, match="results=True"):
        ErrorBudget(loss=1e-2, gradient=0.1, results=True).assign(without)
    with pytest.raises(AnalysisError, match="True or False"):
        AnalysisOptions(results="all")  # type: ignore[arg-type]
    rectified.save(tmp_path / "a.precc")
    plan = PrecisionPlan("bfloat16", default_result="bfloat16")
    loaded = Analysis.load(tmp_path / "a.precc")
    assert loaded.predict(plan).gradient == pytest.approx(rectified.predict(plan).gradient, rel=1e-5)
    assert loaded.results == rectified.results


def test_results_are_explained(rectified: Analysis) -> None:
    text = explained(rectified, "b/fprop.result", PrecisionPlan("e4m3", default_result="bfloat16"))
    assert text.startswith("b/product/fprop.result: bfloat16\n")
    assert "16 bits for 1,024 results, which the backward reads" in text
    assert explained(rectified, "c/fprop.result", PrecisionPlan("e4m3")).startswith("c/product/fprop.result: float32\n")


def test_operands_stay_what_they_are(rectified: Analysis) -> None:
    assert not [name for name in rectified.operands if name.endswith(".result")]
    assert set(rectified.multiply_adds) == set(rectified.operands)
    saved = {name for name in rectified.results if rectified.records[name].saved}
    # what a rectifier's backward reads, and what a wgrad reads as its input
    assert saved == {"a/product/fprop.result", "b/product/fprop.result"}


# what is chosen


def bits(plan: PrecisionPlan) -> dict[str, float]:
    return {name: own.bits for name, own in plan.slots.items() if name.endswith(".result")}


def test_memory_counts_what_is_stored_once(rectified: Analysis) -> None:
    work = step_work(rectified)
    weights = 12 * 16 + 16 * 16 + 16 * 10
    base = weights * (4 + 8)
    # saved: input of a (12), result of a and of b (16 each), in float32; operands in the same precision read these
    assert cost_of(PrecisionPlan("float32"), work, Memory()).value == base + 64 * (12 + 16 + 16) * 4
    stored = PrecisionPlan("float32", default_result="bfloat16")
    assert cost_of(stored, work, Memory()).value == base + 64 * 12 * 4 + 64 * (16 + 16) * 2
    alike = PrecisionPlan("bfloat16", default_result="bfloat16")
    assert cost_of(alike, work, Memory()).value == base + weights * 2 + 64 * (12 + 16 + 16) * 2


@pytest.mark.parametrize("cost", [Memory(), Energy()], ids=lambda own: type(own).__name__)
@pytest.mark.parametrize("share", ["nothing", "tensor"])
def test_plans_keep_the_budget_and_choose_results(rectified: Analysis, share: str, cost: Any) -> None:
    policy = ErrorBudget(loss=1e-2, gradient=0.05, results=True, share=share)
    plan = policy.assign(rectified, cost=cost)
    assert plan.predicted_error is not None
    assert plan.predicted_error.gradient <= 0.05
    assert set(bits(plan)) <= set(rectified.results)
    assert bits(plan)
    assert plan.cost == cost_of(plan, step_work(rectified), cost)
    measured = rectified.measure(plan, 20)
    assert measured.gradient < 0.05 * 1.4


def test_choices_are_the_best_there_are() -> None:
    """Of one layer, against all plans."""
    torch.manual_seed(4)
    found = analysed(nn.Linear(12, 10), torch.randn(32, 12), probes=8)
    candidates = [Precision(own) for own in ("e5m2", "bfloat16", "float32")]
    policy = ErrorBudget(loss=1e-2, gradient=0.02, results=True, candidates=candidates)
    own = policy.assign(found, cost=Energy())
    slots = (*found.operands, *found.results)
    work = step_work(found)
    costs = []
    for choice in itertools.product(candidates, repeat=len(slots)):
        plan = PrecisionPlan("float32", dict(zip(slots, choice, strict=True)))
        error = found.predict(plan)
        if error.gradient <= 0.02 and math.hypot(error.loss_mean, error.loss) <= 1e-2:
            costs.append(cost_of(plan, work, Energy()).value)
    assert own.cost is not None
    assert own.cost.value <= min(costs) * 1.01


def test_results_are_not_chosen_unless_asked_for(rectified: Analysis) -> None:
    plan = ErrorBudget(loss=1e-2, gradient=0.05).assign(rectified, cost=Memory())
    assert not bits(plan)
    assert not plan.rounds_results
    assert plan.cost == cost_of(plan, step_work(rectified), Memory())


def test_a_target_stores_what_it_has_a_format_and_a_scale_for(rectified: Analysis) -> None:
    target = TARGETS["sm_90"]
    legal = [Precision("e4m3"), Precision("bf16"), Precision("float32"), Precision("e4m3", scaling=_static())]
    legal.append(Precision("e5m2", scaling=precc.Scaling("tensor", history=16)))
    assert not any(map(target.result_problem, legal))
    illegal = {
        Precision("e2m1"): "stores no float4_e2m1fn",
        Precision("e4m3", scaling="tensor"): "scales that are known before",
        Precision("e4m3", scaling="channel"): "scales that are known before",
        Precision("bf16", "stochastic"): "rounds operands to nearest even",
    }
    for own, message in illegal.items():
        assert message in target.result_problem(own)
        assert not TARGETS["cpu-emulated"].result_problem(own)
    for share in ("nothing", "tensor"):
        policy = ErrorBudget(loss=1e-2, gradient=0.2, results=True, share=share)
        plan = policy.assign(rectified, cost=Memory(), target="sm_90")
        own = [plan.precision(name) for name in rectified.results]
        assert not any(map(target.result_problem, own))


def _static() -> precc.Scaling:
    return precc.Scaling("static", value=0.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PrecisionPlan("bf16", default_result="e2m1"),
        lambda: PrecisionPlan("bf16", {"a/product/fprop.result": "e2m1"}),
        lambda: PrecisionPlan("bf16", rules=[Rule(operand="result", format="e2m1")]),
    ],
)
def test_plans_are_checked_for_what_a_target_stores(rectified: Analysis, make: Callable[[], PrecisionPlan]) -> None:
    work = step_work(rectified)
    check_runs(make(), work, TARGETS["cpu-emulated"])
    with pytest.raises(PlanError, match=r"result.*sm_90 stores no float4_e2m1fn"):
        check_runs(make(), work, TARGETS["sm_90"])


def test_the_roofline_reads_results_back_in_their_own_width(rectified: Analysis) -> None:
    model = Roofline("H100-SXM-published", fused=True)
    (tensor,) = (own for own in step_work(rectified).tensors if own.result and "a/product/fprop" in own.result.name)
    large = replace(tensor, elements=10**9, slots=tuple(slot for slot in tensor.slots if slot.is_result))
    wide, narrow = (model.copy(large, Precision(own)) for own in ("bfloat16", "e4m3"))
    assert wide / narrow == pytest.approx(2, rel=0.01)
    # with operands of both dimensions, 8-bit values are laid out once more: read and written
    both = replace(tensor, elements=10**9)
    assert model.copy(both, Precision("e4m3")) == pytest.approx(3 * narrow, rel=0.02)
    assert model.copy(both, Precision("bfloat16")) == pytest.approx(wide, rel=0.01)


# what others may get wrong


class Positions(nn.Module):
    """Embedded positions, which are no activation whatever the length, beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.positions, self.a = nn.Embedding(32, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x + self.positions(torch.arange(x.shape[0]))
        output: Tensor = hidden + self.a(hidden)
        return output


class Centred(nn.Module):
    """A sum of two shapes, which a batch of one makes alike."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(x)
        return y + y.mean(0, keepdim=True) + x


@pytest.mark.parametrize(("model", "sizes", "additions"), [(Positions, (5, 6, 1), 1), (Centred, (4, 1), 2)])
@pytest.mark.parametrize("dynamic", [None, True])
def test_names_do_not_depend_on_sizes(
    model: type[nn.Module], sizes: tuple[int, ...], additions: int, dynamic: bool | None
) -> None:
    name = "add/fprop.result" if additions == 1 else "add#1/fprop.result"
    net = precc.compile(model(), plan=PrecisionPlan("float32", {name: "e4m3"}), backend="reference", dynamic=dynamic)
    for size in sizes:
        output = net(torch.randn(size, 8)).detach()
        assert torch.equal(output, precc.round_to(output, "e4m3"))
    for graph in net._precc_session.graphs.known:
        assert len([own for own in graph.results if own.slot.family == "add"]) == additions


def test_masks_are_no_activations() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.fc = nn.Embedding(16, 8), nn.Linear(8, 8)

        def forward(self, tokens: Tensor, keep: Tensor) -> Tensor:
            hidden = self.fc(self.table(tokens)) + (1 - keep[:, :, None].float()) * -1e4
            output: Tensor = hidden + self.fc(hidden)
            return output

    net = precc.compile(Masked(), backend="reference")
    net(torch.randint(16, (2, 5)), torch.ones(2, 5, dtype=torch.long)).sum().backward()
    assert [own for own in names(net) if own.startswith("add")] == ["add/fprop.result"]


def test_a_bias_that_is_added_to_a_view_is_part_of_the_result() -> None:
    model = nn.Linear(8, 8)
    net = precc.compile(model, plan=PrecisionPlan("float32", default_result="e4m3"), backend="reference")
    for x in (torch.randn(2, 4, 8), torch.randn(2, 8, 4).transpose(1, 2)):
        output = net(x).detach()
        torch.testing.assert_close(output, precc.round_to(model(x).detach(), "e4m3"), rtol=0.07, atol=0.01)
        assert torch.equal(output, precc.round_to(output, "e4m3"))


@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_sizes_that_depend_on_data() -> None:
    class Selected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.a(x[x[:, 0] > 0])
            output: Tensor = hidden + hidden.mean(0, keepdim=True)
            return output

    net = precc.compile(Selected(), policy=Uniform("float32", results="e4m3"), backend="reference")
    output = net(torch.randn(16, 8)).detach()
    assert torch.equal(output, precc.round_to(output, "e4m3"))


def test_channels_of_convolutions_and_of_their_gradients() -> None:
    net = precc.compile(Convolutional(), backend="reference")
    loss_and_gradients(net, inputs_of(Convolutional()))
    own = {result.slot.name: result for graph in net._precc_session.graphs.known for result in graph.results}
    channels = {name: own[f"grouped/product/{name}.result"].channel for name in ("fprop", "dgrad", "wgrad")}
    assert channels == {"fprop": 1, "dgrad": 1, "wgrad": 0}
    assert own["head/product/wgrad.result"].channel == 1


def test_what_is_kept_is_stored_as_it_is() -> None:
    rules = [Rule("a", keep="fp32")]
    net = precc.compile(Residual(), policy=Uniform("e4m3", results="bf16"), rules=rules, backend="reference")
    net(torch.randn(3, 8)).sum().backward()
    (row,) = (own for own in net.report().rows if own.layer == "a")
    assert row.formats[0] == "float32"
    plan = PrecisionPlan("e4m3", rules=[Rule("a", operand="result", format="bf16"), *rules])
    assert str(plan.precision("a/product/fprop.result")) == "bfloat16"
    assert PrecisionPlan("e4m3", default_result="float64") == PrecisionPlan("e4m3")


def test_the_report_counts_what_a_rule_decides() -> None:
    rules = [Rule("b", operand="result", format="bf16")]
    net = precc.compile(Residual(), rules=rules, backend="reference")
    net(torch.randn(3, 8)).sum().backward()
    assert f"{rules[0]} decides 3 results" in str(net.report())


def test_a_rule_that_means_a_sum_is_told_how() -> None:
    net = precc.compile(Residual(), rules=[Rule("*", family="add", format="bf16")], backend="reference")
    with pytest.raises(PlanError, match=r"for results, such as 'add.*operand=\"result\""):
        net(torch.randn(3, 8)).sum().backward()


def test_the_loss_has_no_results() -> None:
    net: Any = precc.compile(nn.Linear(12, 10), backend="reference")
    found = net.analyze(
        torch.randn(4, 12), loss=lambda y: (y + y.sin()).square().mean(), options=AnalysisOptions(results=True)
    )
    assert set(found.results) == {"product/fprop.result", "product/wgrad.result"}


def test_scales_of_results_in_the_plan_of_a_net_can_be_predicted() -> None:
    plan = PrecisionPlan("float32", default_result=Precision("e4m3", scaling="channel"))
    net: Any = precc.compile(Rectified(), plan=plan, backend="reference")
    options = AnalysisOptions(results=True, probes=8)
    found = net.analyze(torch.randn(32, 12), loss=lambda output: output.square().mean(), options=options)
    assert found.predict(plan).gradient == pytest.approx(found.measure(plan, 10).gradient, rel=0.4)


def test_near_zero_a_float_errs_little_and_a_fixed_point_as_much_as_elsewhere(rectified: Analysis) -> None:
    (sample,) = (
        own for own in rectified.findings.sensitivities.samples if own.slots[0].name == "a/product/fprop.result"
    )
    for fmt, low, high in (("float16", 0.0, 0.01), ("fixed16.12", 0.5, 2.0)):
        found = mean_square_of(sample, errors_of(sample, sample.slots[0], Precision(fmt)))
        assert low <= found.near_zero / found.usual <= high


def test_rectified_results_with_scales_of_their_own_are_two_copies(rectified: Analysis) -> None:
    work, scaled = step_work(rectified), precc.scaled("e4m3")
    base = cost_of(PrecisionPlan("float32"), work, Memory()).value
    stored = {"a/product/fprop.result": scaled}
    shown = {f"b/product/{role}.input": scaled for role in ("fprop", "wgrad")}
    values = 64 * 16
    assert cost_of(PrecisionPlan("float32", stored), work, Memory()).value == base - values * 3
    # after the rectifier the largest magnitude is another one: the operand is rounded again, and kept beside
    assert cost_of(PrecisionPlan("float32", {**stored, **shown}), work, Memory()).value == base - values * 2
    plain = {name: Precision("e4m3") for name in (*stored, *shown)}
    assert cost_of(PrecisionPlan("float32", plain), work, Memory()).value == base - values * 3


@pytest.mark.parametrize("share", ["nothing", "tensor"])
def test_what_the_problem_adds_up_is_what_plans_cost(rectified: Analysis, share: str) -> None:
    for name in ("e4m3", "bfloat16", "float32"):
        candidates = [precc.scaled(name)]
        policy = ErrorBudget(gradient=1e9, results=True, share=share, candidates=candidates)
        assigner = policy.assigner(rectified, cost=Memory())
        tables = assigner.tables
        problem = tables.problem(tables.choices.uniform, Limits(gradient=1e9))
        found = assigner.solver.solve(problem)
        plan = assigner.plan_of(found.choices)
        assert found.cost + tables.fixed == pytest.approx(assigner.cost_of(plan))


def test_shared_precisions_round_once(rectified: Analysis) -> None:
    """The errors of a group's slots by themselves are those of the group."""
    candidates = [Precision("e4m3"), Precision("bfloat16")]
    policy = ErrorBudget(gradient=1e9, results=True, share="tensor", candidates=candidates)
    errors = policy.assigner(rectified, cost=Memory()).choices.errors
    row = errors.names.index("b/product/fprop.input")
    assert errors.gradients[row].tolist()[:2] == [0.0, 0.0]
    assert errors.gradients[errors.names.index("a/product/fprop.result"), :2].min() > 0


def test_rules_on_results_count_though_none_are_chosen(rectified: Analysis) -> None:
    rules = [Rule(operand="result", format="bf16")]
    plan = ErrorBudget(gradient=0.2).assign(rectified, cost=Memory(), rules=rules)
    assert plan.cost == cost_of(plan, step_work(rectified), Memory())
    assert set(bits(plan).values()) == {16.0}
    illegal = [Rule(operand="result", format="e2m1")]
    for policy in (ErrorBudget(gradient=1e9), ErrorBudget(gradient=1e9, results=True)):
        with pytest.raises(PlanError, match="sm_90 stores no float4_e2m1fn"):
            policy.assign(rectified, cost=Memory(), target="sm_90", rules=illegal)


def test_costs_that_say_nothing_of_results(rectified: Analysis) -> None:
    with pytest.raises(PlanError, match="no price for results"):
        ErrorBudget(gradient=0.1, results=True).assign(rectified)
    with pytest.raises(PlanError, match="results cost none"):
        precc.BitBudget(6, results=True)


def test_a_target_does_not_tie_operands_to_what_it_stores(rectified: Analysis) -> None:
    policy = ErrorBudget(gradient=1.0, results=True, share="tensor", candidates=["e4m3", "bf16", "float32"])
    plan = policy.assign(rectified, cost=Energy(dram=1e-15), target=TARGETS["sm_90"])
    assert any(own.scaling is not None for own in plan.slots.values())


def test_a_target_may_not_have_what_tensors_are_in(rectified: Analysis) -> None:
    narrow = Target("narrow", pairs=[("bf16", "bf16")])
    plan = ErrorBudget(gradient=1.0, candidates=["bf16"]).assign(rectified, cost=Memory(), target=narrow)
    assert not bits(plan)
    check_runs(plan, step_work(rectified), narrow)


def test_edited_sources_are_refused(rectified: Analysis) -> None:
    found = rectified.findings.sensitivities
    sample = next(own for own in found.samples if own.slots[0].source is not None)
    source = replace(sample.slots[0].source, slot="nowhere/product/fprop.result")
    slots = (replace(sample.slots[0], source=source), *sample.slots[1:])
    samples = tuple(replace(own, slots=slots) if own is sample else own for own in found.samples)
    edited = replace(rectified.findings, sensitivities=replace(found, samples=samples))
    with pytest.raises(AnalysisError, match=r"source.slot is 'nowhere/product/fprop.result'"):
        check_entries(rectified.records, edited)
