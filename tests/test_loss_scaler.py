"""Loss scaling as a plan says: constants by hand, skipped steps, plans that change, resumed trainings."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

import precc
from precc import LossScaler, LossScaling, PrecisionPlan, Rule
from precc.errors import CaptureError, ControllerError, PrecisionWarning

X = torch.tensor([[1.0, 2.0]])


def compiled(scaling: LossScaling | float | None, fmt: str = "fp32") -> precc.PrecisionModule:
    model = nn.Linear(2, 1, bias=False)
    model.weight = nn.Parameter(torch.tensor([[1.0, 1.0]]))
    return precc.compile(model, plan=PrecisionPlan(fmt, loss_scaling=scaling), backend="reference")


def step(net: nn.Module, scaler: LossScaler, optimizer: Any, factor: float = 1.0) -> float:
    """One iteration; the gradient of the weight before it is unscaled, over that of the loss."""
    optimizer.zero_grad()
    scaler.scale(net(X).sum() * factor).backward()
    scaled = net.weight.grad[0, 0].item()
    scaler.step(optimizer)
    scaler.update()
    return scaled


def test_a_static_scale_never_changes() -> None:
    net = compiled(LossScaling(256.0, growth_interval=1))
    scaler, optimizer = LossScaler(net), SGD(net.parameters(), lr=0.25)
    assert scaler.get_scale() == 256
    for _ in range(3):
        assert step(net, scaler, optimizer) == 256
    assert net.weight.tolist() == [[0.25, -0.5]]
    assert step(net, scaler, optimizer, math.inf) == math.inf
    assert net.weight.tolist() == [[0.25, -0.5]], "skipped"
    assert scaler.get_scale() == 256
    assert [(row.step, row.controller, row.event) for row in net.history] == [(3, "LossScaler", "skip")]
    assert net.history[0].reason == "gradients are not finite under a loss scale of 256"
    assert "events: 1 skip" in net.report().notes
    assert "loss scaled by 256 (now 256)" in net.report().notes


def test_a_dynamic_scale_follows_the_plans_constants() -> None:
    net = compiled(LossScaling(8.0, dynamic=True, growth_factor=4.0, backoff_factor=0.25, growth_interval=2))
    scaler, optimizer = LossScaler(net), SGD(net.parameters(), lr=0.25)
    factors = [1.0, 1.0, 1.0, math.inf, 1.0, 1.0, 1.0]
    assert [step(net, scaler, optimizer, factor) for factor in factors] == [8, 8, 32, math.inf, 8, 8, 32]
    assert [(row.step, row.event, row.reason) for row in net.history] == [
        (1, "rescale", "8 -> 32: 2 steps were finite"),
        (3, "skip", "gradients are not finite under a loss scale of 32"),
        (3, "rescale", "32 -> 8: a step was skipped"),
        (5, "rescale", "8 -> 32: 2 steps were finite"),
    ]


@pytest.mark.parametrize("fused", [False, True])
def test_a_dynamic_scale_is_that_of_torch(fused: bool) -> None:
    net, plain = compiled(LossScaling(64.0, dynamic=True, growth_interval=3)), compiled(None)
    ours, theirs = LossScaler(net), torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
    optimizers = [Adam(own.parameters(), lr=0.1, fused=fused) for own in (net, plain)]
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        factor = math.inf if torch.rand((), generator=generator) < 0.2 else 1.0
        for own, scaler, optimizer in zip((net, plain), (ours, theirs), optimizers, strict=True):
            step(own, scaler, optimizer, factor)
        assert ours.get_scale() == theirs.get_scale()
        assert torch.equal(net.weight, plain.weight)
    assert len({row.reason for row in net.history}) > 5
    assert theirs.state_dict().items() <= ours.state_dict().items()


def test_a_plan_without_loss_scaling_scales_by_one() -> None:
    net = compiled(None)
    scaler, optimizer = LossScaler(net), SGD(net.parameters(), lr=0.25)
    assert step(net, scaler, optimizer) == 1
    step(net, scaler, optimizer, math.inf)
    assert step(net, scaler, optimizer) == 1
    assert [row.event for row in net.history] == ["skip"]


def test_small_gradients_outlive_a_format_that_flushes_them() -> None:
    weights = []
    for scaling in (None, 2.0**14):
        net = compiled(scaling, "e4m3")
        optimizer = SGD(net.parameters(), lr=2.0**14)
        step(net, LossScaler(net), optimizer, 2.0**-14)
        weights.append(net.weight.tolist())
    assert weights == [[[1.0, 1.0]], [[0.0, -1.0]]]


def test_another_plan_acts_on_the_next_iteration() -> None:
    net = compiled(4.0)
    scaler, optimizer = LossScaler(net), SGD(net.parameters(), lr=0.25)
    optimizer.zero_grad()
    scaler.scale(net(X).sum()).backward()
    net.set_plan(PrecisionPlan("fp32", loss_scaling=LossScaling(16.0, dynamic=True, growth_interval=1)))
    assert scaler.get_scale() == 4
    scaler.scale(net(X).sum()).backward()  # of the same iteration
    assert net.weight.grad.tolist() == [[8.0, 16.0]]
    scaler.step(optimizer)
    scaler.update()
    assert net.weight.grad.tolist() == [[2.0, 4.0]]
    assert scaler.get_scale() == 16
    assert step(net, scaler, optimizer) == 16
    assert [row.reason for row in net.history] == ["4 -> 16: the plan's", "16 -> 32: 1 steps were finite"]
    assert scaler.get_scale() == 32
    net.set_plan(PrecisionPlan("e4m3", net.plan.slots, loss_scaling=net.plan.loss_scaling))
    assert scaler.get_scale() == 32, "the same scaling in another plan goes on"
    net.set_plan(PrecisionPlan("fp32"))
    assert step(net, scaler, optimizer) == 1


@pytest.mark.parametrize("plan_first", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
def test_a_resumed_training_has_the_same_scales(plan_first: bool, dynamic: bool) -> None:
    factors = [1.0, math.inf, 1.0, 1.0, 1.0, 1.0, math.inf, 1.0, 1.0]
    net = compiled(LossScaling(64.0, dynamic=dynamic, growth_interval=3))
    scaler, optimizer = LossScaler(net), SGD(net.parameters(), lr=0.25)
    scales = [step(net, scaler, optimizer, factor) for factor in factors[:4]]
    saved = (scaler.state_dict(), net.precision_state())
    other = compiled(None)
    resumed, second = LossScaler(other), SGD(other.parameters(), lr=0.25)
    for load in (0, 1) if plan_first else (1, 0):
        if load == 0:
            other.load_precision_state(saved[1])
        else:
            resumed.load_state_dict(saved[0])
        str(other.report())
    assert resumed.get_scale() == scaler.get_scale() == (32 if dynamic else 64)
    assert resumed.steps == 4
    later = [step(net, scaler, optimizer, factor) for factor in factors[4:]]
    assert [step(other, resumed, second, factor) for factor in factors[4:]] == later
    assert scales[0] == 64
    assert [row.step for row in other.history] == [row.step for row in net.history]


def test_states_of_a_grad_scaler_go_on() -> None:
    theirs = torch.amp.GradScaler("cpu", init_scale=128.0)
    net = compiled(LossScaling(8.0, dynamic=True))
    scaler = LossScaler(net)
    scaler.load_state_dict(theirs.state_dict())
    assert step(net, scaler, SGD(net.parameters(), lr=0.25)) == 128
    theirs.load_state_dict(scaler.state_dict())
    assert theirs.get_scale() == 128


def test_rounded_updates_see_gradients_without_the_scale() -> None:
    weights = []
    for scaling in (None, 3.0):
        net = compiled(scaling)
        net.set_plan(PrecisionPlan("fp32", loss_scaling=scaling, default_update={"gradient": "e4m3"}))
        optimizer = SGD(net.parameters(), lr=0.25)
        precc.RoundedUpdates(net, optimizer)
        step(net, LossScaler(net), optimizer, 1.3)
        weights.append(net.weight.tolist())
        assert net.weight.grad.tolist() == [[1.25, 2.5]]
    assert weights[0] == weights[1] == [[0.6875, 0.375]]


def test_a_training_that_scales_no_losses_is_told_once() -> None:
    net = compiled(8.0)
    optimizer = SGD(net.parameters(), lr=0.25)
    assert "losses are not scaled: precc.LossScaler(net) does" in net.report().notes
    net(X).sum().backward()
    optimizer.step()
    with pytest.warns(PrecisionWarning, match="losses are not scaled"):
        net(X)
    optimizer.step()
    net(X)
    scaler = LossScaler(net)
    assert "losses are not scaled" not in str(net.report())
    del scaler


def test_what_a_scaler_cannot_take() -> None:
    with pytest.raises(CaptureError, match="made by precc.compile"):
        LossScaler(nn.Linear(2, 1))
    frozen = precc.compile(nn.Linear(2, 1).requires_grad_(False), rules=[Rule(keep="fp32")], backend="reference")
    with pytest.raises(ControllerError, match="no parameter that requires a gradient"):
        LossScaler(frozen)
    with pytest.raises(ControllerError, match="on the processor or on CUDA devices, not on"):
        LossScaler(precc.compile(nn.Linear(2, 1).to("meta"), backend="reference"))
    scaler = LossScaler(compiled(8.0))
    with pytest.raises(ControllerError, match="the plan's"):
        scaler.update(16.0)


def test_several_losses_and_optimizers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    net = precc.compile(model, plan=PrecisionPlan("fp32", loss_scaling=8.0), backend="reference")
    scaler = LossScaler(net)
    optimizers = [SGD(part.parameters(), lr=0.1) for part in net]
    losses: list[Tensor] = [net(X).sum(), net(X).square().sum()]
    assert [own.item() for own in scaler.scale(losses)] == [8 * own.item() for own in losses]
    net(X).sum().backward()
    net[0].weight.grad.fill_(math.nan)
    for own in optimizers:
        scaler.step(own)
    scaler.update()
    assert [row.event for row in net.history] == ["skip"]
