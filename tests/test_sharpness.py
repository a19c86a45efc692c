"""The rule by hand-computed readings, and the guard around trainings."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc import PrecisionPlan
from precc.control.logit_sharpness import logit_sharpness
from precc.control.sharpness_guard import SharpnessGuard
from precc.control.sharpness_rule import SharpnessDecision, SharpnessEvent, SharpnessGuardRule, SharpnessState
from precc.errors import AnalysisError, CaptureError, ControllerError, FormatError
from precc.precision import Precision

RULE = SharpnessGuardRule(levels=3, band=2.0, patience=2, window=4, warmup=2, cooldown=2)
BAND = (-1.0, 1.0)  # mean 0, deviation 1


def decisions(rule: SharpnessGuardRule, logarithms: list[float], state: SharpnessState) -> list[Any]:
    found = []
    for own in logarithms:
        decision, state = rule.step(math.exp(own), state)
        found.append((decision.event.value if decision else None, state.level))
    return found


def test_the_band_by_hand() -> None:
    """2.5 is above, and enters as 2; with it mean 2/3 and deviation sqrt(14)/3, so above is more than 3.161."""
    state = SharpnessState(readings=BAND)
    decision, state = RULE.step(math.exp(2.5), state)
    assert decision is None
    assert (state.above, state.readings) == (1, (-1.0, 1.0, 2.0))
    upper = 2 / 3 + 2 * math.sqrt(14) / 3
    assert RULE.step(math.exp(upper - 1e-6), state)[0] is None
    decision, after = RULE.step(math.exp(upper + 1e-6), state)
    assert decision is not None
    assert decision.event is SharpnessEvent.RAISE
    assert (after.level, after.above, after.rest) == (1, 0, 2)
    assert decision.reason == "sharpness 23.6% is 2 deviations above those before, the last 2 by more than 2"


def test_a_cool_down_between_decisions() -> None:
    state = SharpnessState(readings=BAND)
    raised = [(None, 0), ("raise", 1), (None, 1), (None, 1), ("raise", 2), (None, 2), (None, 2), ("sharp", 2)]
    assert decisions(RULE, [9, 30, 90, 200, 400, 500, 600, 700], state) == raised


def test_one_reading_is_not_a_trend() -> None:
    state = SharpnessState(readings=BAND)
    assert decisions(RULE, [5.0, 0.0, 9.0, 0.0], state) == [(None, 0)] * 4


def test_what_is_not_finite_is_acted_on_at_once() -> None:
    for wrong in (math.nan, math.inf):
        decision, state = RULE.step(wrong, SharpnessState(rest=5))
        assert (decision, state.level) == (
            SharpnessDecision(SharpnessEvent.RAISE, f"the sharpness is {wrong}"),
            1,
        )
    decision, _ = RULE.step(math.nan, SharpnessState(level=2))
    assert decision is not None
    assert decision.event is SharpnessEvent.SHARP


def test_zero_is_below_any_band() -> None:
    state = SharpnessState(readings=BAND, above=1)
    assert RULE.step(0.0, state) == (None, SharpnessState(readings=BAND, calm=1))


def test_it_comes_back_where_that_is_wanted() -> None:
    calm = SharpnessGuardRule(levels=3, patience=1, window=4, warmup=2, cooldown=1, calm=3)
    state = SharpnessState(level=2, readings=BAND)
    assert decisions(calm, [0.0] * 8, state) == [
        (None, 2), (None, 2), ("lower", 1), (None, 1), (None, 1), ("lower", 0), (None, 0), (None, 0)
    ]  # fmt: skip
    assert {level for _, level in decisions(RULE, [0.0] * 50, state)} == {2}


@given(st.lists(st.floats(0, 1e6), max_size=40), st.integers(0, 40))
def test_the_rule_goes_on_from_a_checkpoint(readings: list[float], cut: int) -> None:
    state = RULE.init()
    for own in readings[:cut]:
        _, state = RULE.step(own, state)
    again = SharpnessState.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state
    assert 0 <= state.level < 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(self.a(x).tanh())
        return logits


def made(
    loss: Any = F.cross_entropy, plan: str | Precision = "e4m3", **options: Any
) -> tuple[precc.PrecisionModule, torch.optim.Optimizer, SharpnessGuard]:
    net = precc.compile(Net(), plan=PrecisionPlan(plan), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return net, optimizer, SharpnessGuard(net, optimizer, loss, **{"every": 1, "warmup": 3, **options})


def train(
    net: nn.Module, optimizer: torch.optim.Optimizer, ctl: SharpnessGuard, steps: range, blown: int = 10**9
) -> list[float]:
    """From the step `blown` on the head's weights are doubled at each step: a training that blows up."""
    losses = []
    for step in steps:
        source = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, 6, generator=source), torch.randint(3, (16,), generator=source)
        if step >= blown:
            with torch.no_grad():
                net.get_parameter("b.weight").mul_(2.0)
        optimizer.zero_grad()
        loss = ctl.loss(net(x), y)
        loss.backward()
        optimizer.step()
        ctl.step(loss)
        losses.append(float(loss.detach()))
    return losses


def test_the_reading_is_that_of_the_trainings_forward() -> None:
    net, optimizer, ctl = made()
    source = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 6, generator=source), torch.randint(3, (16,), generator=source)
    expected = logit_sharpness(net(x).detach(), y)
    assert ctl.sharpness is None
    train(net, optimizer, ctl, range(1))
    assert ctl.sharpness == expected
    assert net.compilations == 1


def test_a_training_that_blows_up_gets_more_precision_and_a_quiet_one_does_not() -> None:
    net, optimizer, ctl = made(cooldown=2)
    train(net, optimizer, ctl, range(40))
    assert ctl.level == 0
    assert len(net.history) == 0
    train(net, optimizer, ctl, range(40, 60), blown=40)
    events = [(row.event, row.level) for row in net.history]
    assert events[:2] == [("raise", 1), ("raise", 2)]
    first = net.history[0]
    assert 40 < first.step < 48
    assert "deviations above those before" in first.reason
    assert {own.format.name for own in net.history.plans[first.plan].slots.values()} == {"bfloat16"}
    assert {own.format.name for own in net.plan.slots.values()} == {"float32"}


def test_it_reads_every_so_many_steps() -> None:
    net, optimizer, ctl = made(every=5)
    seen = []
    for step in range(12):
        before = ctl.sharpness
        train(net, optimizer, ctl, range(step, step + 1))
        seen += [ctl.steps] if ctl.sharpness != before else []
    assert seen == [1, 6, 11]


def test_it_comes_back_to_the_nets_own_plan() -> None:
    net, optimizer, ctl = made(levels=["bf16"], calm=4, cooldown=1)
    ctl._rule_state = SharpnessState(level=1)
    train(net, optimizer, ctl, range(1))
    net.set_plan(PrecisionPlan("bf16"))
    train(net, optimizer, ctl, range(1, 8))
    assert [(row.event, row.level) for row in net.history] == [("lower", 0)]
    assert {own.format.name for own in net.plan.slots.values()} == {"float8_e4m3fn"}


def test_a_module_is_observed_where_it_is_called() -> None:
    criterion = nn.CrossEntropyLoss(ignore_index=1)
    net, optimizer, ctl = made(criterion)
    x, y = torch.randn(16, 6), torch.randint(3, (16,))
    expected = logit_sharpness(net(x).detach(), y, ignore_index=1)
    criterion(net(x), y).backward()
    optimizer.step()
    ctl.step()
    assert ctl.sharpness == expected


class Sequence(nn.Module):
    """Returns logits ``[batch, classes, positions]``, as torch's cross-entropy has them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).movedim(-1, 1)


def test_classes_in_the_middle() -> None:
    net = precc.compile(Sequence(), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ctl = SharpnessGuard(net, optimizer, F.cross_entropy, levels=["float32"])
    x, y = torch.randn(2, 5, 6), torch.randint(3, (2, 5))
    expected = logit_sharpness(net(x).detach().movedim(1, -1), y)
    ctl.loss(net(x), y).backward()
    optimizer.step()
    ctl.step()
    assert ctl.sharpness == expected


class OwnLoss(nn.Module):
    """Returns a dictionary with its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        logits = self.a(x)
        return {"loss": F.cross_entropy(logits, y), "logits": logits}


def test_a_model_with_a_loss_of_its_own() -> None:
    net = precc.compile(OwnLoss(), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.randn(4, 6), torch.randint(3, (4,))
    ctl = SharpnessGuard(net, optimizer, levels=["float32"], logits=lambda output, x, y: (output["logits"], y))
    expected = logit_sharpness(net(x, y)["logits"].detach(), y)
    net(x, y=y)["loss"].backward()
    optimizer.step()
    ctl.step()
    assert ctl.sharpness == expected


def test_logits_that_are_not_finite_raise_at_once() -> None:
    net, optimizer, ctl = made()
    with torch.no_grad():
        net.get_parameter("b.bias")[0] = math.nan
    train(net, optimizer, ctl, range(1))
    assert [(row.event, row.reason, row.level) for row in net.history] == [("raise", "the sharpness is nan", 1)]


class Masked(Net):
    """The last class is masked, and a whole position of padding."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x).masked_fill(torch.tensor([False, False, True]), -math.inf)
        return logits.masked_fill((x[:, :1] == 0.0), math.nan)


def test_masked_logits_and_ignored_positions_are_no_events() -> None:
    net = precc.compile(Masked(), plan=PrecisionPlan("e4m3"), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    ctl = SharpnessGuard(net, optimizer, F.cross_entropy, every=1)
    x, y = torch.randn(16, 6), torch.randint(2, (16,))
    x[3], y[3] = 0.0, -100
    kept = y >= 0
    expected = logit_sharpness(net(x).detach()[kept, :2], y[kept])
    ctl.loss(net(x), y).backward()
    optimizer.step()
    ctl.step()
    assert ctl.sharpness == pytest.approx(expected)
    assert not net.history


@pytest.mark.parametrize("cut", [1, 12, 23, 26])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(cut: int) -> None:
    plan = Precision("e4m3", "stochastic")
    net, optimizer, ctl = made(plan=plan, every=2, patience=2, cooldown=1)
    train(net, optimizer, ctl, range(cut), blown=20)
    model = {name: own.clone() for name, own in net.state_dict().items()}
    saved = (optimizer.state_dict(), ctl.state_dict(), torch.get_rng_state())
    losses = train(net, optimizer, ctl, range(cut, 34), blown=20)
    other, second, again = made(plan=plan, every=2, patience=2, cooldown=1)
    other.load_state_dict(model)
    second.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    assert train(other, second, again, range(cut, 34), blown=20) == losses
    assert other.history.columns() == net.history.columns()
    assert again.level == ctl.level > 0
    assert again.sharpness == ctl.sharpness


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"loss": None}, "closed form for cross-entropy alone"),
        ({"loss": nn.MSELoss()}, "closed form for cross-entropy alone"),
        ({"loss": lambda output, y: output.sum() * 0}, "closed form for cross-entropy alone"),
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, "label smoothing"),
        ({"loss": nn.CrossEntropyLoss(weight=torch.ones(3))}, "class weights"),
        ({"logits": 1}, "logits is called"),
        ({"levels": "bf16"}, "levels is a sequence"),
        ({"levels": ()}, "levels is a sequence"),
        ({"every": 0}, "every"),
        ({"band": 0.0}, "band"),
        ({"window": 1}, "window"),
        ({"patience": 0}, "patience"),
        ({"cooldown": -1}, "cooldown"),
        ({"calm": 0}, "calm"),
        ({"epsilon": 0.0}, "epsilon"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ControllerError, match=what):
        made(**options)


def test_levels_must_go_up() -> None:
    net, optimizer, ctl = made(levels=["float32", "bf16"])
    with pytest.raises(ControllerError, match="from coarse to fine.* bits are 8, 32, 16"):
        train(net, optimizer, ctl, range(1))
    with pytest.raises(FormatError, match="unknown format"):
        made(levels=["bf17"])


def test_a_loss_that_was_not_called_through_the_guard() -> None:
    net, optimizer, _ = made()
    F.cross_entropy(net(torch.randn(4, 6)), torch.randint(3, (4,))).backward()
    with pytest.raises(ControllerError, match=r"loss = ctl.loss\(net\(x\), y\)"):
        optimizer.step()


@pytest.mark.parametrize("targets", [torch.full((4,), -100), torch.zeros(0, dtype=torch.long)])
def test_a_batch_without_targets_is_no_reading(targets: Tensor) -> None:
    net, optimizer, ctl = made()
    train(net, optimizer, ctl, range(2))
    before = ctl.state_dict()["own"]
    ctl.loss(net(torch.randn(len(targets), 6)), targets)
    optimizer.zero_grad()
    optimizer.step()
    ctl.step()
    assert ctl.state_dict()["own"] == before
    assert not net.history
    train(net, optimizer, ctl, range(2, 3))
    assert ctl.sharpness != before["sharpness"]


def test_targets_that_are_no_classes() -> None:
    net, optimizer, ctl = made()
    ctl.loss(net(torch.randn(4, 6)), torch.full((4, 3), 1 / 3)).backward()
    with pytest.raises(AnalysisError, match="classes as integers"):
        optimizer.step()


def test_nets_and_optimizers_that_do_not_fit() -> None:
    plain = nn.Linear(2, 2)
    with pytest.raises(CaptureError, match="made by precc.compile"):
        SharpnessGuard(plain, torch.optim.SGD(plain.parameters(), lr=0.1), F.cross_entropy)  # type: ignore[arg-type]
    net, _, _ = made()
    with pytest.raises(ControllerError, match="of other parameters"):
        SharpnessGuard(net, torch.optim.SGD(plain.parameters(), lr=0.1), F.cross_entropy)


def test_states_that_are_none() -> None:
    net, optimizer, ctl = made()
    train(net, optimizer, ctl, range(1))
    state = ctl.state_dict()
    rule = state["own"]["rule"]
    wrong: list[dict[str, Any]] = [
        {"rule": {}},
        {"rule": {**rule, "level": 9}},
        {"rule": {**rule, "level": "1"}},
        {"rule": {**rule, "readings": ["1"]}},
        {"sharpness": "1"},
        {"sharpness": True},
        {"own": 1},
        {"own": "{}"},
        {"more": 1},
    ]
    for own in ({}, None, *({**state["own"], **change} for change in wrong)):
        with pytest.raises(ControllerError, match=r"state|level is a whole number"):
            ctl.load_state_dict({**state, "own": own})
    assert ctl.state_dict() == state


def test_closed_it_sees_no_more() -> None:
    net, optimizer, ctl = made()
    ctl.close()
    F.cross_entropy(net(torch.randn(4, 6)), torch.randint(3, (4,))).backward()
    optimizer.step()
    assert ctl.sharpness is None
