"""Condition numbers of components against their definition, and the policy that thresholds them."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc import FirstLastHigh, PrecisionPlan, ProductArithmetic, Rule, Threshold, TwoPasses, recomputed
from precc.analysis.analysis import Analysis
from precc.analysis.component_conditions import ComponentConditions
from precc.condition_numbers import activation_condition
from precc.errors import AnalysisError, FormatError, PlanError
from precc.models.lenet5 import LeNet5
from precc.slots import Role

LOW, HIGH = ProductArithmetic("e4m3", "e5m10"), ProductArithmetic("bf16", "float32")
DRAWING = ProductArithmetic(precc.Precision("e4m3", "stochastic"), "e5m10")


class Branches(nn.Module):
    """Products that are followed by all kinds of things."""

    def __init__(self) -> None:
        super().__init__()
        self.tanh_after_view, self.two_readers, self.approximate = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(12, 8)
        self.gelu, self.silu, self.nothing = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(12, 8)
        self.both_tanh = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.tanh(self.tanh_after_view(x).view(-1, 2, 4)).flatten(1)
        y = self.two_readers(x)
        found = found + torch.relu(y) + torch.tanh(y) + F.gelu(self.approximate(x), approximate="tanh")
        z = self.both_tanh(x)
        return found + F.gelu(self.gelu(x)) + F.silu(self.silu(x)) + self.nothing(x) + z.tanh() + z.t().tanh().t()


def analysed(model: nn.Module, x: Tensor, **options: Any) -> tuple[Any, Analysis]:
    net = precc.compile(model, backend="cpp")
    own = precc.AnalysisOptions(**options)
    return net, net.analyze(x, loss=lambda y: y.square().mean(), options=own)


def values(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def test_what_follows_a_product() -> None:
    _, analysis = analysed(Branches(), values(30, 12))
    assert {op.partition("/")[0]: own.activation for op, own in analysis.findings.components.items()} == {
        "tanh_after_view": "tanh",
        "two_readers": "identity",
        "approximate": "identity",
        "both_tanh": "tanh",
        "gelu": "gelu",
        "silu": "silu",
        "nothing": "identity",
    }


def by_definition(layer: Any, x: Tensor, activation: str) -> Tensor:
    """Of all components, [channels, components]."""
    magnitude = type(layer)(**layer.arguments, bias=False).double()
    magnitude.load_state_dict({"weight": layer.weight.detach().double().abs()})
    layer = layer.double()
    with torch.no_grad():
        y, sizes = layer(x.double()), magnitude(x.double().abs())
    return (activation_condition(y, activation) * sizes / y.abs()).movedim(1, 0).flatten(1)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize(
    ("kind", "arguments", "shape"),
    [
        (nn.Linear, {"in_features": 40, "out_features": 6}, (500, 40)),
        (nn.Conv2d, {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2, "padding": 1}, (40, 4, 9, 9)),
        (nn.ConvTranspose2d, {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2}, (20, 4, 7, 7)),
        (nn.Conv1d, {"in_channels": 3, "out_channels": 5, "kernel_size": 4, "dilation": 2}, (64, 3, 30)),
    ],
    ids=lambda own: getattr(own, "__name__", None),
)
def test_condition_numbers_are_those_of_the_definition(
    kind: Any, arguments: dict[str, int], shape: tuple[int, ...], activation: str
) -> None:
    torch.manual_seed(0)
    layer, x = kind(**arguments), values(*shape)
    layer.arguments = arguments
    follows = nn.ReLU() if activation == "relu" else nn.Tanh()
    _, analysis = analysed(nn.Sequential(layer, follows), x)
    found, wanted = analysis.findings.components["0/product"], by_definition(layer, x, activation)
    assert found.activation == activation
    assert len(found.channels) == len(wanted)
    for own, channel in zip(found.channels, wanted, strict=True):  # of a sample
        assert 0.8 < float((channel <= own).double().mean()) < 0.98
    for tau in (0.0, 1.5, 3.0, 10.0):
        assert found.share_within(tau) == pytest.approx(float((wanted <= tau).double().mean()), abs=0.03)


def test_products_of_activations_and_empty_ones() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (self.fc(x) @ x.transpose(1, 2)).tanh()

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(10, 10)

    torch.manual_seed(0)
    model, x = Pair(), values(4, 50, 10)
    _, analysis = analysed(model, x)
    found = analysis.findings.components["product"]
    with torch.no_grad():
        a, y = model.fc(x).double(), model.fc(x).double() @ x.double().transpose(1, 2)
    kappas = activation_condition(y, "tanh") * (a.abs() @ x.double().abs().transpose(1, 2)) / y.abs()
    assert found.p90 == pytest.approx(float(kappas.quantile(0.9)), rel=0.1)
    assert math.isnan(ComponentConditions.of("relu", torch.zeros(3, 0)).p90)


@pytest.fixture(scope="module")
def lenet() -> tuple[Any, Analysis, Tensor]:
    torch.manual_seed(0)
    x = values(16, 1, 28, 28)
    return *analysed(LeNet5(), x, sums=32), x


def test_a_node_is_low_if_nine_in_ten_components_are_within(lenet: tuple[Any, Analysis, Tensor]) -> None:
    net, analysis, x = lenet
    bounds = {op: own.p90 for op, own in analysis.findings.components.items()}
    tau = sorted(bounds.values())[2]
    policy = Threshold(tau, "node", LOW, HIGH)
    plan = policy.assign(analysis)
    for name in analysis.operands:
        slot = analysis.records[name].slot
        low = bounds[slot.op] <= tau
        if slot.role is not Role.FPROP:
            assert plan.precision(name).format.name == "float32"
        else:
            assert plan.precision(name) == (LOW if low else HIGH).operands
            assert plan.accumulator(f"{slot.op}/fprop.accumulator") == (LOW if low else HIGH).accumulator
    assert sum(policy.shares(analysis).values()) == 3
    assert plan.predicted_error is not None
    assert plan.cost is not None
    net.set_plan(plan, recompile=True)
    with torch.no_grad():
        assert net(x).isfinite().all()


def test_channels_are_high_where_more_than_one_in_ten_is_beyond(lenet: tuple[Any, Analysis, Tensor]) -> None:
    net, analysis, x = lenet
    policy = Threshold(20.0, "channel", LOW, HIGH)
    plan = policy.assign(analysis)
    for op, own in analysis.findings.components.items():
        passes = plan.accumulator(f"{op}/fprop.accumulator")
        assert isinstance(passes, TwoPasses)
        assert passes.channels == tuple(k for k, kappa in enumerate(own.channels) if kappa > 20)
    net.set_plan(plan, recompile=True)
    with torch.no_grad(), recomputed() as found:
        net(x)
    shares = policy.shares(analysis)
    for op in shares:
        assert found.of(f"{op}/fprop.accumulator") == pytest.approx(1 - shares[op])
    assert (plan.predicted_error, plan.cost) == (None, None)


def test_components_are_chosen_at_run_time(lenet: tuple[Any, Analysis, Tensor], tmp_path: Path) -> None:
    net, analysis, x = lenet
    shares = []
    for tau in (0.0, 2.0, 8.0, math.inf):
        policy = Threshold(tau, low=LOW, high=HIGH)
        plan = policy.assign(analysis)
        net.set_plan(plan, recompile=True)
        with torch.no_grad(), recomputed() as found:
            net(x)
        for op, share in policy.shares(analysis).items():
            assert found.of(f"{op}/fprop.accumulator") == pytest.approx(1 - share, abs=0.08), (tau, op)
        shares.append(found.share)
        assert PrecisionPlan.from_json(plan.to_json()) == plan
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
    analysis.save(tmp_path / "step.precc")
    assert Threshold(2.0).assign(Analysis.load(tmp_path / "step.precc")) == Threshold(2.0).assign(analysis)
    assert "of the forward's multiply-adds low" in plan.provenance.budget


def test_rules_take_products_out(lenet: tuple[Any, Analysis, Tensor]) -> None:
    _, analysis, _ = lenet
    plan = Threshold(2.0).assign(
        analysis, rules=[Rule("conv1", keep="float32"), Rule("fc1", format="bf16", operand="weight")]
    )
    for layer, high in (("conv1", "float32"), ("fc1", "bfloat16")):
        assert plan.accumulator(f"{layer}/product/fprop.accumulator") is None
        assert plan.precision(f"{layer}/product/fprop.weight").format.name == high
    assert isinstance(plan.accumulator("conv2/product/fprop.accumulator"), TwoPasses)
    with pytest.raises(PlanError, match="decides no slot"):
        Threshold(2.0).assign(analysis, rules=[Rule("conv9", keep="float32")])


def test_the_share_counts_multiply_adds(lenet: tuple[Any, Analysis, Tensor]) -> None:
    _, analysis, _ = lenet
    policy = Threshold(20.0, "channel", LOW, HIGH)
    shares, work = (
        policy.shares(analysis),
        {"conv1": 117_600, "conv2": 240_000, "fc1": 48_000, "fc2": 10_080, "fc3": 840},
    )
    low = sum(shares[f"{layer}/product"] * own for layer, own in work.items()) / sum(work.values())
    assert policy.assign(analysis).provenance.budget == f"{low:.1%} of the forward's multiply-adds low"


def test_rules_of_the_backward_leave_the_forward(lenet: tuple[Any, Analysis, Tensor]) -> None:
    _, analysis, _ = lenet
    plan = Threshold(2.0).assign(analysis, rules=[Rule("*", role="wgrad", keep="fp32")])
    assert len(plan.in_two_passes) == 5
    everything = Threshold(2.0).assign(analysis, rules=[Rule("*", role="fprop", keep="fp32")])
    assert everything.in_two_passes == ()
    assert everything.provenance.budget.startswith("0.0%")


def test_the_first_and_last_layers_may_be_high(lenet: tuple[Any, Analysis, Tensor]) -> None:
    _, analysis, _ = lenet
    plan = FirstLastHigh(FirstLastHigh(Threshold(2.0), "bf16"), "float16", first=0).assign(analysis)
    kinds = {op: plan.accumulator(f"{op}/fprop.accumulator") for op in analysis.findings.components}
    assert [isinstance(own, TwoPasses) for own in kinds.values()] == [False, True, True, True, False]
    ends = [plan.precision(f"{layer}/product/fprop.weight").format.name for layer in ("conv1", "fc3")]
    assert ends == ["bfloat16", "float16"]


def test_targets(lenet: tuple[Any, Analysis, Tensor]) -> None:
    _, analysis, _ = lenet
    with pytest.raises(PlanError, match="two passes only in emulation"):
        Threshold(2.0).assign(analysis, target="sm_90")
    with pytest.raises(PlanError, match="conv1/product/fprop"):
        Threshold(math.inf, "node", "e4m3", "e5m10").assign(analysis, target="sm_90")
    half = Threshold(0.0, "node", "e4m3", "float16").assign(analysis, target="sm_90")
    assert half.precision("fc1/product/fprop.input").format.name == "float16"


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda: Threshold(-1), FormatError, "at least 0"),
        (lambda: Threshold("1"), FormatError, "at least 0"),
        (lambda: Threshold(1, "row"), FormatError, "granularity"),
        (lambda: Threshold(1, low="e9"), FormatError, "e9"),
        (lambda: Threshold(1, low="hopper_fp8"), FormatError, "ProductArithmetic"),
        (lambda: Threshold(1, backward="e9"), FormatError, "e9"),
        (
            lambda: Threshold(1).assign(),
            AnalysisError,
            r"Threshold chooses from an analysis: .*Threshold\(...\).assign",
        ),
        (lambda: Threshold(1).assign("step.precc"), AnalysisError, "what net.analyze returns, not 'step.precc'"),
        (lambda: precc.FirstLastHigh("e4m3").assign(3), AnalysisError, "what net.analyze returns, not 3"),
        (
            lambda: Threshold(1, low=ProductArithmetic(precc.Precision("e4m3", "stochastic"), "e5m10")),
            FormatError,
            "draws",
        ),
    ],
)
def test_bad_options(make: Callable[[], Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        make()


def test_a_damaged_analysis_is_refused(lenet: tuple[Any, Analysis, Tensor], tmp_path: Path) -> None:
    """torch.load does not look at the checksums of its file."""
    path = tmp_path / "step.precc"
    lenet[1].save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(AnalysisError, match="holds no analysis"):
        Analysis.load(path)
