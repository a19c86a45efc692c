"""The optimizer: steps by hand, evaluations that change nothing, switches, bad input, resume."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precc
from precc import TrustRegion
from precc.errors import CaptureError, ClosureError, ControllerError, FormatError, PlanError, UnsupportedError
from precc.models.lenet5 import LeNet5
from tests.nets import Convolutional, inputs_of, loss_of, uniform

FP32 = ("float32",)


class Quadratic(nn.Module):
    """f(x) = 1/2 sum(d * x**2), written with a product, so that formats act on it."""

    def __init__(self, start: list[float], diagonal: list[float]) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([start]))
        self.register_buffer("d", torch.diag(torch.tensor(diagonal)))

    def forward(self, shift: Tensor) -> Tensor:
        assert isinstance(self.d, Tensor)
        moved = self.x + shift
        return 0.5 * ((moved @ self.d) * moved).sum()


def quadratic(start: list[float], diagonal: list[float]) -> tuple[precc.PrecisionModule, Callable[[], Tensor]]:
    net = precc.compile(Quadratic(start, diagonal), backend="reference")
    return net, lambda: net(torch.zeros(1, len(start)))


def values(net: nn.Module) -> list[float]:
    return [value for parameter in net.parameters() for value in parameter.detach().flatten().tolist()]


def test_one_step_by_hand() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = TrustRegion(net, radius=1.0, levels=FP32)
    loss = opt.step(closure)
    assert loss.item() == 12.5
    # p = -(3, 4) / 5; pred = 5; actual = 12.5 - 8 = 4.5, rho = 0.9: doubled
    assert values(net) == pytest.approx([2.4, 3.2])
    assert opt.radius == 2.0
    assert opt.param_groups[0]["lr"] == 2.0
    assert opt.events == {"accept": 1}
    gradient = next(net.parameters()).grad
    assert gradient is not None
    assert gradient.flatten().tolist() == [3.0, 4.0]


def test_a_rejected_step_leaves_everything_and_halves_the_radius() -> None:
    net, closure = quadratic([0.3, 0.4], [1.0, 1.0])
    opt = TrustRegion(net, radius=1.0, levels=FP32, momentum=0.9)
    before = values(net)
    opt.step(closure)  # pred = 0.5, actual = 0.125 - 0.125 = 0
    assert values(net) == before
    assert opt.radius == 0.5
    assert opt.events == {"reject": 1}
    assert not any("momentum_buffer" in state for state in opt.state.values())
    opt.step(closure)  # half the distance: actual = 0.125, pred = 0.25
    assert values(net) == pytest.approx([0.0, 0.0], abs=1e-7)
    assert opt.events == {"reject": 1, "accept": 1}


def test_weight_decay_enters_both_reductions_exactly() -> None:
    net, closure = quadratic([3.0, 4.0], [0.0, 0.0])
    opt = TrustRegion(net, radius=1.0, levels=FP32, weight_decay=2.0)
    # f = 0, F = ||x||**2, gradient 2 x: the model is exact, so rho = 1
    opt.step(closure)
    assert values(net) == pytest.approx([2.4, 3.2])
    assert opt.radius == 2.0


def test_momentum_is_heavy_ball_and_dropped_when_it_points_uphill() -> None:
    net, closure = quadratic([1.0, 1.0], [1.0, 100.0])
    opt = TrustRegion(net, radius=0.1, levels=FP32, momentum=0.5, eta1=1e-6, eta2=1 - 1e-9)
    g0 = torch.tensor([1.0, 100.0])
    opt.step(closure)
    x1 = torch.tensor([1.0, 1.0]) - 0.1 * g0 / g0.norm()
    assert values(net) == pytest.approx(x1.tolist())
    g1 = torch.tensor([1.0, 100.0]) * x1
    ball = 0.5 * g0 + g1
    opt.step(closure)
    x2 = x1 - 0.1 * ball / ball.norm()
    assert values(net) == pytest.approx(x2.tolist())
    with torch.no_grad():
        next(net.parameters()).copy_(torch.tensor([[-1.0, -0.3]]))
    # G = 0.5 * ball + g would have <g, G> <= 0: the step goes against g alone
    g = torch.tensor([-1.0, -30.0])
    opt.step(closure)
    assert values(net) == pytest.approx((torch.tensor([-1.0, -0.3]) - 0.1 * g / g.norm()).tolist())


def test_a_failed_gate_changes_the_level_and_compiles_nothing() -> None:
    model = LeNet5()
    x = inputs_of(model, batch=16)
    net = precc.compile(model, backend="reference")
    opt = TrustRegion(net, radius=1e-7)  # so little is predicted that e4m3 and e5m10 are too coarse to judge it
    net(x)
    compilations = net.compilations
    opt.step(lambda: loss_of(net, x))
    assert opt.level == 2
    assert opt.events["refine"] == 2
    assert net.plan == uniform("float32")
    assert net.compilations == compilations == 1
    opt.step(lambda: loss_of(net, x))
    assert opt.level == 2, "levels are refined only"


def test_a_wide_gate_keeps_the_coarse_level() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])  # exact in e4m3
    opt = TrustRegion(net, radius=0.5)
    opt.step(closure)
    assert opt.level == 0
    assert net.plan == uniform("e4m3")
    assert set(net.precision_state()["multiply_adds"]) == {"float8_e4m3fn", "float32"}


class Noted(nn.Module):
    """Counts its forwards in a buffer, and remembers its masks."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.drop(self.norm(self.fc(x)))
        return result


@pytest.mark.parametrize("radius", [1e-3, 1e3])  # accepted, rejected
@pytest.mark.parametrize("backend", ["reference", "inductor"])
def test_all_evaluations_of_a_step_see_one_mask_and_one_state(radius: float, backend: str) -> None:
    net = precc.compile(Noted(), backend=backend)
    x = torch.randn(16, 8)
    masks: list[Tensor] = []

    def closure() -> Tensor:
        output = net(x)
        masks.append(output.detach() == 0)
        return output.square().sum() * 1e-3

    plain = copy.deepcopy(net)
    torch.manual_seed(5)
    plain(x)
    after_one_forward = torch.get_rng_state()
    torch.manual_seed(5)
    opt = TrustRegion(net, radius=radius, levels=("e5m10", "float32"))
    opt.step(closure)
    accepted = opt.events["accept"] == 1
    assert accepted == (radius < 1)
    assert len(masks) >= 3
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert torch.equal(torch.get_rng_state(), after_one_forward)
    assert net.norm.num_batches_tracked.item() == (1 if accepted else 0)
    if not accepted:
        assert torch.equal(net.norm.running_mean, torch.zeros(8))


def test_closures_that_call_backward_are_accepted() -> None:
    results = []
    for calls_backward in (False, True):
        net, loss_function = quadratic([3.0, 4.0], [1.0, 2.0])
        opt = TrustRegion(net, radius=0.3, levels=FP32)  # in e4m3 the loss scale, or its absence, would show

        def closure(
            opt: TrustRegion = opt,
            loss_function: Callable[[], Tensor] = loss_function,
            calls_backward: bool = calls_backward,
        ) -> Tensor:
            if calls_backward:
                opt.zero_grad()
                loss = loss_function()
                loss.backward()
                return loss
            return loss_function()

        for _ in range(3):
            opt.step(closure)
        results.append((values(net), opt.radius, opt.events))
    assert results[0] == results[1]


def test_loss_scale_does_not_move_an_exact_step() -> None:
    results = []
    for scale in (1.0, 1024.0):
        net, closure = quadratic([3.0, 4.0], [1.0, 2.0])
        TrustRegion(net, radius=0.3, levels=FP32, loss_scale=scale).step(closure)
        results.append(values(net))
    assert results[0] == results[1]


def test_loss_scale_saves_small_gradients_from_underflow() -> None:
    model = nn.Linear(4, 1, bias=False)
    lengths = []
    for scale in (1.0, 2.0**14):
        net = precc.compile(copy.deepcopy(model), backend="reference")
        x = torch.ones(1, 4)
        opt = TrustRegion(net, levels=("e4m3",), loss_scale=scale)
        opt.step(lambda net=net, x=x: net(x).sum() * 1e-4)
        lengths.append(sum(p.grad.norm().item() for p in net.parameters() if p.grad is not None))
    assert lengths[0] == 0.0
    assert lengths[1] == pytest.approx(2e-4, rel=0.07)


def test_evaluate_every_takes_the_steps_between_without_judging() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    calls = 0

    def counted() -> Tensor:
        nonlocal calls
        calls += 1
        return closure()

    opt = TrustRegion(net, radius=0.01, levels=FP32, evaluate_every=3)
    for _ in range(6):
        opt.step(counted)
    assert calls == 6 + 2  # x + p on the first and the fourth step; full precision is the level itself
    assert opt.radius == 0.04


def test_schedulers_act_on_the_radius() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = TrustRegion(net, radius=0.01, levels=FP32, eta2=1 - 1e-9, eta1=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, step_size=1, gamma=0.5)
    before = values(net)
    opt.step(closure)
    scheduler.step()
    assert opt.radius == 0.005
    moved = math.dist(before, values(net))
    before = values(net)
    opt.step(closure)
    assert math.dist(before, values(net)) == pytest.approx(moved / 2, rel=1e-3)


@pytest.mark.parametrize("where", ["loss", "gradient", "after the step"])
@pytest.mark.parametrize("levels", [FP32, ("e4m3", "e5m10", "float32")])
def test_what_is_not_finite_is_rejected_counted_and_reported(where: str, levels: tuple[str, ...]) -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = TrustRegion(net, radius=1.0, levels=levels)
    calls = 0

    def broken() -> Tensor:
        nonlocal calls
        calls += 1
        loss = closure()
        if where == "gradient":
            return loss + (loss - loss.detach()).abs().sqrt()  # the derivative of sqrt at 0 is infinite
        return loss * math.nan if where == "loss" or calls > len(levels[:2]) else loss

    before = values(net)
    opt.step(broken)
    assert values(net) == before
    assert opt.radius == 0.5
    assert opt.events["reject"] == opt.events["nonfinite"] == 1
    assert opt.level == 0, "no level is at fault where full precision is not finite either"
    assert "1 nonfinite" in str(net.report())
    opt.step(closure)
    assert opt.events["accept"] == 1


def test_a_level_that_overflows_is_refined_not_blamed_on_the_step() -> None:
    net, _ = quadratic([300.0, 400.0], [1000.0, 1.0])
    opt = TrustRegion(net, radius=1.0, levels=("e5m10", "float32"))

    def overflowing() -> Tensor:  # 1e5 is beyond float16
        return net(torch.full((1, 2), 1e5)) * 1e-12

    opt.step(overflowing)
    assert opt.level == 1
    assert opt.events["nonfinite"] == 1
    assert opt.events["refine"] == 1


def test_a_zero_gradient_is_no_step() -> None:
    net, closure = quadratic([0.0, 0.0], [1.0, 1.0])
    opt = TrustRegion(net)
    opt.step(closure)
    assert values(net) == [0.0, 0.0]
    assert opt.events["stationary"] == 1
    assert opt.radius == 0.1


def test_levels_without_a_finer_one_are_judged_and_counted() -> None:
    model = LeNet5()
    x = inputs_of(model, batch=16)
    net = precc.compile(model, backend="reference")
    opt = TrustRegion(net, radius=1e-7, levels=("e4m3",))
    opt.step(lambda: loss_of(net, x))
    assert opt.events["ungated"] == 1


@pytest.mark.parametrize(
    ("closure", "message"),
    [
        (None, r"needs a closure: opt\.step\(lambda"),
        (lambda: 1.0, "as a tensor, not float"),
        (lambda: None, "as a tensor, not NoneType"),
        (lambda: torch.zeros(3, requires_grad=True), r"one real number, not a torch.float32 tensor of shape \[3\]"),
        (lambda: torch.tensor(1), "one real number, not a torch.int64"),
        (lambda: torch.tensor(1.0), r"did not call the net of this optimizer: does it say net\(x\)"),
    ],
)
def test_closures_that_return_no_loss(closure: Any, message: str) -> None:
    net, good = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = TrustRegion(net)
    before = values(net)
    with pytest.raises(ClosureError, match=message):
        opt.step(closure)
    assert values(net) == before
    opt.step(good)


def test_an_error_in_the_closure_loses_nothing() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = TrustRegion(net, radius=0.5, levels=("e4m3", "float32"))
    calls = 0

    def failing() -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # at x + p
            raise KeyboardInterrupt
        return closure()

    before = values(net)
    with pytest.raises(KeyboardInterrupt):
        opt.step(failing)
    assert values(net) == before
    assert net.plan == uniform("e4m3")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gate": "sources"}, ControllerError),
        ({"epsilon": "guessed"}, ControllerError),
        ({"points": "y"}, ControllerError),
        ({"gate": "difference", "epsilon": "predicted"}, ControllerError),
        ({"momentum_form": "nesterov"}, ControllerError),
        ({"on_reject": "cry"}, ControllerError),
        ({"z": -1.0}, ControllerError),
        ({"zeta": 0.5}, ControllerError),
        ({"noise_tolerance": 1.0}, ControllerError),
        ({"monotone": False, "coarsen_after": 0}, ControllerError),
        ({"levels": "budget", "budget": 0.0}, ControllerError),
        ({"levels": "budget", "budget": math.inf}, ControllerError),
        ({"budget": 0.1}, ControllerError),
        ({"loss": 3}, ControllerError),
        ({"levels": ()}, ControllerError),
        ({"levels": "e4m3"}, ControllerError),
        ({"levels": uniform("e4m3")}, ControllerError),
        ({"levels": (precc.Uniform,)}, PlanError),
        ({"levels": ("fp7",)}, FormatError),
        ({"levels": (3,)}, PlanError),
        ({"radius": 0.0}, ControllerError),
        ({"eta1": 0.9, "eta2": 0.5}, ControllerError),
        ({"evaluate_every": 0}, ControllerError),
        ({"evaluate_every": 1.5}, ControllerError),
        ({"evaluate_every": math.inf}, ControllerError),
        ({"momentum": 1.0}, ControllerError),
        ({"momentum": -0.1}, ControllerError),
        ({"weight_decay": -1.0}, ControllerError),
        ({"loss_scale": 0.0}, ControllerError),
        ({"loss_scale": math.nan}, ControllerError),
    ],
)
def test_options_out_of_range(options: dict[str, Any], error: type[Exception]) -> None:
    net, _ = quadratic([1.0], [1.0])
    with pytest.raises(error):
        TrustRegion(net, **options)


def test_a_closure_that_calls_the_model_is_an_error() -> None:
    model = LeNet5()
    net = precc.compile(model, backend="reference")
    x = inputs_of(model)
    with pytest.raises(ClosureError, match="did not call the net"):
        TrustRegion(net).step(lambda: loss_of(model, x))


def test_a_detached_loss_is_an_error() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    with pytest.raises(ClosureError, match="depends on no parameter"):
        TrustRegion(net).step(lambda: closure().detach())


def test_a_step_under_no_grad_is_a_step() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    with torch.no_grad():
        TrustRegion(net, radius=1.0, levels=FP32).step(closure)
    assert values(net) == pytest.approx([2.4, 3.2])


@pytest.mark.parametrize("gradient", [1e-4, 300.0])
def test_norms_of_float16_gradients_neither_underflow_nor_overflow(gradient: float) -> None:
    net = precc.compile(nn.Linear(4, 1, bias=False).half(), backend="reference")
    before = torch.tensor(values(net))
    x = torch.full((1, 4), gradient).half()
    TrustRegion(net, radius=0.5, levels=FP32, loss_scale=1.0).step(lambda: net(x).sum())
    assert (before - torch.tensor(values(net))).tolist() == pytest.approx([0.25] * 4, abs=1e-3)


def test_the_loss_scale_of_a_float16_net_outlives_its_removal() -> None:
    net = precc.compile(nn.Linear(4, 1, bias=False).half(), backend="reference")
    opt = TrustRegion(net, radius=0.5, levels=FP32)
    opt.step(lambda: net(torch.ones(1, 4).half()).float().sum() * 1e-8)  # below float16's smallest number
    assert "stationary" not in opt.events


def test_a_step_between_evaluations_needs_a_predicted_decrease() -> None:
    net, closure = quadratic([0.3, 0.4], [1.0, 1.0])
    opt = TrustRegion(net, radius=0.01, levels=FP32, weight_decay=10.0, evaluate_every=2)
    opt.step(closure)
    opt.param_groups[0]["lr"] = 50.0
    before = values(net)
    opt.step(closure)
    assert values(net) == before
    assert opt.radius == 25.0


def test_groups_share_the_radius() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = TrustRegion(net, radius=0.5, levels=FP32)
    extra = nn.Parameter(torch.ones(1))
    with pytest.raises(ControllerError, match="one radius for all groups"):
        opt.add_param_group({"params": [extra], "lr": 7.0})
    with pytest.raises(ControllerError, match="momentum"):
        opt.add_param_group({"params": [extra], "momentum": 3.0})
    opt.add_param_group({"params": [extra], "weight_decay": 1.0})
    opt.step(closure)
    assert [group["lr"] for group in opt.param_groups] == [1.0, 1.0]


def test_a_copied_optimizer_goes_on_with_the_copied_net() -> None:
    net, closure = quadratic([3.0, 4.0], [1.0, 1.0])
    opt = TrustRegion(net, radius=0.5, levels=FP32, momentum=0.5)
    opt.step(closure)
    twin_net, twin = copy.deepcopy((net, opt))
    assert twin.net is twin_net
    opt.step(closure)
    twin.step(lambda: twin_net(torch.zeros(1, 2)))
    assert values(twin_net) == values(net)
    assert twin.events == opt.events


def test_a_net_without_trainable_parameters() -> None:
    net = precc.compile(nn.Linear(2, 2).requires_grad_(False), backend="reference")
    with pytest.raises(ControllerError, match="no parameter that requires a gradient"):
        TrustRegion(net)


def test_it_takes_a_compiled_net() -> None:
    with pytest.raises(CaptureError, match=r"made by precc\.compile, not Linear"):
        TrustRegion(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_sparse_gradients_are_refused() -> None:
    net = precc.compile(nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 1)), backend="reference")
    opt = TrustRegion(net)

    def closure() -> Tensor:
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter).to_sparse()
        return net(torch.tensor([0, 1])).sum()

    with pytest.raises(UnsupportedError, match="sparse"):
        opt.step(closure)


def test_state_dicts_go_both_ways() -> None:
    def start() -> tuple[precc.PrecisionModule, TrustRegion, Callable[[], Tensor]]:
        torch.manual_seed(0)
        model = Convolutional()
        net = precc.compile(model, backend="reference")
        x = inputs_of(model, batch=8)
        opt = TrustRegion(net, momentum=0.5, weight_decay=1e-3, evaluate_every=2)
        return net, opt, lambda: loss_of(net, x)

    net, opt, closure = start()
    for _ in range(4):
        opt.step(closure)
    saved, optimizer_state = copy.deepcopy(net.state_dict()), copy.deepcopy(opt.state_dict())
    generator = torch.get_rng_state()
    for _ in range(3):
        opt.step(closure)

    other, resumed, other_closure = start()
    other.load_state_dict(saved)
    resumed.load_state_dict(optimizer_state)
    assert other.plan == resumed.plan
    torch.set_rng_state(generator)
    for _ in range(3):
        resumed.step(other_closure)
    assert values(other) == values(net)
    assert (resumed.radius, resumed.level, resumed.events) == (opt.radius, opt.level, opt.events)


def test_state_dicts_of_something_else_are_refused() -> None:
    net, _ = quadratic([1.0], [1.0])
    opt = TrustRegion(net)
    with pytest.raises(PlanError, match="not one of TrustRegion"):
        opt.load_state_dict(torch.optim.SGD(net.parameters(), lr=0.1).state_dict())
    good = TrustRegion(net, radius=7.0).state_dict()
    changes = ({"level": 99}, {"level": True}, {"steps": "x"}, {"steps": -1}, {"events": 3}, {"events": {"a": "b"}})
    for broken in (None, {}, *({**good["trust_region"], **change} for change in changes)):
        with pytest.raises(PlanError, match="the state_dict"):
            opt.load_state_dict({**good, "trust_region": broken})
    assert opt.radius == 0.1
    with pytest.raises(PlanError, match="other levels"):
        opt.load_state_dict(TrustRegion(net, levels=("bf16", "float32")).state_dict())
