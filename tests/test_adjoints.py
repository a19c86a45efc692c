"""Adjoints of slots, against finite differences of the step itself, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

from precc.analysis.directions import Directions
from precc.analysis.flips import FlipSample
from precc.analysis.slot_sites import groups_of, sites_of, uses_of
from precc.analysis.step_runs import StepRunner, Values
from precc.analysis.traced_step import TracedStep, trace_step
from precc.passes import analysis_pipeline
from precc.passes.sensitivity import Sensitivity
from tests.nets import Attention, Convolutional
from tests.small_nets import RecurrentClassifier


class Smooth(nn.Module):
    """Norms of all kinds and smooth activations, whose backward operators autograd does not all differentiate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.group, self.batch = nn.GroupNorm(2, 4), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 16, 6)
        self.layer = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.group(self.conv(x)))
        hidden = F.avg_pool2d(F.gelu(self.batch(hidden)), 2)
        hidden = F.mish(self.layer(self.fc(hidden.flatten(1))))
        logits: Tensor = self.head(hidden).tanh()
        return logits


class Bags(nn.Module):
    """Embedding bags, summed or averaged."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(12, 5, mode=mode, padding_idx=0)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.bag(x).tanh())
        return logits


def images(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "smooth": (Smooth, lambda: images(4, 2, 8, 8)),
    "attention": (Attention, lambda: images(2, 5, 16)),
    "convolutional": (Convolutional, lambda: images(2, 3, 12, 12)),
    "gru": (lambda: RecurrentClassifier(nn.GRU), lambda: torch.arange(8).reshape(2, 4)),
    "bags summed": (lambda: Bags("sum"), lambda: torch.arange(12).reshape(3, 4)),
    "bags averaged": (lambda: Bags("mean"), lambda: torch.arange(12).reshape(3, 4)),
}


def traced(name: str) -> TracedStep:
    make, inputs = CASES[name]
    torch.manual_seed(0)
    model, x = make().double(), inputs()
    loss = lambda output: (output.square() + 0.3 * output).mean()  # noqa: E731
    return trace_step(model, (x,), {}, loss, title=name, pipeline=analysis_pipeline())


def displaced(step: TracedStep, moves: dict[Node, Tensor], size: float) -> Any:
    sites = {site.node: site for site in sites_of(step)}

    def at_slot(node: Node, values: Values) -> Tensor:
        site = sites[node]
        return site.through(values[site.origin] + size * moves[site.origin], values)

    with torch.no_grad():
        return StepRunner(step, uses_of(list(sites.values()))).run(at_slot)


@pytest.mark.parametrize("name", CASES)
def test_adjoints_are_derivatives(name: str) -> None:
    """``sum(Jbar * d)`` over all slots is the derivative along d, of the loss and of the gradient along each probe."""
    step = traced(name)
    found = Sensitivity(probes=2, samples=1 << 20).run(step)
    generator = torch.Generator().manual_seed(1)
    moves = {}
    for origin in groups_of(sites_of(step)):
        shape = tuple(origin.meta["val"].shape)
        moves[origin] = torch.randn(shape, generator=generator, dtype=torch.float64)
    h = 1e-6
    plus, minus = displaced(step, moves, h), displaced(step, moves, -h)
    of_loss, of_gradient = 0.0, torch.zeros(found.probes, dtype=torch.float64)
    for sample, origin in zip(found.samples, groups_of(sites_of(step)), strict=True):
        move = moves[origin].flatten()
        assert torch.equal(sample.weights, torch.ones_like(sample.weights))
        for slot in sample.slots:
            of_gradient += slot.gradient @ move
            of_loss += 0.0 if slot.loss is None else float(slot.loss @ move)
    assert of_loss == pytest.approx(float(plus.loss - minus.loss) / (2 * h), rel=1e-4)
    difference = sum(float((plus.gradients[g] - minus.gradients[g]).square().sum()) for g in plus.gradients)
    along = float(of_gradient.square().mean())  # two vectors of a space of many dimensions
    assert 0 < along < 40 * difference / (2 * h) ** 2


def inner(vector: list[Tensor], gradient: dict[str, Tensor]) -> float:
    return sum(float((r * own).sum()) for r, own in zip(vector, gradient.values(), strict=True))


def test_directions_make_an_unbiased_estimate_that_is_exact_where_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    zero = {"a": torch.zeros(5), "b": torch.zeros(2, 3)}
    change = {name: torch.randn(own.shape, generator=generator) for name, own in zero.items()}
    other = {name: torch.randn(own.shape, generator=generator) for name, own in zero.items()}
    metric = {"b": torch.full((2, 3), 4.0)}
    means = []
    for seed in range(400):
        directions = Directions(zero, metric, seed)
        directions.add(change)
        estimates = [[factor * inner(r, g) for g in (change, other)] for r, factor in directions.vectors(3)]
        means.append(torch.tensor(estimates).square().mean(0))
    squares = [float(g["a"].square().sum() + 4 * g["b"].square().sum()) for g in (change, other)]
    found = torch.stack(means)
    assert found[:, 0].std() < 1e-4 * squares[0]
    assert found[:, 0].mean() == pytest.approx(squares[0], rel=1e-4)
    assert abs(float(found[:, 1].mean()) - squares[1]) < 4 * float(found[:, 1].std()) / 20


def test_the_chance_of_a_flip() -> None:
    """Against draws of two normal numbers, for kinks at several distances."""
    generator = torch.Generator().manual_seed(0)
    z = torch.linspace(-3, 3, 24, dtype=torch.float64)
    jitter, error = (0.5 * torch.randn(200_000, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    drawn = ((z + jitter > 0) != (z + jitter + error > 0)).double().mean(0)
    ones = torch.ones_like(z)
    errors = 0.5 * torch.randn(4000, len(z), generator=generator, dtype=torch.float64)
    sample = FlipSample.of("node", z, errors, ones[None], ones, near_zero=True)
    for point, chance in zip(z.tolist(), drawn.tolist(), strict=True):
        alone = FlipSample.of("node", ones[:1] * point, errors[:, :1], ones[:1][None], ones[:1], near_zero=True)
        assert float(alone.variance(sample.drawn)) == pytest.approx(chance, abs=0.02)
    assert float(sample.variance(sample.drawn)) == pytest.approx(float(drawn.sum()), rel=0.02)
