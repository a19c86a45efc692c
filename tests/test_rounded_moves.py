"""Updates and loss scaling of plans in the optimizers with closures: by hand."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import precc
from precc import STORM, LossScaling, PrecisionPlan, TrustRegion
from precc.errors import ControllerError, PrecisionWarning, UnsupportedError


class Bowl(nn.Module):
    """1/2 ||x||**2, with a product."""

    def __init__(self, start: list[float]) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([start]))

    def forward(self) -> Tensor:
        return 0.5 * (self.x @ self.x.T).sum()


def made(start: list[float], kind: type = TrustRegion, radius: float = 1.0, **plan: object):  # type: ignore[no-untyped-def]
    net = precc.compile(Bowl(start), backend="reference")
    return net, kind(net, radius=radius, levels=[PrecisionPlan("float32", **plan)], momentum=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [TrustRegion, STORM])
def test_a_move_by_hand(kind: type) -> None:
    update = {"gradient": "e4m3", "momentum": "e2m1", "step": "e3m2", "master": "e4m3"}
    net, opt = made([3.1, 4.1], kind, default_update=update)
    opt.step(net)
    # gradient (3.1, 4.1) -> (3, 4); step -(0.6, 0.8) -> -(0.625, 0.75); 3.1 - 0.625 -> 2.5, 4.1 - 0.75 -> 3.25
    assert net.x.tolist() == [[2.5, 3.25]]
    assert opt.state[net.x]["momentum_buffer"].tolist() == [[3.0, 4.0]]
    assert net.x.grad.tolist() == [[3.0, 4.0]]
    assert opt.lost() == {"x": 0.0}
    assert opt.paths == ("x",)


def test_a_step_below_half_a_quantum_is_lost_and_rejected() -> None:
    net, opt = made([3.0, 4.0], radius=0.01, default_update={"master": "e4m3"})
    opt.step(net)
    assert net.x.tolist() == [[3.0, 4.0]]
    assert opt.events["reject"] == 1
    assert opt.lost() == {"x": 1.0}
    assert "100.0% of x" in str(net.report()) or "x" in str(net.report())


def test_stochastic_moves_repeat_within_a_step_and_after_a_resume() -> None:
    update = {"master": precc.Precision("e4m3", precc.Rounding("stochastic"))}
    net, opt = made([3.0, 4.0], radius=0.01, default_update=update)
    for _ in range(3):
        opt.step(net)
    saved = copy.deepcopy((net.state_dict(), opt.state_dict(), torch.get_rng_state()))
    for _ in range(5):
        opt.step(net)
    other, again = made([1.0, 1.0], radius=0.01, default_update=update)
    other.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    for _ in range(5):
        again.step(other)
    assert torch.equal(other.x, net.x)
    assert list(other.history) == list(net.history), "the state has the history"
    assert len(net.history) == 8


def test_the_loss_scaling_of_the_plan_is_that_of_the_closure() -> None:
    net, opt = made([3.0, 4.0], loss_scaling=LossScaling(64.0))
    seen = []
    net.x.register_hook(lambda own: seen.append(own.clone()))
    opt.step(net)
    assert seen[0].tolist() == [[192.0, 256.0]]
    assert opt.get_scale() == 64.0
    assert net.x.grad.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("kind", [TrustRegion, STORM])
def test_a_loss_scaling_that_does_not_fit_is_refused_at_once(kind: type) -> None:
    net = precc.compile(Bowl([3.0, 4.0]), backend="reference")
    dynamic = PrecisionPlan("float32", loss_scaling=LossScaling(64.0, dynamic=True))
    with pytest.raises(UnsupportedError, match=f"{kind.__name__} evaluates a loss at one scale.*not dynamic"):
        kind(net, levels=["e4m3", dynamic])
    static = PrecisionPlan("float32", loss_scaling=64.0)
    with pytest.raises(ControllerError, match=r"loss_scale=8 is not the loss_scaling=64 of level 1"):
        kind(net, levels=["e4m3", static], loss_scale=8.0)
    assert kind(net, levels=["e4m3", static], loss_scale=64.0).get_scale() == 64.0
    assert kind(net, levels=["e4m3", static]).get_scale() == 1024.0


@pytest.mark.parametrize("kind", [TrustRegion, STORM])
def test_each_level_has_its_own_scale_within_one_step(kind: type) -> None:
    net = precc.compile(Bowl([3.0, 4.0]), backend="reference")
    levels = [PrecisionPlan("e5m10", loss_scaling=2.0), PrecisionPlan("float32", loss_scaling=64.0)]
    opt = kind(net, radius=1.0, levels=levels)
    seen = []
    net.x.register_hook(lambda own: seen.append(own.flatten().tolist()))
    opt.step(lambda: net() + (0.0 if "float32" in str(net.plan.default) else 5.0))
    assert opt.level == 1
    assert seen == [[6.0, 8.0], [192.0, 256.0]]
    assert net.x.grad.tolist() == [[3.0, 4.0]]
    assert opt.get_scale() == 64.0


def test_no_warning_says_that_nothing_rounds_or_scales() -> None:
    net, opt = made([3.0, 4.0], default_update={"master": "e4m3"}, loss_scaling=8.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        for _ in range(4):
            opt.step(net)
    copied = copy.deepcopy(opt)
    with warnings.catch_warnings():
        warnings.simplefilter("error", PrecisionWarning)
        for _ in range(4):
            copied.step(copied.net)
