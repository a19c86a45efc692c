"""Sampled dot products are the products' own, and what accumulators are predicted to do is what they do."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

import precc
from precc.accumulation import kernels
from precc.accumulation.accumulator import Accumulator
from precc.accumulation.kernels import accumulate_fastest
from precc.accumulation.product_ops import PRODUCT_OPS
from precc.accumulation.tensor_ops import accumulate_tensor_ops
from precc.analysis.accumulator_sample import AccumulatorSample, AdjointTotals, errors_of_sums
from precc.analysis.calibration import Calibration
from precc.analysis.error_estimate import ErrorEstimate
from precc.analysis.measurement import StepMeasurement
from precc.analysis.prediction import Prediction
from precc.analysis.step_runs import StepRunner, Values
from precc.analysis.traced_step import TracedStep, trace_step
from precc.annotations import products_of
from precc.backends.cpp.accumulate import accumulate
from precc.backends.cpp.backend import Cpp
from precc.grouped_product import GROUPED_PRODUCT
from precc.models.lenet5 import LeNet5
from precc.models.mlp import MLP
from precc.models.mnist import load_mnist
from precc.passes import accumulating_pipeline, rounding_pipeline
from precc.passes.accumulator_samples import AccumulatorSamples
from precc.passes.forward_error import ForwardError
from precc.passes.place_accumulators import operator_of
from precc.passes.sensitivity import Sensitivity
from precc.plan import PrecisionPlan

ENDS = torch.tensor([3, 3, 8, 10])


class Convolutions(nn.Module):
    """Strides, padding, dilation, groups, transposed ones, one and two dimensions; no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False)
        self.dilated = nn.Conv2d(6, 4, (2, 3), padding=(0, 2), dilation=2, bias=False)
        self.turned = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, bias=False)
        self.line = nn.Conv1d(6, 3, 3, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.line(self.turned(self.dilated(self.strided(x))).flatten(2))
        return found


class Matrices(nn.Module):
    """Products of matrices and of their batches, some added to zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8, bias=False)
        self.second = nn.Linear(8, 6)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        scores = torch.bmm(y, y.transpose(1, 2))
        return torch.baddbmm(torch.zeros_like(y), scores, y, alpha=0.5)


class Experts(nn.Module):
    """Rows in groups, one of them empty; the last two rows belong to none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = GROUPED_PRODUCT(x, self.weight, ENDS)
        return found


KINDS: tuple[tuple[type[nn.Module], tuple[int, ...]], ...] = (
    (Convolutions, (3, 4, 9, 8)),
    (Matrices, (2, 4, 5)),
    (Experts, (12, 5)),
)


def traced(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> TracedStep:
    net = precc.compile(model, backend="reference")
    return trace_step(net, (x,), {}, loss, title="net", pipeline=rounding_pipeline(), fused_attention=False)


@cache
def step_of_kind(kind: int) -> TracedStep:
    model, shape = KINDS[kind]
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).requires_grad_()
    return traced(model().double(), x, lambda y: y.square().sum())


def argument(node: Node, values: Values) -> Tensor:
    value: Tensor = values[node.args[0]]  # type: ignore[index]
    return value


def sampled(step: TracedStep, samples: int) -> tuple[tuple[AccumulatorSample, ...], dict[str, Tensor]]:
    """Samples of a run, and the results of all products by node."""
    watcher, results = AccumulatorSamples(samples).watcher(step), {}

    def watch(node: Node, value: Any, values: Values) -> None:
        watcher.see(node, value, values)
        results[node.name] = next(own for own in value if own is not None) if isinstance(value, tuple) else value

    StepRunner(step).run(argument, watch=watch)
    return watcher.result(), results


def test_the_kinds_are_all_that_can_have_an_accumulator() -> None:
    steps = [step_of_kind(kind) for kind in range(len(KINDS))]
    found = {operator_of(node)[0] for step in steps for node, _ in products_of(step.graph.graph)}
    assert found == set(PRODUCT_OPS)


@pytest.mark.parametrize("samples", [5, 10_000])
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=lambda kind: KINDS[kind][0].__name__)
def test_sampled_dot_products_are_the_outputs(kind: int, samples: int) -> None:
    step = step_of_kind(kind)
    before = torch.get_rng_state()
    found, results = sampled(step, samples)
    assert torch.equal(torch.get_rng_state(), before)
    assert [own.node for own in found] == [
        node.name for node, _ in products_of(step.graph.graph) if node.name in results
    ]
    for sample in found:
        alpha = 0.5 if "baddbmm" in sample.node else 1.0
        expected = results[sample.node].detach().reshape(-1)[sample.positions]
        torch.testing.assert_close((sample.left * sample.right).sum(1) * alpha, expected, rtol=1e-12, atol=1e-12)
        assert sample.whole is (samples == 10_000 or sample.elements <= 10)
        assert abs(float(sample.weights.sum()) / sample.elements - 1) < (1e-9 if sample.whole else 0.9)


def test_operands_are_in_the_order_of_the_slots() -> None:
    """An aligned accumulator has a format for each of them."""
    for kind in range(len(KINDS)):
        step = step_of_kind(kind)
        found, _ = sampled(step, 10_000)
        inputs = operands_of(step)
        for sample in found:
            for slot, rows in zip(sample.slots, (sample.left, sample.right), strict=True):
                assert torch.isin(rows[rows != 0], inputs[slot]).all(), slot


def operands_of(step: TracedStep) -> dict[str, Tensor]:
    """What each slot reads."""
    found = {}

    def at_slot(node: Node, values: Values) -> Tensor:
        found[node.meta["precc"].name] = argument(node, values).detach().clone()
        return argument(node, values)

    StepRunner(step).run(at_slot)
    return found


def test_adjoints_and_totals_are_those_of_the_sums() -> None:
    """With a factor on all sums of a layer the totals are derivatives with respect to it, without the bias."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 5).double()
    x, target = torch.randn(8, 6, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64)
    step = traced(layer, x, lambda y: ((y - target) ** 4).sum())
    found = Sensitivity(probes=3, sums=64).run(step).sums
    fprop, wgrad = found
    sums = x @ layer.weight.detach().T
    adjoint = 4 * (sums + layer.bias.detach() - target) ** 3
    assert fprop.loss is not None
    torch.testing.assert_close(fprop.loss, adjoint.reshape(-1)[fprop.positions])
    totals = (adjoint * sums, adjoint.square(), (adjoint * sums).square())
    assert fprop.loss_totals == AdjointTotals(*(pytest.approx(float(own.sum())) for own in totals))
    assert wgrad.loss is None
    assert wgrad.loss_totals == AdjointTotals(0.0, 0.0, 0.0)
    squares = [own.squares for own in wgrad.gradient_totals]  # of what each probe has of the weight's 30 elements
    assert sum(squares) / 3 == pytest.approx(30, rel=0.2)
    torch.testing.assert_close(wgrad.gradient.square().sum(1), torch.tensor(squares, dtype=torch.float64))


def sample_of(left: Tensor, right: Tensor) -> AccumulatorSample:
    n, nothing = len(left), AdjointTotals(0.0, 0.0, 0.0)
    positions, ones = torch.arange(n), torch.ones(n, dtype=torch.float64)
    slots = ("product/fprop.input", "product/fprop.weight")
    return AccumulatorSample(
        name="product/fprop.accumulator",
        node="mm",
        slots=slots,
        elements=n,
        terms=left.shape[1],
        positions=positions,
        left=left,
        right=right,
        weights=ones,
        loss=ones,
        gradient=ones[None],
        loss_totals=nothing,
        gradient_totals=(nothing,),
    )


def test_swamped_sums_have_a_slope_and_others_none() -> None:
    ones = torch.ones(64, 1000)
    swamped = errors_of_sums(sample_of(ones, ones), Accumulator(format="e8m3"))
    assert swamped.slope == pytest.approx(16 / 1000 - 1, abs=0.03)
    random = sample_of(torch.randn(64, 100), torch.randn(64, 100))
    assert errors_of_sums(random, Accumulator(format="e8m10")).slope == 0
    shrunk = errors_of_sums(random, Accumulator(format="e8m7", rounding="toward_zero"))
    assert -0.2 < shrunk.slope < -0.01
    drawn = errors_of_sums(random, Accumulator(format="e8m7", rounding="stochastic"))
    assert drawn.slope == 0
    assert drawn.variance.gt(0).all()
    assert drawn.spread.eq(0).all()


def test_the_variance_is_that_of_the_partial_sums() -> None:
    """``sum over k of q(s_k)**2 / 12``."""
    left, right = torch.randn(128, 200), torch.randn(128, 200)
    found = errors_of_sums(sample_of(left, right), Accumulator(format="e8m10"))
    partial = (left.double() * right.double()).cumsum(1)
    quanta = 2.0 ** (partial.abs().log2().floor() - 10)
    expected = float((quanta.square() / 12).sum(1).mean())
    assert found.mean_square(torch.ones(128)) == pytest.approx(expected, rel=0.15)


def test_sums_that_overflow_have_infinite_errors() -> None:
    found = errors_of_sums(sample_of(torch.full((4, 9), 100.0), torch.full((4, 9), 100.0)), Accumulator(format="e5m10"))
    assert found.spread.isinf().all()
    assert found.variance_of(AdjointTotals(0.0, 1.0, 1.0)) == float("inf")


def test_both_emulations_agree() -> None:
    sample = sample_of(torch.randn(32, 60), torch.randn(32, 60))
    for options in (
        {},
        {"product": "e5m3"},
        {"chunk": 7},
        {"compensated": True},
        {"order": "pairwise"},
        {"order": "blocked", "block": 8},
        {"order": "aligned", "block": 8, "fraction_bits": 12, "operands": "bf16"},
        {"rounding": "stochastic"},
    ):
        accumulator = Accumulator(format="e5m4", **options)  # type: ignore[arg-type]
        found = [errors_of_sums(sample, accumulator, own) for own in (accumulate_fastest, accumulate_tensor_ops)]
        for name in ("mean", "spread", "variance"):
            assert torch.equal(getattr(found[0], name), getattr(found[1], name))
        assert [found[0].slope, found[0].chance] == [found[1].slope, found[1].chance]


def test_predictions_sum_by_the_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels._fastest() is accumulate
    assert Prediction.accumulate is accumulate_fastest
    monkeypatch.setattr(kernels, "_offers", [lambda: None])
    kernels._fastest.cache_clear()
    try:
        assert kernels._fastest() is accumulate_tensor_ops, "where they cannot be built"
    finally:
        kernels._fastest.cache_clear()


@cache
def trained(model_class: type[nn.Module], sums: int = 64) -> tuple[Prediction, StepMeasurement]:
    torch.manual_seed(0)
    data, model = load_mnist(), model_class()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(200):
        index = torch.randint(len(data.train_images), (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(data.train_images[index]), data.train_labels[index]).backward()
        optimizer.step()
    labels = data.train_labels[:32]
    step = traced(model, data.train_images[:32], lambda y: F.cross_entropy(y, labels))
    found = Sensitivity(probes=8, sums=sums).run(step)
    prediction = Prediction(found, ForwardError().run(step), Calibration(), accumulate)
    return prediction, StepMeasurement(step, Cpp(), accumulating_pipeline(), found.gradient_norm)


def root_mean_square(of: ErrorEstimate) -> float:
    return (of.loss_mean**2 + of.loss**2) ** 0.5


BFLOAT16 = Accumulator(format="e8m7")
CHUNKED = Accumulator(format="e8m7", chunk=16)
BLOCKED = Accumulator(format="e8m7", order="blocked", block=32)
COARSE = Accumulator(format="e8m3", order="blocked", block=16)
DRAWING = Accumulator(format="e8m7", rounding="stochastic")


@pytest.mark.parametrize(
    ("model_class", "operands", "accumulator", "draws"),
    [
        *((MLP, "bf16", own, 40) for own in (BFLOAT16, CHUNKED, BLOCKED, DRAWING)),
        (MLP, "e4m3", precc.parse_accumulator("hopper_fp8"), 40),
        *((LeNet5, "float32", own, 20) for own in (CHUNKED, BLOCKED, COARSE)),
        (LeNet5, "bf16", Accumulator(format="e8m5"), 20),
    ],
    ids=str,
)
def test_predictions_are_near_measurements(
    model_class: type[nn.Module], operands: str, accumulator: Accumulator, draws: int
) -> None:
    prediction, measurement = trained(model_class)
    plan = PrecisionPlan(operands, default_accumulator=accumulator)
    predicted, measured = prediction.of(plan), measurement.draws(plan, draws)
    assert 1 / 2 < root_mean_square(predicted) / root_mean_square(measured.estimate) < 2
    # of some nets an element of max-pooling flips in one draw of six, and is most of the root mean square
    assert float(measured.gradient.median()) / 2 < predicted.gradient < 2 * measured.estimate.gradient


@pytest.mark.parametrize("name", ["e5m10", "e8m3"])
def test_backward_sums_one_at_a_time(name: str) -> None:
    prediction, measurement = trained(MLP, sums=256)  # of 64 few outputs decide: up to 1.51 times what is measured
    for sample in prediction.sensitivities.sums:
        if sample.loss is None:
            plan = PrecisionPlan("float32", accumulators={sample.name: name})
            predicted, measured = prediction.of(plan), measurement.draws(plan, 10).estimate
            assert predicted.loss == 0
            assert 1 / 1.5 < predicted.gradient / measured.gradient < 1.5, sample.name


def test_a_planted_defect_is_seen() -> None:
    """Adjoints that belong to other outputs, or samples of other rows, would not pass the tests above."""
    step = step_of_kind(1)
    found, results = sampled(step, 10_000)
    sample = found[0]
    wrong = replace(sample, left=sample.left.roll(1, 0))
    expected = results[sample.node].detach().reshape(-1)[sample.positions]
    assert not torch.allclose((wrong.left * wrong.right).sum(1), expected)
    prediction, measurement = trained(MLP)
    plan = PrecisionPlan("bf16", default_accumulator=BLOCKED)
    sums = tuple(replace(own, left=own.left * 4) for own in prediction.sensitivities.sums)
    planted = replace(prediction, sensitivities=replace(prediction.sensitivities, sums=sums), _sums={})
    assert planted.of(plan).loss > 1.5 * root_mean_square(measurement.draws(plan, 20).estimate)
