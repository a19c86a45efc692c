"""Sums over all values by magnitude, against the sums themselves."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precc
from precc.analysis.displaced_run import LostDisplacement
from precc.analysis.loss_sums import LossSums, MagnitudeMeans, magnitudes_of, summed
from precc.analysis.rounded_sample import errors_of
from precc.analysis.rounding_error import TENSOR, ScaleKey, rounding_errors, scale_key
from precc.analysis.slot_sample import SlotAdjoints, ValueSample, drawn_by_size
from precc.analysis.traced_step import trace_step
from precc.passes import analysis_pipeline
from precc.passes.sensitivity import Sensitivity
from precc.precision import Precision
from precc.rounding.scales import shared_amax


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sums_of(values: Tensor, adjoints: Tensor, curvatures: Tensor) -> LossSums:
    numbers = magnitudes_of(values)
    terms = (adjoints * values, curvatures * values.square(), values * 0, values * 0, values.square())
    slopes, curved, lost, moments, squares = (summed(numbers, own) for own in terms)
    return LossSums.of(slopes, curved[None], lost, moments, squares)


def test_a_magnitude_is_a_sixteenth_of_an_octave_with_its_sign() -> None:
    values = torch.tensor([1.0, 1.0624, 1.0626, -1.0, 2.0, 0.0, -0.0, 1e-40, 3e38])
    numbers = magnitudes_of(values).tolist()
    assert numbers[0] == numbers[1] == numbers[2] - 1 == numbers[4] - 16
    assert numbers[3] == numbers[0] + 4096
    assert (numbers[5], numbers[6]) == (0, 4096)
    assert magnitudes_of(values.double()).tolist() == numbers


def test_means_are_of_each_magnitude_and_of_the_nearest_where_none_was_drawn() -> None:
    values, weights = torch.tensor([1.0, 1.03, 2.0, -8.0]), torch.tensor([1.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    terms = torch.tensor([4.0, 8.0, 5.0, 7.0], dtype=torch.float64)
    wanted = magnitudes_of(torch.tensor([1.0, 2.0, 1.1, 1.9, -1.0, 1e-30])).long()
    own = MagnitudeMeans(magnitudes_of(values), weights)
    assert own.from_sums(own.sums(terms), wanted).tolist() == [7.0, 5.0, 7.0, 5.0, 7.0, 7.0]
    alone = MagnitudeMeans(magnitudes_of(values[:1]), weights[:1])
    assert alone.from_sums(alone.sums(terms[:1]), wanted).tolist() == [4.0] * 6


@pytest.mark.parametrize("choice", ["e2m1", "e2m3", "mxfp4", "int8"])
def test_what_is_lost_is_that_of_all_values(choice: str) -> None:
    """To a small part of its random size, which of scales by block is not so small; a sample is off by far more."""
    precision = Precision(choice) if choice == "mxfp4" else Precision(choice, scaling="tensor")
    v, j = random(64, 4096), random(64, 4096, seed=1)
    every = amax_of(v, precision, slice(None))
    lost = rounding_errors(v.flatten(), precision, every, axis=1).mean
    truth = float(lost @ j.flatten().double())
    drawn = drawn_by_size(v, 8192, 0)
    sampled = amax_of(v, precision, drawn.positions)
    slot = SlotAdjoints("s", 1, 0, None, torch.zeros(0, 8192), sampled)
    sample = ValueSample(v.numel(), v.flatten()[drawn.positions], drawn.weights, v.abs().amax(), (slot,))
    found, sums = errors_of(sample, slot, precision), sums_of(v, j, j)
    values = sample.values.double()
    magnitudes = sample.magnitudes
    means = magnitudes.from_sums(magnitudes.sums(found.mean / values), sums.numbers)
    predicted = float(sums.slopes @ means)
    size = float(lost.square().sum().sqrt())
    assert size > 0
    sampled_terms = drawn.weights * found.mean * j.flatten()[drawn.positions].double()
    of_sample = float(sample.noise_of(sampled_terms).sqrt())
    assert abs(predicted - truth) < (1.5 if choice == "mxfp4" else 0.4) * size < of_sample / 2


def amax_of(v: Tensor, precision: Precision, positions: slice | Tensor) -> dict[ScaleKey, Tensor]:
    row = precision.row(axis=1).current
    key, found = scale_key(row), {TENSOR: v.abs().amax()}
    if key is not None and key != TENSOR:
        found[key] = shared_amax(v.abs(), row).expand_as(v).reshape(-1)[positions]
    return found


class Squares(nn.Module):
    """With the unit matrix for an input, its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(random(512, 512))

    def forward(self, x: Tensor) -> Tensor:
        return torch.mm(x, self.weight)


def test_curvatures_are_second_derivatives() -> None:
    """Of ``1/2 sum(h * w**2)``: h times the square of each weight."""
    h = 1 + random(512, 512, seed=2).abs()
    model = Squares()
    step = trace_step(
        model, (torch.eye(512),), {}, lambda y: (h * y * y).sum() / 2, title="squares", pipeline=analysis_pipeline()
    )
    found = Sensitivity(probes=1).run(step)
    sums = next(own.sums for sample in found.samples for own in sample.slots if own.name.endswith("fprop.weight"))
    assert sums is not None
    w = model.weight.detach()
    assert float(sums.slopes.sum()) == pytest.approx(float((h * w * w).sum()), rel=1e-4)
    for drawn in sums.curvatures:
        assert float(drawn.sum()) == pytest.approx(float((h * w * w).sum()), rel=0.2)
    large = sums.numbers == magnitudes_of(torch.tensor([2.0]))
    own = magnitudes_of(w) == magnitudes_of(torch.tensor([2.0]))
    truth = float((h * w * w).flatten()[own].sum())
    assert float(sums.curvatures.mean(0)[large].sum()) == pytest.approx(truth, rel=0.3)


@pytest.mark.parametrize("size", [1.0, 1.9, 2.0, 1e-30])
def test_lost_values_are_those_that_e2m1_loses(size: float) -> None:
    v = random(4096) ** 3
    v *= size / v.abs().amax()
    v[:2] = torch.tensor([0.0625, 0.0626]) * 2.0 ** math.floor(math.log2(size))  # half of the smallest, and above
    site: Any = SimpleNamespace(origin="v")
    found = LostDisplacement({site.origin: v.abs().amax()}).of(site, v)
    errors = rounding_errors(v, Precision("e2m1", scaling="tensor"), {TENSOR: v.abs().amax()})
    assert torch.allclose(found.double(), errors.mean, rtol=1e-6, atol=0.0)
    assert int((errors.mean != 0).sum()) > 100


class Saturated(nn.Module):
    """A large input of one sign: what is cut off acts together."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(256, 64, bias=False)
        nn.init.constant_(self.linear.weight, 1 / 16)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.linear(x)
        return hidden


@pytest.mark.parametrize("choice", ["e2m1", "e4m3", "e2m3"])
def test_errors_of_one_sign_act_together(choice: str) -> None:
    """The mean of the loss error under a plan that cuts off large inputs is that of the values so cut off."""
    x = 1 + 0.98 * torch.rand(32, 256, generator=torch.Generator().manual_seed(0))
    net: Any = precc.compile(Saturated(), backend="reference")
    mean = float(net(x).detach().mean())
    found = net.analyze(x, loss=lambda output: (output - mean).square().mean())
    slot = "linear/product/fprop.input"
    plan = precc.PrecisionPlan("float32", {slot: precc.Precision(choice, scaling="tensor")})
    predicted, measured = found.predict(plan), found.measure(plan, 10)
    assert measured.loss_mean > 10 * measured.standard_error.loss_mean
    assert 1 / 2 < predicted.loss_mean / measured.loss_mean < 2
