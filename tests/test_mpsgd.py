"""Mixed-precision SGD around optimizers: levels by hand, secants, the random iterate, bad input, resume."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc import MPSGD
from precc.control.preconditioned import difference, square
from precc.control.secant import SecantRule
from precc.errors import CaptureError, ClosureError, ControllerError, PlanError, UnsupportedError
from tests.nets import Convolutional, uniform
from tests.test_trust_region import Quadratic, values

LEVELS = ("float16", "float32")


def quadratic(
    start: list[float], diagonal: list[float], rate: float = 0.5, error: float = 0.0, **options: Any
) -> tuple[precc.PrecisionModule, torch.optim.Optimizer, MPSGD]:
    """A quadratic whose losses in float16 are off by `error`, beside the 1e-3 or so that float16 itself makes."""
    net = precc.compile(Quadratic(start, diagonal), backend="reference")

    def loss(output: Tensor) -> Tensor:
        return output + (0.0 if "float32" in str(net.plan.default) else error)

    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    return net, optimizer, MPSGD(net, optimizer, loss=loss, levels=LEVELS, **options)


def step(net: precc.PrecisionModule, optimizer: torch.optim.Optimizer, ctl: MPSGD) -> None:
    optimizer.zero_grad()
    loss = ctl.loss(net(torch.zeros(1, 2)))
    loss.backward()
    optimizer.step()
    ctl.step(loss)


@pytest.mark.parametrize(("error", "level"), [(0.6, 0), (0.65, 1)])
def test_the_level_of_the_next_step_by_hand(error: float, level: int) -> None:
    # ||g||**2 = 25, the bound is 0.5 * 0.1 / 2 * 25 = 0.625
    net, optimizer, ctl = quadratic([3.0, 4.0], [1.0, 1.0], error=error)
    assert net.plan.default == uniform("float32").default, "it begins in the finest"
    step(net, optimizer, ctl)
    assert ctl.level == level
    assert net.plan.default == uniform(LEVELS[level]).default
    assert ctl.share_of_levels == (0.0, 1.0)


def test_a_step_that_its_own_gradient_does_not_allow_is_told() -> None:
    net, optimizer, ctl = quadratic([3.0, 4.0], [1.0, 1.0], error=0.5)
    step(net, optimizer, ctl)
    assert ctl.level == 0
    step(net, optimizer, ctl)  # half the gradient: the bound is 0.156
    assert ctl.level == 1
    assert [row.event for row in net.history] == ["level", "violation", "level"]
    violation = net.history[1]
    assert violation.reason == "epsilon 0.5 is above 0.156, by the gradient of its own step"
    assert (violation.step, violation.level) == (2, 0)
    assert ctl.share_of_levels == (0.5, 0.5)


def test_eta_in_proportion_to_the_rate() -> None:
    for scale, level in ((False, 0), (True, 1)):
        net, optimizer, ctl = quadratic([3.0, 4.0], [1.0, 1.0], rate=0.1, error=0.05, scale_eta=scale)
        step(net, optimizer, ctl)  # 0.125
        assert ctl.level == 0
        optimizer.param_groups[0]["lr"] = 0.06
        step(net, optimizer, ctl)  # 0.06 * 0.1 / 2 * 20.25 = 0.061, with eta scaled 0.036
        assert ctl.level == level


def test_the_strict_form_evaluates_again_while_the_gradient_does_not_allow_a_level() -> None:
    for error, level, calls in ((0.6, 0, 4), (0.65, 1, 5)):
        net, optimizer, ctl = quadratic([3.0, 4.0], [1.0, 1.0], error=error)
        seen = []

        def closure(net: precc.PrecisionModule = net, ctl: MPSGD = ctl, seen: list[str] = seen) -> Tensor:
            seen.append(str(net.plan.default.format.name))
            return ctl.loss(net(torch.zeros(1, 2)))

        optimizer.zero_grad()
        loss = ctl.backward(closure)
        optimizer.step()
        ctl.step(loss)
        assert seen == ["float32", "float16", "float32", "float16", "float32"][:calls], "measured, then tried"
        assert ctl.level == level
        assert ctl.share_of_levels[level] == 1.0
        assert values(net) == pytest.approx([1.5, 2.0])
        assert "violation" not in [row.event for row in net.history]


def test_the_strict_form_sees_one_mask_and_advances_buffers_once() -> None:
    torch.manual_seed(0)
    net = precc.compile(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ctl = MPSGD(net, optimizer)
    x = torch.randn(16, 8)
    masks = []

    def closure() -> Tensor:
        output = net(x)
        masks.append(output.detach() == 0)
        return output.square().sum() * 1e-3

    torch.manual_seed(5)
    torch.rand(16, 8)
    ctl.backward(closure)
    assert len(masks) >= 5
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert dict(net.named_buffers())["1.num_batches_tracked"].item() == 1
    optimizer.zero_grad()
    with pytest.raises(ClosureError, match="did not call the net"):
        ctl.backward(lambda: torch.zeros((), requires_grad=True))


def test_an_overflow_is_within_no_bound() -> None:
    net = precc.compile(nn.Linear(2, 1, bias=False), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-12)
    ctl = MPSGD(net, optimizer, levels=("e5m10", "float32"), measure_every=100)
    ctl.backward(lambda: net(torch.ones(1, 2)).sum())
    optimizer.zero_grad()
    ctl.backward(lambda: net(torch.full((1, 2), 1e5)).sum())
    assert ctl.level == 1


def test_where_no_level_will_do_the_reason_says_so() -> None:
    net, optimizer, ctl = quadratic([3.0, 4.0], [1.0, 1.0])
    step(net, optimizer, ctl)
    assert ctl.level == 0
    optimizer.zero_grad()
    ctl.backward(lambda: ctl.loss(net(torch.zeros(1, 2))) * math.nan)
    assert net.history[-1].reason == "no level is within nan: the finest"
    assert ctl.rule.reason(0.1, 0.1) == "the coarsest whose error is within 0.1"
    assert ctl.rule.reason(0.3, 0.1) == "no level is within 0.1: the finest"


def test_the_strict_form_keeps_updates_and_scales_losses_as_the_plan_says() -> None:
    start = precc.PrecisionPlan("float32", default_update={"master": "bf16"}, loss_scaling=64.0)
    net = precc.compile(Quadratic([3.0, 4.0], [1.0, 1.0]), plan=start, backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    precc.RoundedUpdates(net, optimizer)
    ctl = MPSGD(net, optimizer, loss=lambda output: output, levels=LEVELS)
    seen: list[list[float]] = []
    net.x.register_hook(lambda own: seen.append(own.flatten().tolist()))
    for _ in range(3):
        optimizer.zero_grad()
        ctl.backward(lambda: ctl.loss(net(torch.zeros(1, 2))))
        assert net.plan.rounds_updates
        assert net.plan.loss_scaling == precc.LossScaling(64.0)
        optimizer.step()
        ctl.step()
    assert seen[0] == [192.0, 256.0]
    assert values(net) == pytest.approx([0.375, 0.5], rel=1e-2)
    optimizer.zero_grad()
    with pytest.raises(KeyboardInterrupt):
        ctl.backward(_interrupted)
    assert net.plan.rounds_updates
    assert ctl.get_scale() == 64.0


@pytest.mark.parametrize("strict", [False, True])
def test_a_level_has_its_own_updates_and_others_those_of_the_net(strict: bool) -> None:
    own = precc.PrecisionPlan("float16", default_update={"master": "e4m3"}, loss_scaling=8.0)
    start = precc.PrecisionPlan("float32", default_update={"master": "bf16"})
    net = precc.compile(Quadratic([3.0, 4.0], [1.0, 1.0]), plan=start, backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    precc.RoundedUpdates(net, optimizer)
    scaler = precc.LossScaler(net)
    off = lambda output: output + (0.0 if "float32" in str(net.plan.default) else 0.5)  # noqa: E731
    ctl = MPSGD(net, optimizer, loss=off, levels=(own, "float32"))

    def train(factor: float) -> None:
        optimizer.zero_grad()
        if strict:
            ctl.backward(lambda: ctl.loss(net(torch.zeros(1, 2))) * factor)
            optimizer.step()
        else:
            scaler.scale(ctl.loss(net(torch.zeros(1, 2))) * factor).backward()
            scaler.step(optimizer)
            scaler.update()
        ctl.step()

    def agree() -> None:
        assert net.plan.default == ctl.plan.default
        assert net.plan.default_update == (own if ctl.level == 0 else start).default_update
        assert net.plan.loss_scaling == (own.loss_scaling if ctl.level == 0 else None)

    agree()
    levels = []
    for factor in (1.0, 1e-9, 1.0):
        train(factor)
        agree()
        levels.append(ctl.level)
    assert levels[:2] == [0, 1]
    if strict:
        optimizer.zero_grad()
        with pytest.raises(KeyboardInterrupt):
            ctl.backward(_interrupted)
        agree()


def _interrupted() -> Tensor:
    raise KeyboardInterrupt


def test_a_dynamic_loss_scaling_is_refused_by_the_strict_form() -> None:
    start = precc.PrecisionPlan("float32", loss_scaling=precc.LossScaling(64.0, dynamic=True))
    net = precc.compile(Quadratic([3.0, 4.0], [1.0, 1.0]), plan=start, backend="reference")
    ctl = MPSGD(net, torch.optim.SGD(net.parameters(), lr=0.5), levels=LEVELS)
    with pytest.raises(UnsupportedError, match=r"MPSGD\.backward evaluates a loss at one scale"):
        ctl.backward(lambda: net(torch.zeros(1, 2)))


def test_the_strict_form_overwrites_no_gradient() -> None:
    net, optimizer, ctl = quadratic([3.0, 4.0], [1.0, 1.0])
    ctl.backward(lambda: ctl.loss(net(torch.zeros(1, 2))))
    before = [own.grad.clone() for own in net.parameters() if own.grad is not None]
    with pytest.raises(ControllerError, match=r"'x', and 0 more, have gradients.*zero_grad\(\) before; micro-batches"):
        ctl.backward(lambda: ctl.loss(net(torch.zeros(1, 2))))
    assert all(torch.equal(own, now.grad) for own, now in zip(before, net.parameters(), strict=True))
    optimizer.zero_grad(set_to_none=False)
    ctl.backward(lambda: ctl.loss(net(torch.zeros(1, 2))))


def test_lipschitz_constants_and_rates() -> None:
    net, optimizer, ctl = quadratic([1.0, 1.0], [1.0, 3.0], rate=0.5, eta=0.1)
    step(net, optimizer, ctl)
    assert ctl.lipschitz_estimate is None
    step(net, optimizer, ctl)
    # x = (1, 1), (0.5, -0.5): the gradient turned by (0.5, 4.5), x moved by (0.5, 1.5)
    assert ctl.lipschitz_estimate == pytest.approx(math.sqrt((0.25 + 20.25) / (0.25 + 2.25)), rel=1e-2)
    assert "rate" not in [row.event for row in net.history]
    optimizer.param_groups[0]["lr"] = 0.7  # of 2 * 0.9 / 2.86 = 0.63
    step(net, optimizer, ctl)
    step(net, optimizer, ctl)
    rates = [row for row in net.history if row.event == "rate"]
    assert len(rates) == 1, "told once"
    assert rates[0].step == 3
    assert ctl.lipschitz_estimate <= 3.05


def test_adam_has_a_metric() -> None:
    net = precc.compile(Quadratic([3.0, -4.0], [1.0, 1.0]), backend="reference")
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    ctl = MPSGD(net, optimizer, loss=lambda output: output, levels=LEVELS)
    optimizer.zero_grad()
    loss = ctl.loss(net(torch.zeros(1, 2)))
    loss.backward()
    optimizer.step()
    ctl.step(loss)
    assert ctl._square == pytest.approx(7.0, rel=1e-5)  # <g, g / |g|>
    fresh = MPSGD(net, torch.optim.Adam(net.parameters(), lr=0.1), loss=lambda output: output, levels=LEVELS)
    optimizer.zero_grad()
    fresh.backward(lambda: fresh.loss(net(torch.zeros(1, 2))))
    assert fresh.level == 1, "before the first step Adam has no metric, and no level is known to do"


def stepped(kind: str, gradients: list[list[float]], **options: Any) -> MPSGD:
    """After steps of an optimizer whose gradients are these."""
    net = precc.compile(Quadratic([3.0, -4.0], [1.0, 1.0]), backend="reference")
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=1e-3, **options)
    ctl = MPSGD(net, optimizer, loss=lambda output: output, levels=LEVELS)
    for own in gradients:
        net.x.grad = torch.tensor([own])
        optimizer.step()
    return ctl


@pytest.mark.parametrize(
    ("kind", "options", "weights"),
    [
        # two steps, with g = (1, 4) and g = (2, 3)
        ("SGD", {"momentum": 0.9}, [1.0, 1.0]),
        ("ASGD", {}, [1.0, 1.0]),
        ("Adam", {"betas": (0.0, 0.5), "eps": 0.5}, [1 / (0.5 + 3**0.5), 1 / (0.5 + (34 / 3) ** 0.5)]),
        ("NAdam", {"betas": (0.5, 0.5), "eps": 0.5}, [1 / (0.5 + 3**0.5), 1 / (0.5 + (34 / 3) ** 0.5)]),
        ("RMSprop", {"alpha": 0.5, "eps": 0.5}, [1 / (0.5 + 2.25**0.5), 1 / (0.5 + 8.5**0.5)]),
        # less the squares of (1.25, 2.5)
        ("RMSprop", {"alpha": 0.5, "eps": 0.5, "centered": True}, [1 / (0.5 + 0.6875**0.5), 1 / (0.5 + 2.25**0.5)]),
        ("Adagrad", {"eps": 0.5}, [1 / (0.5 + 5**0.5), 1 / (0.5 + 25**0.5)]),
        ("Adagrad", {"eps": 0.5, "lr_decay": 1.0}, [0.5 / (0.5 + 5**0.5), 0.5 / (0.5 + 25**0.5)]),
        ("Adamax", {"betas": (0.0, 0.5), "eps": 0.5}, [1 / 2.5, 1 / 3.5]),
    ],
)
def test_preconditioners_by_hand(kind: str, options: dict[str, Any], weights: list[float]) -> None:
    ctl = stepped(kind, [[1.0, 4.0], [2.0, 3.0]], **options)
    assert ctl._square == pytest.approx(4 * weights[0] + 9 * weights[1], rel=1e-6)


def test_the_largest_second_moment_of_amsgrad() -> None:
    ctl = stepped("Adam", [[4.0, 4.0], [0.0, 2.0]], betas=(0.0, 0.5), eps=0.0, amsgrad=True)
    # v = (8, 8), then (4, 6): 8 / 0.75
    assert ctl._square == pytest.approx(4 / (8 / 0.75) ** 0.5)


@pytest.mark.parametrize(
    ("kind", "entry"), [("Rprop", "prev"), ("Adadelta", "acc_delta"), ("Adafactor", "row_var"), ("Muon", "momentum_")]
)
def test_a_preconditioner_that_is_not_known_is_told(kind: str, entry: str) -> None:
    with pytest.raises(ControllerError, match=f"how {kind} preconditions gradients is not known.*'x' has .*{entry}"):
        stepped(kind, [[1.0, 4.0]])


@pytest.mark.parametrize("kind", ["Adagrad", "RMSprop", "Adamax"])
def test_before_the_first_step_a_preconditioner_is_not_known(kind: str) -> None:
    ctl = stepped(kind, [])
    ctl.backward(lambda: ctl.loss(ctl.net(torch.zeros(1, 2))))
    assert ctl.level == 1
    ctl.optimizer.step()
    assert math.isfinite(ctl._square)


def test_squares_in_a_metric() -> None:
    vector, metric = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0])}, {"a": torch.tensor([2.0, 4.0])}
    assert square(vector, {}) == 14.0
    assert square(vector, metric) == 2.0 + 16.0 + 9.0
    assert square(vector, metric, inverse=True) == 0.5 + 1.0 + 9.0
    assert math.isnan(square({"a": torch.tensor([math.inf])}, {}))
    assert list(difference(vector, {"b": torch.ones(1)})) == ["b"]


def test_the_random_iterate_is_a_point_where_a_step_began() -> None:
    points, iterates = [], set()
    for seed in range(24):  # a draw of the last point too would be missed with a chance of 0.8**24, half a percent
        net, optimizer, ctl = quadratic([1.0, 1.0], [0.5, 0.5], rate=0.5, keep_iterate=True, seed=seed)
        points = [values(net)]
        for _ in range(4):
            step(net, optimizer, ctl)
            points.append(values(net))
        assert ctl.iterate is not None
        iterates.add(points.index(ctl.iterate["x"].flatten().tolist()))
    assert iterates == {0, 1, 2, 3}, "never the last point, from which no step was made"


def test_without_what_costs_memory_nothing_is_held() -> None:
    net, optimizer, ctl = quadratic([1.0, 1.0], [1.0, 1.0], lipschitz=False)
    step(net, optimizer, ctl)
    step(net, optimizer, ctl)
    assert ctl.lipschitz_estimate is ctl.iterate is None
    assert not ctl.state_dict()["own"]["point"]


def test_predicted_errors() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x, y = torch.randn(32, 6), torch.randint(3, (32,))
    found = {}
    for epsilon in ("measured", "predicted"):
        net = precc.compile(copy.deepcopy(model), backend="reference")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        ctl = MPSGD(net, optimizer, loss=F.cross_entropy, epsilon=epsilon, levels=("e4m3", "float16", "float32"))
        for _ in range(2):
            optimizer.zero_grad()
            loss = ctl.loss(net(x), y)
            loss.backward()
            optimizer.step()
            ctl.step(loss)
        found[epsilon] = ctl._errors.largest
    assert found["predicted"][0] > found["predicted"][1] > found["predicted"][2] == 0
    assert found["measured"][1] < 10 * found["predicted"][1]


def test_a_loss_that_is_constant_stays_in_the_finest_level() -> None:
    net, optimizer, ctl = quadratic([3.0, 4.0], [0.0, 0.0], error=1e-3)
    for _ in range(3):
        step(net, optimizer, ctl)
    assert ctl.level == 1
    assert values(net) == [3.0, 4.0]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"eta": 0.0}, ControllerError),
        ({"eta": 1.0}, ControllerError),
        ({"levels": ()}, ControllerError),
        ({"levels": "e4m3"}, ControllerError),
        ({"epsilon": "guessed"}, ControllerError),
        ({"z": math.nan}, ControllerError),
        ({"measure_every": 0}, ControllerError),
        ({"window": 0}, ControllerError),
        ({"loss": 3}, ControllerError),
        ({"scale_eta": 1}, ControllerError),
    ],
)
def test_options_out_of_range(options: dict[str, Any], error: type[Exception]) -> None:
    net = precc.compile(nn.Linear(2, 2), backend="reference")
    with pytest.raises(error):
        MPSGD(net, torch.optim.SGD(net.parameters(), lr=0.1), **options)


def test_bad_input() -> None:
    model = nn.Linear(2, 1)
    net = precc.compile(model, backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(CaptureError, match="MPSGD takes a net made by"):
        MPSGD(model, optimizer)  # type: ignore[arg-type]
    with pytest.raises(ControllerError, match="it is of other parameters"):
        MPSGD(net, torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1))
    ctl = MPSGD(net, optimizer)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    with pytest.raises(ControllerError, match=r"MPSGD\(net, optimizer, loss=loss_fn\)"):
        ctl.step()
    model.bias.requires_grad_(False)
    with pytest.raises(ControllerError, match="lost 'bias'"):
        ctl.step()


def test_state_dicts_of_something_else_are_refused() -> None:
    _, _, ctl = quadratic([3.0, 4.0], [1.0, 1.0])
    good = ctl.state_dict()
    for change in ({"rule": {**good["own"]["rule"], "level": 9}}, {"levels": good["own"]["levels"][:1]}):
        with pytest.raises(ControllerError, match="the state_dict"):
            ctl.load_state_dict({**good, "own": {**good["own"], **change}})
    with pytest.raises(ControllerError, match="not all of its entries"):
        ctl.load_state_dict({**good, "own": {}})
    with pytest.raises((ControllerError, PlanError)):
        ctl.load_state_dict({**good, "net": {}})


@pytest.mark.parametrize(
    ("kind", "strict"),
    [
        ("SGD", True),
        ("AdamW", False),
        *(pytest.param(*own, marks=pytest.mark.slow) for own in (("SGD", False), ("AdamW", True))),
    ],
)
def test_a_state_dict_goes_on_bit_for_bit(kind: str, strict: bool) -> None:
    def start() -> tuple[precc.PrecisionModule, torch.optim.Optimizer, MPSGD]:
        torch.manual_seed(0)
        net = precc.compile(Convolutional(), backend="reference")
        optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.01)
        options: dict[str, Any] = {"measure_every": 2, "window": 2, "keep_iterate": True, "eta": 0.5}
        return net, optimizer, MPSGD(net, optimizer, loss=F.cross_entropy, secants=SecantRule(window=3), **options)

    def train(net: precc.PrecisionModule, optimizer: torch.optim.Optimizer, ctl: MPSGD) -> None:
        x, y = torch.randn(8, 3, 12, 12), torch.randint(10, (8,))
        closure: Callable[[], Tensor] = lambda: ctl.loss(net(x), y)  # noqa: E731
        optimizer.zero_grad()
        if strict:
            loss = ctl.backward(closure)
        else:
            loss = closure()
            loss.backward()
        optimizer.step()
        ctl.step(loss)

    net, optimizer, ctl = start()
    saved: list[Any] = []
    for _ in range(6):
        own = [net.state_dict(), optimizer.state_dict(), ctl.state_dict(), torch.get_rng_state()]
        saved.append(copy.deepcopy(own))
        train(net, optimizer, ctl)
    for steps in (0, 3):
        other, other_optimizer, resumed = start()
        weights, optimizer_state, state, generator = saved[steps]
        other.load_state_dict(weights)
        other_optimizer.load_state_dict(optimizer_state)
        resumed.load_state_dict(state)
        torch.set_rng_state(generator)
        for _ in range(6 - steps):
            train(other, other_optimizer, resumed)
        assert values(other) == values(net)
        assert list(other.history) == list(net.history)
        assert resumed.share_of_levels == ctl.share_of_levels
        assert resumed.lipschitz_estimate == ctl.lipschitz_estimate
        assert resumed.iterate is not None
        assert ctl.iterate is not None
        assert all(torch.equal(own, ctl.iterate[name]) for name, own in resumed.iterate.items())
