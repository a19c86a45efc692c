"""STORM: steps by hand, the switch of precision, what is no success, bad input, resume."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precc
from precc import STORM
from precc.errors import CaptureError, ClosureError, ControllerError, PlanError
from tests.nets import Convolutional, inputs_of, loss_of, uniform
from tests.test_trust_region import FP32, quadratic, values


def test_one_step_by_hand() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = STORM(net, radius=1.0, gamma=3.0, radius_max=2.0, levels=FP32)
    assert opt.step(closure).item() == 12.5
    # p = -(3, 4) / 5; pred = 5; actual = 4.5; 3 * 1 is cut to 2
    assert values(net) == pytest.approx([2.4, 3.2])
    assert opt.radius == 2.0
    (row,) = net.history
    assert (row.controller, row.event, row.level, row.epsilon) == ("STORM", "accept", 0, 0.0)
    assert row.reason == "rho 0.9 is at least eta1 0.1, the gradient 5 at least 0.001"


def test_a_step_without_enough_decrease_is_no_success() -> None:
    net, closure = quadratic([0.3, 0.4], [1.0, 1.0])
    opt = STORM(net, radius=1.0, gamma=4.0, levels=FP32, momentum=0.5)
    opt.step(closure)  # pred = 0.5, actual = 0
    assert values(net) == pytest.approx([0.3, 0.4])
    assert opt.radius == 0.25
    assert not any("momentum_buffer" in state for state in opt.state.values())
    assert "rho" in net.history[-1].reason


def test_a_gradient_that_is_short_beside_the_radius_is_no_success() -> None:
    for eta2, event in ((5.0, "accept"), (5.1, "reject")):
        net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
        STORM(net, radius=1.0, eta2=eta2, levels=FP32).step(closure)
        assert net.history[-1].event == event
    assert net.history[-1].reason == "the gradient 5 is below eta2 * radius 5.1"


@pytest.mark.parametrize(("error", "level"), [(0.3, 1), (0.2, 2), (0.19, 2)])
def test_the_coarsest_level_within_the_interval_is_taken(error: float, level: int) -> None:
    """Errors are 0.9 on level 0, 0.2 on level 1, none in full precision; pred = 5, eta_precision is error / 5."""
    sizes = {"float8": 0.9, "float16": 0.2 + 1e-4}
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])

    def loss() -> Tensor:
        off = next((own for name, own in sizes.items() if name in str(net.plan.default)), 0.0)
        return closure() + off

    opt = STORM(net, radius=1.0, eta_precision=error / 5, levels=("e4m3", "e5m10", "float32"), loss_scale=1.0)
    opt.step(loss)
    assert opt.level == level
    assert [row.event for row in net.history] == ["refine"] * level + ["accept"]


def test_what_is_not_finite_is_no_success() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = STORM(net, radius=1.0)
    opt.step(lambda: closure() * math.nan)
    assert (opt.level, opt.radius) == (0, 0.5)
    begin = net.x.detach().clone()
    opt.step(lambda: closure() * (1.0 if torch.equal(net.x.detach(), begin) else math.nan))
    assert torch.equal(net.x.detach(), begin)
    assert opt.events["nonfinite"] == opt.events["reject"] == 2


def test_a_loss_that_is_constant() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = STORM(net)
    opt.step(lambda: closure() * 0.0)
    assert opt.events["stationary"] == 1
    assert values(net) == [3.0, 4.0]


def test_levels_without_a_finer_one_are_judged_and_counted() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = STORM(net, radius=1e-3, levels=("e4m3",))
    opt.step(lambda: closure() + (1.0 if net.plan.default != uniform("float32").default else 0.0))
    assert opt.events["ungated"] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"radius": 0.0},
        {"radius": 20.0},
        {"eta1": 1.0},
        {"eta2": 0.0},
        {"gamma": 1.0},
        {"eta_precision": 0.0},
        {"levels": ()},
        {"levels": "budget"},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"loss_scale": 0.0},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    net, _ = quadratic([1.0], [1.0])
    with pytest.raises(ControllerError, match=next(iter(options)).split("_")[0].rstrip("s")):
        STORM(net, **options)


def test_bad_input() -> None:
    with pytest.raises(CaptureError, match="STORM takes a net made by"):
        STORM(nn.Linear(2, 2))  # type: ignore[arg-type]
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = STORM(net)
    with pytest.raises(ClosureError, match="STORM.step needs a closure"):
        opt.step()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(closure()).backward()
    with pytest.raises(ClosureError, match="STORM scales its loss itself"):
        scaler.step(opt)
    with pytest.raises(PlanError, match="not one of STORM"):
        opt.load_state_dict(precc.TrustRegion(net).state_dict())
    net.y = nn.Parameter(torch.zeros(1))
    with pytest.raises(ControllerError, match="'y' to train"):
        opt.step(closure)


def test_a_state_dict_goes_on_bit_for_bit() -> None:
    def start() -> tuple[precc.PrecisionModule, STORM, Callable[[], Tensor]]:
        torch.manual_seed(0)
        model = Convolutional()
        net = precc.compile(model, backend="reference")
        x = inputs_of(model, batch=8)
        return net, STORM(net, radius=0.5, momentum=0.5, weight_decay=1e-3), lambda: loss_of(net, x)

    net, opt, closure = start()
    saved: list[Any] = []
    for _ in range(6):
        saved.append(copy.deepcopy([net.state_dict(), opt.state_dict(), net.precision_state(), torch.get_rng_state()]))
        opt.step(closure)
    for steps in (0, 3):
        other, resumed, other_closure = start()
        weights, own, precision, generator = saved[steps]
        other.load_state_dict(weights)
        other.load_precision_state(precision)
        resumed.load_state_dict(own)
        torch.set_rng_state(generator)
        for _ in range(6 - steps):
            resumed.step(other_closure)
        assert values(other) == values(net)
        assert list(other.history) == list(net.history)
        assert (resumed.radius, resumed.level, resumed.events) == (opt.radius, opt.level, opt.events)
