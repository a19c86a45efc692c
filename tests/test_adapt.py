"""AdaPT around a training: formats in force, decisions, cost, bad input, resume."""

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc import PrecisionPlan
from precc.control.adapt import AdaPT
from precc.control.adapt_rule import AdaPTRule, Strategy
from precc.control.histogram_divergence import histogram_divergence
from precc.control.late_switch import LateSwitch
from precc.errors import CaptureError, ControllerError
from precc.models.lenet5 import LeNet5
from precc.models.mnist import load_mnist
from precc.precision import Precision
from tests.nets import Attention

QUICK = AdaPTRule(lookback=(2, 4), resolution=(20, 30))


def small_net() -> precc.PrecisionModule:
    torch.manual_seed(0)
    return precc.compile(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), backend="reference")


def a_batch(step: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=source), torch.randint(3, (16,), generator=source)


def made(strategy: str = "min", rule: AdaPTRule = QUICK) -> tuple[precc.PrecisionModule, torch.optim.Optimizer, AdaPT]:
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return net, optimizer, AdaPT(net, optimizer, strategy, rule=rule)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, ctl: AdaPT, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x, y = a_batch(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        ctl.step(loss)
        losses.append(float(loss.detach()))
    return losses


def test_the_first_step_finds_the_layers_and_the_second_is_in_fixed_point() -> None:
    net, optimizer, ctl = made()
    assert ctl.lengths == {}
    train(net, optimizer, ctl, range(1))
    assert ctl.lengths == {"0.weight": (8, 4), "2.weight": (8, 4)}
    assert {str(own) for name, own in net.plan.slots.items() if "grad_output" in name} == {"dfp8 stochastic"}
    others = {str(own) for name, own in net.plan.slots.items() if "grad_output" not in name}
    assert others == {"fixed8.4 stochastic"}
    assert net.plan.average_bits == 8.0
    before = dict(net.precision_state()["multiply_adds"])
    train(net, optimizer, ctl, range(1, 2))
    assert set(before) == {"float32"}
    assert "fixed8.4" in net.precision_state()["multiply_adds"]


def test_the_start_has_a_row_and_comes_once() -> None:
    net, optimizer, ctl = made(rule=AdaPTRule(lookback=(1, 1), resolution=(20, 30)))
    train(net, optimizer, ctl, range(3))
    rows = [(row.step, row.event) for row in net.history]
    assert rows[:2] == [(1, "start"), (1, "format")]
    assert [event for _, event in rows].count("start") == 1
    assert net.history[0].reason == "fixed8.4 for 0.weight, 2.weight, in the place of the net's own plan"


def test_a_plan_that_somebody_sets_holds_until_lengths_change() -> None:
    net, optimizer, ctl = made(rule=AdaPTRule(lookback=(4, 4), resolution=(20, 30)))
    train(net, optimizer, ctl, range(1))
    net.set_plan(PrecisionPlan("bf16"))
    for step in (1, 2):
        train(net, optimizer, ctl, range(step, step + 1))
        assert {own.format.name for own in net.plan.slots.values()} == {"bfloat16"}
        ctl.load_state_dict(ctl.state_dict())
    train(net, optimizer, ctl, range(3, 4))
    assert net.history[-1].event == "format"
    assert net.plan.slots["0/product/fprop.weight"].format.name.startswith("fixed")


@pytest.mark.parametrize("cut", [2, 5, 9])
def test_beside_a_late_switch_rows_are_of_decisions_alone(cut: int) -> None:
    def both() -> tuple[Any, ...]:
        net, optimizer, ctl = made()
        return net, optimizer, ctl, LateSwitch(net, optimizer, to="float32", at=0.2, total_steps=20)

    def go(parts: tuple[Any, ...], steps: range) -> list[float]:
        net, optimizer, ctl, late = parts
        found = []
        for step in steps:
            found += train(net, optimizer, ctl, range(step, step + 1))
            late.step(found[-1])
            forward = {own.format.name for name, own in net.plan.slots.items() if "/fprop." in name}
            assert not late.switched or forward == {"float32"}
        return found

    first = both()
    go(first, range(cut))
    saved = torch.load(_stored([own.state_dict() for own in first] + [torch.get_rng_state()]), weights_only=False)
    losses = go(first, range(cut, 20))
    rows = [(row.event, row.reason) for row in first[0].history.of("LateSwitch")]
    assert [event for event, _ in rows] == ["switch", "switch"]
    assert "as later ones" in rows[1][1]
    other = both()
    for own, state in zip(other, saved, strict=False):
        own.load_state_dict(state)
    torch.set_rng_state(saved[-1])
    assert go(other, range(cut, 20)) == losses
    assert other[0].history.columns() == first[0].history.columns()


def test_a_decision_is_the_rules() -> None:
    """Parallel gradients: the lookback is the longest, 4, and PushUp adds one bit of fraction."""
    net, optimizer, ctl = made()
    x, y = a_batch(0)
    for group in optimizer.param_groups:
        group["lr"] = 1e-9
    for _ in range(4):
        assert set(ctl.lengths.values()) <= {(8, 4)}
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        with torch.no_grad():  # the same gradient each time
            for own in net.parameters():
                assert own.grad is not None
                own.grad.copy_(torch.ones_like(own))
        optimizer.step()
        ctl.step()
    weight = net.get_parameter("0.weight").detach()

    def loses(word: int, fraction: int) -> float:
        rounded = precc.round_to(weight, f"fixed{word}.{fraction}")
        return histogram_divergence(weight, rounded, 24)  # 20 and one more for each gradient

    word, fraction = QUICK.push_down(loses)
    assert ctl.lengths["0.weight"] == (max(word, fraction + 9), fraction + 1)
    row = net.history[-2]
    assert (row.step, row.event) == (4, "format")
    assert row.reason.startswith(f"0.weight: fixed8.4 to fixed{fraction + 9}.{fraction + 1}, diversity 1, strategy min")
    assert net.history.plans[row.plan] == net.plan
    assert net.plan.slots["0/product/fprop.weight"].format.name == f"fixed{fraction + 9}.{fraction + 1}"


def test_it_learns_in_fixed_point() -> None:
    net, optimizer, ctl = made()
    x, y = a_batch(0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        ctl.step(loss)
    assert float(loss.detach()) < 0.2
    assert all(9 <= word < 32 for word, _ in ctl.lengths.values())


def test_lenet_learns_where_its_first_format_alone_does_not() -> None:
    """Two epochs of 5,000 digits; published training speed-ups by the same model of cost are 1.27 on average."""
    mnist = load_mnist()
    accuracies = {}
    for controlled in (True, False):
        torch.manual_seed(0)
        net = precc.compile(LeNet5(), backend="cpp")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        ctl = AdaPT(net, optimizer) if controlled else None
        if ctl is None:
            net.set_plan(PrecisionPlan(Precision("fixed8.4", "stochastic")))
        for _ in range(2):
            for rows in torch.randperm(len(mnist.train_images)).split(50):
                optimizer.zero_grad()
                loss = F.cross_entropy(net(mnist.train_images[rows]), mnist.train_labels[rows])
                loss.backward()
                optimizer.step()
                if ctl is not None:
                    ctl.step(loss)
        with torch.no_grad():
            right = net(mnist.test_images).argmax(1) == mnist.test_labels
        accuracies[controlled] = float(right.float().mean())
        if ctl is not None:
            assert 1.1 < ctl.speedup < 1.5
            assert 1.05 < ctl.cost.speedup < 2.5  # 1.12 to 1.47, by seed and processor, whose sums the training follows
    assert accuracies[True] > 0.8
    assert accuracies[False] < 0.3


def test_the_cost_by_hand() -> None:
    """Two layers of 6 * 8 and 8 * 3 values, and as many multiply-adds an example, all at 8 of 32 bits."""
    net, optimizer, ctl = made()
    assert ctl.speedup == 1.0
    train(net, optimizer, ctl, range(1))
    assert (ctl.cost.forward, ctl.cost.size, ctl.cost.speedup) == (0.25, 0.25, 4.0)
    assert ctl.speedup == pytest.approx(2 / 1.25)
    with torch.no_grad():  # half of the first layer is zero: density (24 + 24) / 72
        net.get_parameter("0.weight")[:4] = 0.0
        net.get_parameter("0.weight")[4:] = 1.0
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(net, optimizer, ctl, range(1, 5))
    words = {name: word for name, (word, _) in ctl.lengths.items()}
    expected = (48 * words["0.weight"] * 0.5 + 24 * words["2.weight"]) / (72 * 32)
    assert ctl.cost.forward == pytest.approx(expected)
    assert ctl.cost.size == pytest.approx(expected)


def test_the_strategy_follows_the_loss() -> None:
    net, optimizer, ctl = made()
    x, y = a_batch(0)
    falling = [(4.0 - step, Strategy.MIN) for step in range(4)]
    for number, strategy in (*falling, (100.0, Strategy.MEAN), (100.0, Strategy.MAX), (0.001, Strategy.MIN)):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        ctl.step(number)
        assert ctl.strategy is strategy
    reasons = [row.reason for row in net.history if row.event == "format"]
    assert reasons
    assert all(reason.endswith(("strategy min", "strategy mean", "strategy max")) for reason in reasons)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_does_not_count(wrong: float) -> None:
    net, optimizer, ctl = made("mean")
    x, y = a_batch(0)
    for number in (4.0, wrong, 3.0, 2.0, wrong, 1.0, wrong, 0.5):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        ctl.step(number)
    assert ctl._memory.losses == (3.0, 2.0, 1.0, 0.5)
    assert ctl.strategy is Strategy.MIN


def test_what_is_not_finite_is_left_out_and_noted() -> None:
    net, optimizer, ctl = made()
    train(net, optimizer, ctl, range(1))
    x, y = a_batch(1)
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    weight = net.get_parameter("0.weight")
    assert weight.grad is not None
    weight.grad[0, 0] = math.nan
    optimizer.step()
    ctl.step()
    assert [row.reason for row in net.history if row.event == "nonfinite"] == [
        "the gradient of 0.weight is not finite, and no part of its diversity"
    ]
    assert ctl._memory.sums["0.weight"].count == 1
    for step in range(2, 8):  # the weight is now NaN
        optimizer.zero_grad()
        x, y = a_batch(step)
        F.cross_entropy(net(x), y).backward()
        for own in net.parameters():
            own.grad = torch.ones_like(own)
        optimizer.step()
        ctl.step()
    assert "0.weight is not finite, and its format stays" in [row.reason for row in net.history]
    assert ctl.lengths["0.weight"] == (8, 4)


def test_gradients_of_zeros_say_nothing_of_diversity() -> None:
    """Where the last layer begins at zero, the first gradient of those before it is zero."""
    net, optimizer, ctl = made()
    with torch.no_grad():
        net.get_parameter("2.weight").zero_()
    x, y = a_batch(0)
    F.cross_entropy(net(x), y).backward()
    optimizer.step()
    ctl.step()
    assert ctl._memory.tensors["0.weight"] == QUICK.init()
    assert ctl._memory.tensors["2.weight"].lookback == 4  # one gradient, of diversity 1
    with torch.no_grad():
        net.get_parameter("2.weight").copy_(torch.eye(3, 8))
    train(net, optimizer, ctl, range(1, 2))
    assert ctl._memory.tensors["0.weight"].lookback == 4


class Tied(nn.Module):
    """Two modules of one weight, and a weight that is no module's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.mix = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.a(self.b(self.a(x))) @ self.mix
        return found


def test_a_tied_weight_is_one_and_what_is_not_controlled_is_said() -> None:
    net = precc.compile(Tied(), plan=PrecisionPlan("bf16"), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ctl = AdaPT(net, optimizer)
    net(torch.randn(2, 4)).square().mean().backward()
    optimizer.step()
    ctl.step()
    assert ctl.lengths == {"a.weight": (8, 4)}
    assert [net.plan.slots[f"{op}/fprop.weight"].format.name for op in ("a/product", "a/product#1", "b/product")] == [
        "fixed8.4"
    ] * 3
    assert net.plan.slots["product/fprop.weight"].format.name == "bfloat16"
    assert [(row.event, row.reason) for row in net.history] == [
        ("uncontrolled", "not of a trained <module>.weight, so left as they are: product"),
        ("start", "fixed8.4 for a.weight, in the place of the net's own plan"),
    ]
    assert ctl.cost.forward == 0.25


def test_products_of_activations_stay_in_the_nets_plan() -> None:
    torch.manual_seed(0)
    net = precc.compile(Attention(), plan=PrecisionPlan("e5m10"), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ctl = AdaPT(net, optimizer)
    net(torch.randn(2, 5, 16)).square().mean().backward()
    optimizer.step()
    ctl.step()
    found = {name: own.format.name for name, own in net.plan.slots.items()}
    assert found["query/product/fprop.weight"] == "fixed8.4"
    assert {own for name, own in found.items() if name.endswith((".a", ".b"))} == {"float16"}


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(cut: int) -> None:
    net, optimizer, ctl = made()
    train(net, optimizer, ctl, range(cut))
    saved = (
        {name: own.clone() for name, own in net.state_dict().items()},
        optimizer.state_dict(),
        ctl.state_dict(),
        torch.get_rng_state(),
    )
    saved = torch.load(_stored(saved), weights_only=False)
    losses = train(net, optimizer, ctl, range(cut, 12))

    other, second, again = made("max")
    other.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    torch.set_rng_state(saved[3])
    assert train(other, second, again, range(cut, 12)) == losses
    assert again.lengths == ctl.lengths
    assert again.cost == ctl.cost
    assert again.speedup == ctl.speedup
    assert other.history.columns() == net.history.columns()
    assert any(row.event == "format" for row in other.history)


def _stored(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("wrong", ["mid", 1, None])
def test_an_unknown_strategy(wrong: Any) -> None:
    with pytest.raises(ControllerError, match="expected one of 'min', 'mean', 'max'"):
        made(wrong)


def test_nets_and_optimizers_that_do_not_fit() -> None:
    plain = nn.Linear(2, 2)
    with pytest.raises(CaptureError, match="made by precc.compile"):
        AdaPT(plain, torch.optim.SGD(plain.parameters(), lr=0.1))  # type: ignore[arg-type]
    net = small_net()
    with pytest.raises(ControllerError, match="of other parameters"):
        AdaPT(net, torch.optim.SGD(plain.parameters(), lr=0.1))


class Scaled(nn.Module):
    """No weight at all."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.scale


def test_a_net_without_weights() -> None:
    net = precc.compile(Scaled(), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ctl = AdaPT(net, optimizer)
    net(torch.randn(2, 4)).sum().backward()
    with pytest.raises(ControllerError, match="no product with a trained <module>.weight"):
        optimizer.step()
    ctl.close()


def test_parameters_that_change() -> None:
    net, optimizer, ctl = made()
    train(net, optimizer, ctl, range(2))
    net.get_parameter("0.weight").requires_grad_(False)
    with pytest.raises(ControllerError, match="lost '0.weight'"):
        ctl.step(1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": 1},
        {"tensors": {"other": [8, 4, 2, 20]}},
        {"tensors": {"0.weight": [8, 4, 2]}},
        {"tensors": {"0.weight": [8, "4", 2, 20]}},
        {"tensors": {"0.weight": [33, 4, 2, 20]}},
        {"tensors": {"0.weight": [8, 4, 0, 20]}},
        {"strategy": "most"},
        {"strategy": ["min"]},
        {"sums": {"a": 1}},
        {"sums": {"0.weight": 1}},
        {"sums": {"0.weight": (None, 1)}},
        {"sums": {"0.weight": (torch.ones(3, 3), 1)}},
        {"sums": {"0.weight": (torch.ones(8, 6), 0)}},
        {"sums": {"0.weight": (torch.ones(8, 6), 1.0)}},
        {"density": {"0.weight": "1"}},
        {"density": {"0.weight": math.nan}},
        {"losses": "12"},
        {"losses": [None]},
        {"charged": [1.0]},
        {"charged": [1.0, 2.0]},
        {"charged": ["1", 2]},
        {"others": "product"},
        {"others": [1]},
        {"base": 1},
        {"base": "{}"},
        {"more": 1},
    ],
)
def test_states_that_do_not_fit(change: dict[str, Any]) -> None:
    net, optimizer, ctl = made()
    train(net, optimizer, ctl, range(2))
    state = ctl.state_dict()
    with pytest.raises(ControllerError):
        ctl.load_state_dict({**state, "own": {**state["own"], **change}})
    strange: tuple[Any, ...] = ({}, None, [1])
    for own in strange:
        with pytest.raises(ControllerError, match="not a state of AdaPT"):
            ctl.load_state_dict({**state, "own": own})
    after = ctl.state_dict()
    for name in ("tensors", "density", "strategy", "losses", "charged", "others", "base"):
        assert after["own"][name] == state["own"][name]
    assert ctl._memory.sums.keys() == state["own"]["sums"].keys()
    ctl.load_state_dict(state)
