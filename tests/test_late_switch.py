"""One switch to more precision, when it is late and no earlier."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import precc
from precc import PrecisionPlan, Rule
from precc.control.late_switch import LateSwitch
from precc.control.late_switch_rule import LateSwitchReading, LateSwitchRule, LateSwitchState
from precc.errors import CaptureError, ControllerError, FormatError, PlanError
from precc.precision import Precision
from tests.nets import Attention


def made(
    plan: PrecisionPlan | None = None, rules: tuple[Rule, ...] = (), **options: Any
) -> tuple[precc.PrecisionModule, torch.optim.Optimizer, LateSwitch]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    net = precc.compile(model, plan=plan or PrecisionPlan("e4m3"), rules=rules, backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return net, optimizer, LateSwitch(net, optimizer, **options)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, ctl: LateSwitch, steps: range) -> list[float]:
    losses = []
    for step in steps:
        source = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, 6, generator=source), torch.randint(3, (16,), generator=source)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        ctl.step(loss)
        losses.append(float(loss.detach()))
    return losses


def formats_of(net: precc.PrecisionModule) -> dict[str, set[str]]:
    """By role."""
    found: dict[str, set[str]] = {}
    for name, own in net.plan.slots.items():
        found.setdefault(name.rpartition("/")[2].partition(".")[0], set()).add(own.format.name)
    return found


@pytest.mark.parametrize(
    ("at", "total", "first"), [(0.9, 10, 9), (0.7, 10, 7), (0.5, 5, 3), (0.999, 10, 10), (0.01, 3, 1)]
)
def test_after_a_share_of_the_steps(at: float, total: int, first: int) -> None:
    rule = LateSwitchRule(at=at, total_steps=total)
    state, switches = rule.init(), []
    for steps in range(1, total + 5):
        why, state = rule.step(LateSwitchReading(steps, 0.1), state)
        switches += [steps] if why else []
    assert switches == [first]


def test_the_default_is_nine_tenths() -> None:
    rule = LateSwitchRule(total_steps=20)
    assert [rule.step(LateSwitchReading(own, 0.1), rule.init())[0] is None for own in (17, 18)] == [True, False]


def test_below_a_share_of_the_peak_and_not_while_warming_up() -> None:
    rule = LateSwitchRule(when_lr_below=0.1)
    state, found = rule.init(), []
    for steps, lr in enumerate([0.0, 0.01, 0.1, 1.0, 0.5, 0.1, 0.099, 0.5, 0.01], start=1):
        why, state = rule.step(LateSwitchReading(steps, lr), state)
        found.append(why)
    assert found[6] == "the learning rate 0.099 is below 0.1 of its peak 1"
    assert [own for own in found if own] == [found[6]]
    assert state == LateSwitchState(1.0, switched=True)


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0.01, 0.99))
def test_there_is_never_a_second_switch(rates: list[float], share: float) -> None:
    rule = LateSwitchRule(when_lr_below=share)
    state, count = rule.init(), 0
    for steps, lr in enumerate(rates):
        why, state = rule.step(LateSwitchReading(steps, lr), state)
        count += bool(why)
    assert count == state.switched


def test_the_operands_of_the_forward_move_once() -> None:
    net, optimizer, ctl = made(total_steps=10)
    train(net, optimizer, ctl, range(8))
    assert not ctl.switched
    assert set().union(*formats_of(net).values()) == {"float8_e4m3fn"}
    train(net, optimizer, ctl, range(8, 14))
    assert formats_of(net) == {"fprop": {"bfloat16"}, "dgrad": {"float8_e4m3fn"}, "wgrad": {"float8_e4m3fn"}}
    assert [(row.step, row.event, row.reason) for row in net.history] == [(9, "switch", "9 of 10 steps are done")]
    assert net.history.plans[net.history[0].plan] == net.plan


def test_with_a_scheduler_of_the_learning_rate_and_all_roles() -> None:
    net, optimizer, ctl = made(when_lr_below=0.1, roles=("fprop", "dgrad", "wgrad"), to=Precision("e5m10"))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for step in range(6):
        train(net, optimizer, ctl, range(step, step + 1))
        scheduler.step()
    assert [(row.step, row.event) for row in net.history] == [(5, "switch")]  # 0.5**4 of the peak
    assert set().union(*formats_of(net).values()) == {"float16"}


def test_of_a_plan_its_slots_are_taken() -> None:
    finer = PrecisionPlan("bf16", {"2/product/fprop.weight": "float32"})
    net, optimizer, ctl = made(total_steps=1, to=finer)
    train(net, optimizer, ctl, range(2))
    own = net.plan.slots
    assert own["2/product/fprop.weight"].format.name == "float32"
    assert own["0/product/fprop.weight"].format.name == "bfloat16"


def test_nothing_becomes_coarser() -> None:
    net, optimizer, ctl = made(PrecisionPlan("e4m3", {"2/product/fprop.weight": "float32"}), total_steps=1)
    train(net, optimizer, ctl, range(2))
    assert net.plan.slots["2/product/fprop.weight"].format.name == "float32"
    assert net.plan.slots["0/product/fprop.weight"].format.name == "bfloat16"
    net, optimizer, ctl = made(PrecisionPlan("float32"), total_steps=1)
    train(net, optimizer, ctl, range(3))
    assert formats_of(net)["fprop"] == {"float32"}
    assert [(row.event, row.reason) for row in net.history] == [
        ("keep", "1 of 1 steps are done, and these products have as many bits already")
    ]


def test_rules_of_the_net_hold_and_those_of_its_plan_do_not() -> None:
    rules = (Rule("2", format="e5m2"),)
    net, optimizer, ctl = made(rules=rules, total_steps=1)
    train(net, optimizer, ctl, range(2))
    assert net.plan.slots["2/product/fprop.weight"].format.name == "float8_e5m2"
    assert net.plan.slots["0/product/fprop.weight"].format.name == "bfloat16"
    net, optimizer, ctl = made(PrecisionPlan("e4m3", rules=rules), total_steps=1)
    train(net, optimizer, ctl, range(2))
    assert net.plan.slots["2/product/fprop.weight"].format.name == "bfloat16"
    assert net.plan.slots["2/product/wgrad.input"].format.name == "float8_e5m2"


def test_a_plan_that_is_set_afterwards_is_moved_too() -> None:
    net, optimizer, ctl = made(total_steps=1)
    train(net, optimizer, ctl, range(2))
    net.set_plan(PrecisionPlan("e5m2"))
    train(net, optimizer, ctl, range(2, 3))
    assert formats_of(net) == {"fprop": {"bfloat16"}, "dgrad": {"float8_e5m2"}, "wgrad": {"float8_e5m2"}}
    assert [row.event for row in net.history] == ["switch", "switch"]
    net.set_plan(PrecisionPlan("e4m3"))
    train(net, optimizer, ctl, range(3, 4))
    assert formats_of(net)["fprop"] == {"bfloat16"}
    assert len(net.history) == 2
    state = ctl.state_dict()
    assert state["own"].pop("again") is True
    ctl.load_state_dict(state)  # of an earlier version
    with pytest.raises(ControllerError, match="again=1"):
        ctl.load_state_dict({**state, "own": {**state["own"], "again": 1}})


def test_products_of_activations_are_of_the_roles_too() -> None:
    torch.manual_seed(0)
    net = precc.compile(Attention(), plan=PrecisionPlan("e4m3"), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ctl = LateSwitch(net, optimizer, total_steps=1, roles=["dgrad"])
    net(torch.randn(2, 5, 16)).square().mean().backward()
    optimizer.step()
    ctl.step()
    found = formats_of(net)
    assert found["fprop"] == found["wgrad"] == {"float8_e4m3fn"}
    assert found["dgrad_a"] == found["dgrad_b"] == found["dgrad"] == {"bfloat16"}


@pytest.mark.parametrize("cut", [1, 4, 5, 7])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(cut: int) -> None:
    plan = PrecisionPlan(Precision("e4m3", "stochastic"))
    net, optimizer, ctl = made(plan, total_steps=10, at=0.5)
    train(net, optimizer, ctl, range(cut))
    model = {name: own.clone() for name, own in net.state_dict().items()}
    saved = (optimizer.state_dict(), ctl.state_dict(), torch.get_rng_state())
    losses = train(net, optimizer, ctl, range(cut, 10))
    other, second, again = made(plan, total_steps=10, at=0.5)
    other.load_state_dict(model)
    second.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    assert train(other, second, again, range(cut, 10)) == losses
    assert other.history.columns() == net.history.columns()
    assert again.switched


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "give one of both"),
        ({"total_steps": 5, "when_lr_below": 0.1}, "give one of both"),
        ({"total_steps": 0}, "total_steps"),
        ({"total_steps": 5.0}, "total_steps"),
        ({"total_steps": 5, "at": 0.0}, "at is a share"),
        ({"total_steps": 5, "at": 1.0}, "at is a share"),
        ({"total_steps": 5, "at": math.nan}, "at is a share"),
        ({"total_steps": 5, "at": "0.5"}, "at is a share"),
        ({"when_lr_below": 1.0}, "when_lr_below is a share"),
        ({"when_lr_below": 0.1, "at": 0.8}, "at=0.8 .* beside when_lr_below=0.1"),
        ({"total_steps": 5, "roles": "fprop"}, "roles"),
        ({"total_steps": 5, "roles": ()}, "roles"),
        ({"total_steps": 5, "roles": ("forward",)}, "expected one of 'fprop'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ControllerError, match=what):
        made(**options)


def test_formats_nets_and_optimizers_that_do_not_fit() -> None:
    with pytest.raises(FormatError, match="unknown format"):
        made(total_steps=5, to="bf17")
    with pytest.raises(PlanError, match="policy"):
        made(total_steps=5, to=16)
    plain = nn.Linear(2, 2)
    with pytest.raises(CaptureError, match="made by precc.compile"):
        LateSwitch(plain, torch.optim.SGD(plain.parameters(), lr=0.1), total_steps=5)  # type: ignore[arg-type]
    net, _, _ = made(total_steps=5)
    with pytest.raises(ControllerError, match="of other parameters"):
        LateSwitch(net, torch.optim.SGD(plain.parameters(), lr=0.1), total_steps=5)


def test_a_plan_that_would_not_fit_at_the_end_is_refused_at_the_beginning() -> None:
    plan = PrecisionPlan("e4m3", default_accumulator=precc.parse_accumulator("hopper_fp8"))
    net, optimizer, ctl = made(plan, total_steps=100)
    with pytest.raises(PlanError, match="accumulator|multiplies"):
        train(net, optimizer, ctl, range(1))


def test_states_that_are_none() -> None:
    net, optimizer, ctl = made(total_steps=5)
    train(net, optimizer, ctl, range(1))
    before = ctl.state_dict()
    for own in ({"peak": 1.0}, None, {"peak": 1.0, "switched": False, "at": 1}):
        with pytest.raises(ControllerError, match="peak and switched"):
            ctl.load_state_dict({**before, "own": own})
    for peak, switched in ((0.1, "no"), (0.1, 1), ("0.1", True), (None, True), (True, True), (math.nan, False)):
        with pytest.raises(ControllerError, match="peak is a number, and switched is True or False"):
            ctl.load_state_dict({**before, "own": {"peak": peak, "switched": switched}})
    assert ctl.state_dict() == before
