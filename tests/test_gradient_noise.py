"""The variance of the gradient of a batch: by hand, and against what it estimates."""

import math

import pytest
import torch
from torch import nn

from precc.control.gradient_noise import (
    MicroBatches,
    adam_metric,
    adam_moments,
    noise_of_moments,
    noise_of_parts,
    rounding_of_halves,
)
from precc.errors import ControllerError


def test_of_parts_by_hand() -> None:
    parts = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 2.0])}, {"w": torch.tensor([2.0, 5.0])}]
    # about the mean (2, 3): 1 + 1, 1 + 1, 0 + 4
    assert noise_of_parts(parts, {}) == pytest.approx(3 / 2 * 8)
    assert noise_of_parts(parts, {"w": torch.tensor([1.0, 0.5])}) == pytest.approx(3 / 2 * (2 + 6 * 0.5))
    with pytest.raises(ControllerError, match="two at least"):
        noise_of_parts(parts[:1], {})


def test_two_halves_estimate_the_variance_of_the_whole() -> None:
    """The mean of 64 numbers of variance 1 has variance 1/64; over 4,000 draws the mean estimate is within 5 sigma."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4000, 2, 32, generator=generator).mean(-1)
    found = [noise_of_parts([{"w": half / 2} for half in own], {}) for own in draws]
    deviation = math.sqrt(2 / 4000) / 64  # of the mean of chi-squares of one degree
    assert sum(found) / 4000 == pytest.approx(1 / 64, abs=5 * deviation)


def test_of_moments_by_hand() -> None:
    first, second = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 1.0])}
    assert noise_of_moments(first, second, {}) == pytest.approx(2.0), "a negative variance counts as 0"


def test_micro_batches_give_the_spread_of_their_parts() -> None:
    net = nn.Linear(3, 2, bias=False)
    xs = [torch.randn(4, 3) for _ in range(3)]
    watch = MicroBatches({"weight": net.weight}, {})
    parts = []
    for x in xs:
        loss = net(x).square().mean()
        parts.append({"weight": torch.autograd.grad(loss, net.weight, retain_graph=True)[0]})
        loss.backward()
    watch.close()
    assert watch.count == 3
    assert net.weight.grad is not None
    assert watch.total == pytest.approx(float(net.weight.grad.norm()))
    assert watch.part == pytest.approx(math.sqrt(sum(float(own["weight"].square().sum()) for own in parts) / 3))
    assert watch.variance == pytest.approx(noise_of_parts(parts, {}) / 9, rel=1e-4), "of the mean, not of the sum"
    net(xs[0]).sum().backward()
    assert watch.count == 3, "it is closed"


def test_one_backward_has_no_spread() -> None:
    net = nn.Linear(3, 2)
    watch = MicroBatches(dict(net.named_parameters()), {})
    net(torch.randn(4, 3)).sum().backward()
    assert watch.variance is None


def test_a_parameter_that_misses_some_backwards_counts_as_zero_there() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    watch = MicroBatches({"a": a, "b": b}, {})
    (2 * a + 3 * b).sum().backward()
    (4 * a).sum().backward()
    assert watch.count == 2
    # parts (2, 3) and (4, 0) about (3, 1.5)
    assert watch.variance == pytest.approx((2 + 4.5) / 2)


def test_rounding_of_halves_by_hand() -> None:
    first, second = {"w": torch.tensor([2.0, 1.0])}, {"w": torch.tensor([2.0, -3.0])}
    # <a, b> = 1; |(a + b) / 2|**2 = 5
    assert rounding_of_halves(first, second, {}) == pytest.approx((1.0, 4.0))
    opposite = {"w": -first["w"]}
    assert rounding_of_halves(first, opposite, {}) == (0.0, 0.0)


def test_the_metric_and_the_moments_of_adam() -> None:
    net = nn.Linear(2, 1, bias=False)
    adam = torch.optim.Adam(net.parameters(), betas=(0.9, 0.99), eps=0.5)
    parameters = dict(net.named_parameters())
    assert adam_metric(parameters, adam.state, adam.param_groups) == {}, "before the first step"
    gradient = torch.tensor([[3.0, -4.0]])
    for _ in range(2):
        net.weight.grad = gradient.clone()
        adam.step()
    metric = adam_metric(parameters, adam.state, adam.param_groups)
    torch.testing.assert_close(metric["weight"], 1 / (gradient.abs() + 0.5))
    moments = adam_moments(parameters, adam.state, adam.param_groups)
    assert moments is not None
    torch.testing.assert_close(moments[0]["weight"], gradient)
    torch.testing.assert_close(moments[1]["weight"], gradient.square())
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    sgd.step()
    assert adam_metric(parameters, sgd.state, sgd.param_groups) == {}
    assert adam_moments(parameters, sgd.state, sgd.param_groups) is None
