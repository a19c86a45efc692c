"""Policies for weights alone: what they minimise, by other means, and that they find its least within their bits."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import precc
from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.rounding_error import TENSOR, squared_errors
from precc.analysis.weight import Weight, weights_of
from precc.analysis.weight_traces import WeightTraces
from precc.errors import AnalysisError, FormatError, InfeasibleError, PlanError
from precc.models.lenet5 import LeNet5
from precc.policies.weight_budget import WeightBudget

POLICIES: list[type[WeightBudget]] = [precc.HessianBudget, precc.ImportanceBudget]
FEW = ["e2m1", "e3m2", "e4m3", "bfloat16"]
X, Y = torch.randn(24, 8, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


def compiled(model: nn.Module) -> Any:
    return precc.compile(model, backend="reference")


def cross_entropy(output: Tensor) -> Tensor:
    return F.cross_entropy(output, Y)


def analysed(model: nn.Module, loss: Any = cross_entropy, x: Tensor = X, **options: Any) -> Analysis:
    found: Analysis = compiled(model).analyze(x, loss=loss, options=AnalysisOptions(**options))
    return found


def layers() -> nn.Sequential:
    """Four weights of several sizes."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3)
    )


class Branches(nn.Module):
    """Two layers that are alike; the loss sees the first one through a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.near = nn.Linear(8, 6, bias=False)
        self.far = nn.Linear(8, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.near(x)
        return torch.cat([self.factor * first, self.far(x)], 1)


class Scores(nn.Module):
    """A product of two activations alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale) @ x.T


def squares(output: Tensor) -> Tensor:
    return output.square().sum()


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    return layers()


@pytest.fixture(scope="module")
def analysis(net: nn.Sequential) -> Analysis:
    return analysed(net)


@pytest.fixture(scope="module")
def lenet5() -> Analysis:
    torch.manual_seed(0)
    images = torch.randn(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return analysed(LeNet5(), lambda output: F.cross_entropy(output, torch.arange(32) % 10), images)


def slot(name: str) -> str:
    return f"{name}/product/fprop.weight"


def formats(plan: precc.PrecisionPlan, *names: str) -> list[str]:
    return [plan.precision(slot(name)).format.name for name in names]


def exact_diagonal(model: nn.Module, name: str, loss: Any) -> Tensor:
    """Second derivatives of the loss by each element of a parameter, by autograd."""

    def loss_of(value: Tensor) -> Tensor:
        found: Tensor = loss(functional_call(model, {name: value}, (X,)))
        return found

    value = dict(model.named_parameters())[name].detach()
    hessian = torch.autograd.functional.hessian(loss_of, value)
    return hessian.reshape(value.numel(), value.numel()).diagonal().reshape(value.shape)  # type: ignore[union-attr]


def rounding_error(value: Tensor, precision: precc.Precision) -> float:
    rounded = precc.round_to(value.detach(), precision.format, scaling=precision.scaling)
    return float((rounded.double() - value.detach().double()).square().sum())


def estimated(make: Any, seeds: int, loss: Any, **options: Any) -> dict[str, tuple[float, float]]:
    """Means of the traces over analyses of several seeds, and their standard errors, by name of the weight."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        for own in weights_of(analysed(make(), loss, seed=seed, **options)):
            found.setdefault(own.name, []).append(own.trace.value)
    drawn = {name: torch.tensor(own, dtype=torch.float64) for name, own in found.items()}
    return {name: (float(own.mean()), float(own.std()) / math.sqrt(seeds)) for name, own in drawn.items()}


def metric() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.rand(own.shape, generator=generator) + 0.2 for name, own in layers().named_parameters()}


@pytest.mark.parametrize(
    "options", [{"probes": 16}, pytest.param({"probes": 6}, marks=pytest.mark.slow), {"probes": 16, "metric": metric()}]
)
def test_traces_are_those_of_the_hessian(options: dict[str, Any]) -> None:
    """Within four standard errors, which are small enough to tell a factor of 1.6 in all weights but one."""
    found = estimated(layers, 12, squares, **options)
    shares = []
    for name, (mean, error) in found.items():
        exact = float(exact_diagonal(layers(), f"{name.split('/')[0]}.weight", squares).sum())
        assert abs(mean - exact) < 4 * error, name
        shares.append(4 * error / abs(exact))
    assert sorted(shares)[2] < 0.6 + (options["probes"] == 6), shares


@pytest.mark.parametrize("scaled", [False, True])
def test_each_probe_is_a_product_with_the_hessian(scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """``r / M * H r`` over each weight, to the rounding errors of float32."""
    seen: list[tuple[dict[str, Tensor], float]] = []
    begin = WeightTraces.next_probe

    def note(self: WeightTraces, taps: Any, r: Any, scale: float) -> None:
        seen.append((dict(r), scale))
        begin(self, taps, r, scale)

    monkeypatch.setattr(WeightTraces, "next_probe", note)
    model, own_metric = layers(), metric() if scaled else {}
    parameters = dict(model.named_parameters())
    found = weights_of(analysed(model, probes=6, metric=own_metric))
    gradients = torch.autograd.grad(cross_entropy(model(X)), list(parameters.values()), create_graph=True)
    assert len(seen) == 6
    for probe, (r, scale) in enumerate(seen):
        vectors = [r[name] for name in parameters]
        products = torch.autograd.grad(gradients, list(parameters.values()), vectors, retain_graph=True)
        by_name = dict(zip(parameters, products, strict=True))
        for own in found:
            name = f"{own.name.split('/')[0]}.weight"
            exact = scale**2 * float((r[name] / own_metric.get(name, 1.0) * by_name[name]).sum())
            assert float(own.traces[probe]) == pytest.approx(exact, rel=1e-3, abs=1e-5)


def test_a_trace_has_its_standard_error() -> None:
    found = [weights_of(analysed(layers(), seed=seed, probes=8))[0].trace for seed in range(12)]
    spread = float(torch.tensor([own.value for own in found]).std())
    told = math.sqrt(sum(own.standard_error**2 for own in found) / len(found))
    assert 0.5 < told / spread < 2
    assert math.isnan(weights_of(analysed(layers(), probes=1))[0].trace.standard_error)


class Sliced(nn.Module):
    """Two weights that are halves of one parameter, one that is computed, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Parameter(torch.randn(16, 8, generator=torch.Generator().manual_seed(2)) / 4)
        self.computed = nn.Parameter(torch.randn(3, 8, generator=torch.Generator().manual_seed(4)) / 2)
        self.frozen = nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(6)) / 2, False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.both.chunk(2)
        hidden = torch.tanh(F.linear(torch.tanh(F.linear(x, first)), second))
        return F.linear(F.linear(hidden, self.frozen), self.computed.tanh())


def test_weights_that_are_parts_of_parameters_and_those_that_are_not() -> None:
    found = estimated_of_parts()
    exact = exact_diagonal(Sliced(), "both", cross_entropy).reshape(2, 64).sum(1).tolist()
    for (mean, error), own in zip(found, exact, strict=True):
        assert abs(mean - own) < 4 * error + 1e-3 * abs(own)
    analysis = analysed(Sliced())
    with pytest.raises(AnalysisError, match=r"no trace of product#2/fprop.weight, whose values are not those of a par"):
        precc.HessianBudget(8).assign(analysis)
    assert precc.ImportanceBudget(8).assign(analysis).cost is not None


def estimated_of_parts() -> list[tuple[float, float]]:
    values = torch.tensor(
        [[own.trace.value for own in weights_of(analysed(Sliced(), seed=seed, probes=16))[:2]] for seed in range(8)]
    )
    return list(zip(values.mean(0).tolist(), (values.std(0) / 8**0.5).tolist(), strict=True))


def test_importances_are_those_of_autograd(net: nn.Sequential, analysis: Analysis) -> None:
    net.zero_grad()
    cross_entropy(net(X)).backward()
    for own in weights_of(analysis):
        weight = net[int(own.name.split("/")[0])].weight
        assert isinstance(weight, nn.Parameter)
        assert weight.grad is not None
        assert own.importance == pytest.approx(float((weight.detach() * weight.grad).abs().sum()), rel=1e-4)
        assert own.elements == weight.numel()


@pytest.mark.parametrize("fmt", ["e2m1", "e4m3", "int4", "bfloat16", "float32"])
def test_squared_errors_are_those_of_rounding(lenet5: Analysis, fmt: str) -> None:
    """Of small weights exactly; of sampled ones, here fc1's 48,000 elements, within a few percent."""
    torch.manual_seed(0)
    model, precision = LeNet5(), precc.scaled(fmt)
    for own in weights_of(lenet5):
        weight = model.get_submodule(own.name.split("/")[0]).weight
        assert isinstance(weight, Tensor)
        exact = rounding_error(weight, precision)
        assert own.squared_error(precision) == pytest.approx(exact, rel=1e-6 if own.sample.whole else 0.05)
    assert not all(own.sample.whole for own in weights_of(lenet5))


def test_squared_errors_of_blocks(net: nn.Sequential) -> None:
    """Which lie along the dimension that the forward sums over."""
    found = analysed(net, candidates=["mxfp4"])
    for own in weights_of(found):
        weight = net[int(own.name.split("/")[0])].weight
        assert isinstance(weight, Tensor)
        assert own.squared_error(precc.scaled("mxfp4")) == pytest.approx(
            rounding_error(weight, precc.scaled("mxfp4")), rel=1e-6
        )


def test_squared_errors_of_random_roundings_are_means() -> None:
    x = torch.randn(50)
    precision = precc.Precision("e2m1", "stochastic", "tensor")
    drawn = [
        precc.round_to(x, "e2m1", rounding="stochastic", scaling="tensor", seed=seed).double() - x.double()
        for seed in range(2000)
    ]
    found = squared_errors(x, precision, {TENSOR: x.abs().max()})
    assert float(found.sum()) == pytest.approx(float(torch.stack(drawn).square().mean(0).sum()), rel=0.03)


def objective(policy: WeightBudget, own: Weight, weight: Tensor, precision: precc.Precision) -> float:
    """As the policies' docstrings have it, from the tensor itself."""
    error = rounding_error(weight, precision)
    if isinstance(policy, precc.HessianBudget):
        return abs(own.trace.value) / weight.numel() * error / 2
    return own.importance * math.sqrt(error / float(weight.detach().double().square().sum()))


@pytest.mark.parametrize("make", POLICIES)
@pytest.mark.parametrize("bits", [4, 4.7, 5, 6, 6.3, 8, 11, 16])
def test_no_assignment_is_better(make: type[WeightBudget], bits: float, net: nn.Sequential, analysis: Analysis) -> None:
    policy = make(bits, candidates=FEW)
    candidates = [precc.scaled(name) for name in FEW]
    weights = weights_of(analysis)
    tensors = [net[int(own.name.split("/")[0])].weight for own in weights]
    assert len(tensors) == 4
    errors = [
        {choice: objective(policy, own, weight, choice) for choice in candidates}  # type: ignore[arg-type]
        for own, weight in zip(weights, tensors, strict=True)
    ]
    sizes = [own.elements for own in weights]

    def average(choices: Any) -> float:
        found: float = sum(n * own.bits for n, own in zip(sizes, choices, strict=True)) / sum(sizes)
        return found

    def error(choices: Any) -> float:
        return sum(own[choice] for own, choice in zip(errors, choices, strict=True))

    every = [own for own in itertools.product(candidates, repeat=4) if average(own) <= bits * (1 + 1e-12)]
    least = min(map(error, every))
    for solver, slack in ((precc.Lagrangian(), 0.02), (precc.MILP(), 1e-6)):
        plan = replace(policy, solver=solver).assign(analysis)
        chosen = [plan.precision(own.name) for own in weights]
        assert average(chosen) <= bits * (1 + 1e-9)
        assert error(chosen) <= least * (1 + slack) + 1e-15
        assert plan.cost is not None
        assert plan.cost.value == pytest.approx(average(chosen))
        assert plan.cost.unit == "bits"


@pytest.mark.parametrize("factor", [8.0, 1 / 8])
def test_the_sensitive_weight_gets_more_bits(factor: float) -> None:
    """The objective as it is printed, sum (t_l / n_l) b_l, prefers the assignment that gives it fewer."""
    found = analysed(Branches(factor), squares)
    policy = precc.HessianBudget(6, candidates=["e2m1", "e4m3"])
    near, far = weights_of(found)
    assert near.trace.value / far.trace.value == pytest.approx(factor**2, rel=0.5)
    expected = {"near": 8, "far": 4} if factor > 1 else {"near": 4, "far": 8}
    plan = policy.assign(found)
    assert {name: plan.precision(slot(name)).bits for name in ("near", "far")} == expected

    def printed(bits: dict[str, int]) -> float:
        return near.mean_curvature * bits["near"] + far.mean_curvature * bits["far"]

    assert min(({"near": 8, "far": 4}, {"near": 4, "far": 8}), key=printed) != expected


def test_the_trace_decides_not_the_gradient() -> None:
    """Squares have a second derivative where they have no first one; a line has no second one at all."""
    model = Branches(1.0)

    def loss(output: Tensor) -> Tensor:
        return output[:, :6].square().sum() * 0.1 + 50 * output[:, 6:].sum()  # near: a square; far: a line

    found = analysed(model, loss)
    near, far = weights_of(found)
    assert abs(far.trace.value) < 1e-2 * near.trace.value
    assert far.importance > 10 * near.importance
    options: dict[str, Any] = {"candidates": ["e2m1", "e4m3"]}
    assert formats(precc.HessianBudget(6, **options).assign(found), "near") == ["float8_e4m3fn"]
    assert formats(precc.ImportanceBudget(6, **options).assign(found), "far") == ["float8_e4m3fn"]


def test_negative_traces_count_by_magnitude_and_are_named() -> None:
    found = analysed(Branches(8.0), lambda output: -squares(output))
    plan = precc.HessianBudget(6, candidates=["e2m1", "e4m3"]).assign(found)
    assert formats(plan, "near", "far") == ["float8_e4m3fn", "float4_e2m1fn"]
    told = plan.provenance.budget
    assert told.endswith(f"negative traces, counted by magnitude: {slot('near')}, {slot('far')}")
    positive = precc.HessianBudget(6).assign(analysed(Branches(8.0), squares))
    assert positive.provenance.budget == "6 bits on average of 2 weights"


@pytest.mark.parametrize("make", POLICIES)
def test_all_but_the_weights_is_left(make: type[WeightBudget], lenet5: Analysis) -> None:
    plan = make(5).assign(lenet5)
    assert set(plan.slots) == set(lenet5.operands)
    for name in lenet5.operands:
        own = lenet5.records[name].slot
        if own.operand != "weight":
            assert plan.precision(name) == precc.Precision("float32")
        else:
            assert plan.precision(name) == plan.precision(slot(own.layer))
    assert plan.predicted_error == lenet5.predict(plan)
    assert plan.provenance.policy == f"{make.__name__}(average_bits=5)"
    assert plan.provenance.analysis == lenet5.digest
    other = make(5, others="e4m3").assign(lenet5)
    assert other.precision("conv2/product/fprop.input") == precc.scaled("e4m3")
    assert [other.precision(own.name) for own in weights_of(lenet5)] == [
        plan.precision(own.name) for own in weights_of(lenet5)
    ]
    assert make(5).assign(lenet5, cost=precc.BitOps()).cost != plan.cost


@pytest.mark.parametrize("make", POLICIES)
def test_first_and_last_stay_high_and_do_not_count(make: type[WeightBudget], lenet5: Analysis) -> None:
    plan = precc.FirstLastHigh(make(5, candidates=["e2m1", "e2m3", "e4m3"]), "float32").assign(lenet5)
    for name in lenet5.operands:
        if name.startswith(("conv1/", "fc3/")):
            assert plan.precision(name) == precc.Precision("float32")
    inner = [own for own in weights_of(lenet5) if not own.name.startswith(("conv1/", "fc3/"))]
    assert len(inner) == 3
    assert plan.cost is not None
    average = sum(own.elements * plan.precision(own.name).bits for own in inner) / sum(own.elements for own in inner)
    assert plan.cost.value == pytest.approx(average)
    assert 4 <= average <= 5
    assert plan.provenance.policy.startswith("FirstLastHigh(" + make.__name__)
    assert plan.provenance.budget.startswith("5 bits on average of 3 weights")
    whole = precc.FirstLastHigh(make(4, candidates=["e2m1", "e4m3"]), "float32").assign(lenet5)
    assert whole.cost is not None
    assert whole.cost.value == pytest.approx(4)


@pytest.mark.parametrize("make", POLICIES)
def test_a_saved_analysis_gives_the_same_plan(make: type[WeightBudget], lenet5: Analysis, tmp_path: Path) -> None:
    lenet5.save(tmp_path / "step.precc")
    loaded = precc.Analysis.load(tmp_path / "step.precc")
    for bits in (4.5, 6, 8):
        plan = make(bits).assign(lenet5)
        assert make(bits).assign(loaded) == plan
        assert precc.PrecisionPlan.from_json(plan.to_json()) == plan


def test_more_bits_err_less_when_measured(net: nn.Sequential, analysis: Analysis) -> None:
    for make in POLICIES:
        errors = [analysis.measure(make(bits, candidates=FEW).assign(analysis), 8).loss for bits in (4, 8, 16)]
        assert errors[0] > 3 * errors[1] > 9 * errors[2]


class Tied(nn.Module):
    """One parameter in two modules, which read it one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8, bias=False)
        self.second = nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return logits


def test_a_tied_weight_is_one() -> None:
    model = Tied()
    found = analysed(model)
    cross_entropy(model(X)).backward()
    tied, head = weights_of(found)
    weight = model.first.weight
    assert weight.grad is not None
    assert [own.name for own in tied.forward] == [slot("first"), slot("second")]
    assert tied.importance == pytest.approx(float((weight.detach() * weight.grad).abs().sum()), rel=1e-4)
    mean, error = estimated(lambda: model, 8, squares, probes=16)[tied.name]
    exact = float(exact_diagonal(model, "first.weight", squares).sum())
    assert abs(mean - exact) < 4 * error < 0.6 * abs(exact)
    plan = precc.HessianBudget(6, candidates=["e2m1", "e4m3"]).assign(found)
    assert len({plan.precision(own.name) for own in tied.slots}) == 1
    assert plan.cost is not None
    bits = {own.name: plan.precision(own.name).bits for own in (tied, head)}
    assert plan.cost.value == pytest.approx((64 * bits[tied.name] + 24 * bits[head.name]) / 88)
    rules = [precc.Rule("first", format="e4m3"), precc.Rule("second", format="bf16")]
    with pytest.raises(PlanError, match="rules want different precisions for first/.* and second/"):
        precc.HessianBudget(6).assign(found, rules=rules)


def test_rules_decide_weights_and_slots(lenet5: Analysis) -> None:
    rules = [precc.Rule("fc1", role="fprop", operand="weight", format="bf16"), precc.Rule(role="dgrad", keep="fp16")]
    plan = precc.HessianBudget(5).assign(lenet5, rules=rules)
    assert plan.precision(slot("fc1")) == precc.Precision("bf16")
    assert plan.precision("fc1/product/fprop.input") == precc.Precision("float32")
    assert plan.precision("conv2/product/dgrad.weight") == precc.Precision("float16")
    assert plan.precision("conv2/product/dgrad.grad_output") == precc.Precision("float16")
    assert plan.cost is not None
    assert plan.cost.value <= 5
    assert plan.provenance.budget.startswith("5 bits on average of 4 weights")
    stored = precc.HessianBudget(5).assign(lenet5, rules=rules[:1])
    assert stored.precision("fc1/product/dgrad.weight") == precc.Precision("bf16")
    with pytest.raises(PlanError, match="rules decide all 5 weights of LeNet5"):
        precc.HessianBudget(5).assign(lenet5, rules=[precc.Rule(operand="weight", format="bf16")])
    with pytest.raises(PlanError, match="decides no slot"):
        precc.HessianBudget(5).assign(lenet5, rules=[precc.Rule("fc9", format="bf16")])


def test_targets(lenet5: Analysis) -> None:
    scaled = [precc.Precision("e4m3", scaling="tensor"), precc.Precision("e5m2", scaling="tensor"), "float32"]
    plan = precc.HessianBudget(8, candidates=scaled, others=scaled[0]).assign(lenet5, target=one_pair())
    assert set(formats(plan, "conv1", "conv2", "fc1")) == {"float8_e4m3fn"}
    with pytest.raises(PlanError, match=r"the target pair runs no candidate in conv1/.*: pair multiplies"):
        precc.HessianBudget(8, candidates=["bf16"], others=scaled[0]).assign(lenet5, target=one_pair())
    with pytest.raises(PlanError, match=r"candidate in conv1/.*: pair multiplies no float32; choose others="):
        precc.HessianBudget(8, candidates=["e4m3"]).assign(lenet5, target=one_pair())
    kept: dict[str, Any] = {"format": "e4m3", "scaling": "tensor"}
    rules = [precc.Rule(role="fprop", operand="input", **kept), precc.Rule(role="dgrad", operand="grad*", **kept)]
    with pytest.raises(PlanError, match=r"wgrad.* with .*wgrad.*: pair multiplies no float32; choose others="):
        precc.HessianBudget(8, candidates=["e4m3"]).assign(lenet5, target=one_pair(), rules=rules)


def one_pair() -> precc.Target:
    return precc.Target("pair", pairs=[("e4m3", "e4m3")], scalings=[precc.Scaling("tensor").granularity])


@pytest.mark.parametrize("make", POLICIES)
def test_what_cannot_be(make: type[WeightBudget], lenet5: Analysis) -> None:
    with pytest.raises(InfeasibleError, match="in 3 bits or less on average: the cheapest one has 4$"):
        make(3).assign(lenet5)
    with pytest.raises(InfeasibleError, match="the cheapest one has 16"):
        make(15.9, candidates=["bf16", "fp16"]).assign(lenet5)
    with pytest.raises(AnalysisError, match=rf"net.set_plan\({make.__name__}"):
        make(4).assign()
    with pytest.raises(AnalysisError, match="what net.analyze returns"):
        make(4).assign("step.precc")
    with pytest.raises(PlanError, match="no cost model"):
        make(4).assign(lenet5, cost=precc.WeightBits)  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="Scores has no weights"):
        make(4).assign(analysed(Scores(), squares))


def test_candidates_that_become_infinite_are_not_chosen() -> None:
    model = Branches(1.0)
    with torch.no_grad():
        model.near.weight.mul_(1e6)
    found = analysed(model, lambda output: output.square().mean() * 1e-12)
    plan = precc.HessianBudget(16, candidates=["float16", "bfloat16"]).assign(found)
    assert formats(plan, "near") == ["bfloat16"]
    with pytest.raises(InfeasibleError, match=r"makes near/product/fprop.weight infinite: add a wider one"):
        precc.ImportanceBudget(16, candidates=["float16"]).assign(found)


def test_derivatives_that_are_not_finite() -> None:
    found = analysed(Branches(1.0), squares)
    for own in found.findings.sensitivities.samples:
        for one in own.slots:
            if one.name == slot("far") and one.loss is not None:
                one.loss[:] = math.inf
    found.findings.sensitivities.traces[slot("far")][:] = math.nan
    for make in POLICIES:
        with pytest.raises(AnalysisError, match="derivative of the loss by far/product/fprop.weight is not finite"):
            make(8).assign(found)


@pytest.mark.parametrize("make", POLICIES)
@pytest.mark.parametrize("bits", [0, -1, math.nan, math.inf, True, "4", None])
def test_bits_that_are_none(make: type[WeightBudget], bits: Any) -> None:
    with pytest.raises(PlanError, match="average_bits is .*, not a finite number above 0"):
        make(bits)


@pytest.mark.parametrize("make", POLICIES)
def test_options_that_make_no_sense(make: type[WeightBudget]) -> None:
    for options, error in (
        ({"others": "e99m1"}, FormatError),
        ({"others": None}, FormatError),
        ({"candidates": []}, PlanError),
        ({"candidates": "e4m3"}, PlanError),
        ({"solver": None}, PlanError),
    ):
        with pytest.raises(error):
            make(4, **options)  # type: ignore[arg-type]
