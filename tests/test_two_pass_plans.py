"""Plans with products in two passes: the bits of the functions by hand, in every backend, and what they refuse."""

import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc import PrecisionPlan, ProductArithmetic, TwoPasses, convolution_two_pass, matmul_two_pass, recomputed
from precc.accumulation import two_pass_run
from precc.condition_numbers import activation_condition
from precc.errors import FormatError, PlanError, UnsupportedError
from precc.grouped_product import GROUPED_PRODUCT

BACKENDS = ("reference", "cpp", "inductor")
LOW, HIGH = ProductArithmetic("e4m3", "e5m10"), ProductArithmetic("e5m10", "float32")


class Pair(nn.Module):
    """The product of two activations."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ x.transpose(1, 2)


def net_of(model: nn.Module, own: TwoPasses, backend: str = "reference", name: str = "product") -> Any:
    net = precc.compile(model, backend=backend)
    net.set_plan(PrecisionPlan("float32", accumulators={f"{name}/fprop.accumulator": own}), recompile=True)
    return net


def values(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


Case = tuple[nn.Module, Tensor, Callable[[Tensor, dict[str, Any]], precc.TwoPass]]


def cases() -> dict[str, Case]:
    torch.manual_seed(3)
    linear, conv = nn.Linear(48, 9, bias=False), nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=False)
    geometry: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 2}
    return {
        "linear": (linear, values(11, 48), lambda x, o: matmul_two_pass(x, linear.weight.t(), LOW, HIGH, **o)),
        "batched": (Pair(), values(3, 7, 20), lambda x, o: matmul_two_pass(x, x.transpose(1, 2), LOW, HIGH, **o)),
        "convolution": (
            conv,
            values(2, 6, 9, 9),
            lambda x, o: convolution_two_pass(x, conv.weight, LOW, HIGH, **o, **geometry),
        ),
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", list(cases()))
def test_nets_have_the_bits_of_the_functions_by_hand(case: str, backend: str) -> None:
    model, x, by_hand = cases()[case]
    for options in ({"tau": 4.0}, {"tau": 30.0, "activation": "tanh", "numerator": "norms"}, {"tau": math.inf}):
        net = net_of(model, TwoPasses(LOW, HIGH, **options), backend)  # type: ignore[arg-type]
        with torch.no_grad(), recomputed() as found:
            y, wanted = net(x), by_hand(x, options)
        assert torch.equal(y, wanted.result)
        assert found.share == found.of("product/fprop.accumulator") == pytest.approx(wanted.share)
    assert wanted.share < 1


def test_the_condition_is_that_of_the_sum_with_its_bias() -> None:
    """A bias far from the sums makes them well conditioned; one that cancels a sum makes it badly conditioned."""
    model, x = nn.Linear(32, 6), values(5, 32)
    weight = model.weight.detach()
    with torch.no_grad():
        model.bias.copy_(torch.tensor([0.0, 100.0, -100.0, 0.1, -0.1, 0.0]))
        model.bias[5] = -matmul_two_pass(x, weight.t(), LOW, HIGH, math.inf).result[2, 5] * (1 - 2**-6)
    low = matmul_two_pass(x, weight.t(), LOW, HIGH, math.inf).result
    size = precc.round_to(x, "e4m3").double().abs() @ precc.round_to(weight, "e4m3").double().abs().t()
    shown = low + model.bias.detach()
    kappa = activation_condition(shown, "relu") * size / shown.double().abs()
    high = matmul_two_pass(x, weight.t(), LOW, HIGH, select=kappa > 10).result
    net = net_of(model, TwoPasses(LOW, HIGH, tau=10.0, activation="relu"))
    with torch.no_grad(), recomputed() as found:
        y = net(x)
    assert torch.equal(y, high + model.bias)
    assert found.share == pytest.approx(float((kappa > 10).double().mean()))
    assert kappa[2, 5] > 10 > kappa[0, 1]
    assert (kappa[:, 2] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_channels(backend: str) -> None:
    for name, axis in (("linear", 1), ("batched", 2), ("convolution", 1)):
        model, x, by_hand = cases()[name]
        net = net_of(model, TwoPasses(LOW, HIGH, channels=(1, 4)), backend)
        with torch.no_grad():
            y = net(x)
            mask = torch.zeros(y.shape, dtype=torch.bool)
            mask.index_fill_(axis, torch.tensor([1, 4]), True)
            assert torch.equal(y, by_hand(x, {"select": mask}).result)


def test_the_threshold_changes_while_the_net_lives_and_training_goes_through() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4))
    x, net, results = values(4, 1, 6, 6), precc.compile(model, backend="reference"), []
    for tau in (0.0, 5.0, math.inf, 5.0):
        own = TwoPasses("e4m3", "e5m10", tau=tau, activation="tanh")
        plan = PrecisionPlan("float32", accumulators={"0/product/fprop.accumulator": own})
        net.set_plan(plan, recompile=not results)
        net.zero_grad()
        loss = net(x).square().sum()
        loss.backward()
        results.append((loss.item(), model[0].weight.grad.clone()))
    assert results[1][0] == results[3][0]
    assert torch.equal(results[1][1], results[3][1])
    assert len({loss for loss, _ in results}) == 3
    conv = convolution_two_pass(x, model[0].weight.detach(), "e4m3", "e5m10", math.inf).result
    y = conv + model[0].bias.detach().view(-1, 1, 1)
    assert results[2][0] == pytest.approx(model[3](model[2](torch.tanh(y))).square().sum().item())


def test_half_precision_tensors_are_multiplied_as_float32() -> None:
    model, x = nn.Linear(16, 4, bias=False), values(5, 16).bfloat16()
    model.to(torch.bfloat16)
    net = net_of(model, TwoPasses(LOW, HIGH, tau=3.0))
    with torch.no_grad():
        y = net(x)
    wanted = matmul_two_pass(x.float(), model.weight.detach().float().t(), LOW, HIGH, 3.0).result
    assert torch.equal(y, wanted.bfloat16())


def test_a_plan_keeps_two_passes_in_its_json() -> None:
    plans = [
        PrecisionPlan("float32", accumulators={"fc/product/fprop.accumulator": own})
        for own in (
            TwoPasses("e4m3", "e5m10", tau=3.5, activation="gelu", numerator="norms"),
            TwoPasses(ProductArithmetic(precc.scaled("e4m3"), "e6m9"), "bf16", tau=math.inf),
            TwoPasses("e4m3", "e5m10", channels=(0, 7)),
            TwoPasses("e4m3", "e5m10", channels=()),
        )
    ]
    assert len(set(plans)) == len(plans)
    for plan in plans:
        assert PrecisionPlan.from_json(plan.to_json()) == plan == pickle.loads(pickle.dumps(plan))
    assert str(plans[0].diff(plans[2])) == (
        "fc/product/fprop.accumulator: float8_e4m3fn, and float16 where the condition with gelu is above 3.5 -> "
        "float8_e4m3fn, and float16 in 2 channels"
    )
    text = plans[0].to_json()
    for old, new in (('"tau": 3.5', '"tau": -1'), ('"gelu"', '"swish"'), ('"low"', '"lower"'), ('"tau": 3.5,', "")):
        with pytest.raises(precc.PreccError):
            PrecisionPlan.from_json(text.replace(old, new))


def test_the_report_names_them() -> None:
    net = net_of(nn.Linear(8, 2), TwoPasses("e4m3", "e5m10", tau=3.0))
    net(values(3, 8)).sum().backward()
    assert "float16 where the condition is above 3" in net.report().text(200)


def test_counters_count_what_happens_while_they_are_open() -> None:
    net, x = net_of(nn.Linear(8, 2), TwoPasses("e4m3", "e5m10", tau=0.0)), values(3, 8)
    with torch.no_grad(), recomputed() as outer:
        net(x)
        with recomputed() as inner:
            net(x)
        net(x)
    net(x)
    assert [sum(own for own, _ in found.counts.values()) for found in (outer, inner)] == [144, 48]
    assert (inner.share, inner.of("other/product/fprop.accumulator")) == (1, 0)
    with pytest.raises(RuntimeError, match="away"), recomputed():
        raise RuntimeError("away")
    assert not two_pass_run._OPEN


def test_bad_choices() -> None:
    own = TwoPasses("e4m3", "e5m10", tau=1.0)
    refused: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: TwoPasses("e4m3", "e5m10"), FormatError, "tau, or channels"),
        (lambda: TwoPasses("e4m3", "e5m10", tau=1.0, channels=(1,)), FormatError, "tau, or channels"),
        (lambda: TwoPasses("e4m3", "e5m10", tau=math.nan), FormatError, "at least 0"),
        (lambda: TwoPasses("e4m3", "e5m10", tau=True), FormatError, "at least 0"),
        (lambda: TwoPasses("e4m3", "e5m10", channels=(2, 1)), FormatError, "ascending"),
        (lambda: TwoPasses("e4m3", "e5m10", channels=(-1,)), FormatError, "ascending"),
        (lambda: TwoPasses("e4m3", "e5m10", channels="01"), FormatError, "ascending"),  # type: ignore[arg-type]
        (lambda: TwoPasses("e4m3", "e5m10", tau=1.0, activation="swish"), FormatError, "swish"),
        (lambda: TwoPasses("e4m3", "e5m10", tau=1.0, numerator="max"), FormatError, "max"),
        (
            lambda: TwoPasses(ProductArithmetic(precc.Precision("e4m3", "stochastic"), "e5m10"), "e5m10", tau=1.0),
            FormatError,
            "draws",
        ),
        (lambda: precc.Rule("fc", accumulator=own), PlanError, "two passes"),  # type: ignore[arg-type]
        (lambda: PrecisionPlan("float32", default_accumulator=own), PlanError, "product by product"),
        (
            lambda: PrecisionPlan("float32", accumulators={"fc/product/wgrad.accumulator": own}),
            PlanError,
            "of the forward",
        ),
        (
            lambda: PrecisionPlan("float32", accumulators={"fc/product/fprop.accumulator": own}).average_bits,
            PlanError,
            "two passes",
        ),
        (
            lambda: net_of(nn.Linear(8, 2), TwoPasses("e4m3", "e5m10", channels=(2,)))(values(3, 8)),
            FormatError,
            "no channel 2",
        ),
    ]
    for make, kind, said in refused:
        with pytest.raises(kind, match=said):
            make()


def test_what_depends_on_values_is_not_predicted_but_measured() -> None:
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), values(20, 16)
    labels = torch.arange(20) % 3
    net = precc.compile(model, backend="reference")
    options = [precc.AnalysisOptions(sums=sums) for sums in (0, 32)]
    errors = {}
    for own in options:
        analysis = net.analyze(x, loss=lambda y: F.cross_entropy(y, labels), options=own)
        for tau in (0.0, 4.0, math.inf):
            passes = TwoPasses("e4m3", "float32", tau=tau)
            plan = PrecisionPlan("float32", accumulators={"0/product/fprop.accumulator": passes})
            for ask in (analysis.predict, analysis.forward_errors, analysis.contributions):
                with pytest.raises(UnsupportedError, match="two passes"):
                    ask(plan)
            errors[tau] = analysis.measure(plan, 10).gradient
    assert errors[0.0] < 1e-5 < errors[4.0] < errors[math.inf]


class Multiple(nn.Module):
    """``beta * bias + alpha * x @ w``, before an activation."""

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(values(48, 9)), nn.Parameter(values(9) * 3)
        self.alpha, self.beta = alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.addmm(self.bias, x, self.weight, alpha=self.alpha, beta=self.beta))


@pytest.mark.parametrize(("alpha", "beta"), [(-1.0, 1.0), (2.0, 0.5), (0.25, 0.0)])
def test_multiples_of_sums(alpha: float, beta: float) -> None:
    """The activation sees the multiple: of a negative one a rectifier shows what is negative before."""
    model, x = Multiple(alpha, beta), values(20, 48)
    weight, bias = model.weight.detach(), model.bias.detach()
    low = matmul_two_pass(x, weight, LOW, HIGH, math.inf).result
    size = precc.round_to(x, "e4m3").double().abs() @ precc.round_to(weight, "e4m3").double().abs()
    shown = alpha * low + beta * bias
    kappa = activation_condition(shown, "relu") * abs(alpha) * size / shown.double().abs()
    wanted = torch.relu(alpha * matmul_two_pass(x, weight, LOW, HIGH, select=kappa > 4).result + beta * bias)
    net = net_of(model, TwoPasses(LOW, HIGH, tau=4.0, activation="relu"))
    with torch.no_grad(), recomputed() as found:
        y = net(x)
    assert found.share == pytest.approx(float((kappa > 4).double().mean()))
    assert torch.allclose(y, wanted, rtol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_products_of_grouped_rows(backend: str) -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(values(3, 8, 5))

        def forward(self, x: Tensor, ends: Tensor) -> Tensor:
            found: Tensor = GROUPED_PRODUCT(x, self.weight, ends)
            return found

    model, x, ends = Experts(), values(10, 8), torch.tensor([3, 3, 10], dtype=torch.int32)
    for options in ({"tau": 2.0}, {"channels": (0, 3)}):
        net = net_of(model, TwoPasses(LOW, HIGH, **options), backend)  # type: ignore[arg-type]
        with torch.no_grad():
            y = net(x, ends)
        for rows, expert in ((slice(0, 3), 0), (slice(3, 10), 2)):
            own = (
                options
                if "tau" in options
                else {"select": torch.tensor([1, 0, 0, 1, 0]).bool().expand(len(x[rows]), 5)}
            )
            wanted = matmul_two_pass(x[rows], model.weight[expert].detach(), LOW, HIGH, **own)  # type: ignore[arg-type]
            assert torch.equal(y[rows], wanted.result)


def test_multiply_adds_of_grouped_transposed_convolutions() -> None:
    net, x = net_of(nn.ConvTranspose2d(8, 8, 3, groups=4), TwoPasses(LOW, HIGH, tau=0.0)), values(1, 8, 5, 5)
    with torch.no_grad(), recomputed() as found:
        y = net(x)
    assert [every for every, _ in found.counts.values()] == [y.numel() * 2 * 9]
