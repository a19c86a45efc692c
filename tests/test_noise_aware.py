"""Precision by the noise of the gradient: decisions in real trainings, what goes wrong, and resume."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc import NoiseAware
from precc.control.controller import Controller
from precc.control.gradient_noise import NoiseSource
from precc.control.guards import Guards
from precc.control.noise_aware_rule import NoiseAwareRule
from precc.control.ranks import Ranks
from precc.errors import ControllerError
from precc.models.lenet5 import LeNet5
from precc.models.mnist import load_mnist
from precc.module import session_of
from tests.few_always import few_always
from tests.resumed_training import Net as Perceptron

EARLY = NoiseAwareRule(start=(2, 4, 6), every=4, agree=64.0, hold=3)


Made = tuple[precc.PrecisionModule, torch.optim.Optimizer, NoiseAware]


def made(seed: int = 0, kind: Any = torch.optim.SGD, loss: Any = F.cross_entropy, **options: Any) -> Made:
    torch.manual_seed(seed)
    net = precc.compile(Perceptron(), backend="reference")
    optimizer = kind(net.parameters(), lr=0.05)
    return net, optimizer, NoiseAware(net, optimizer, loss=loss, **{"rule": EARLY, **options})


def train(run: Made, steps: int, micro: int = 1) -> None:
    net, optimizer, ctl = run
    for _ in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for _ in range(micro):
            x = torch.randn(16, 12)
            y = (x[:, :4] + 0.5 * torch.randn(16, 4)).argmax(1)
            loss = (ctl.loss(net(x), y) if ctl.watch.has_loss or ctl.steps == 0 else F.cross_entropy(net(x), y)) / micro
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        ctl.step(total)


def events(net: precc.PrecisionModule) -> list[str]:
    return [row.event for row in net.history]


def test_it_analyses_waits_and_switches_without_compiling() -> None:
    run = made()
    net = run[0]
    train(run, 1)
    compilations = net.compilations
    train(run, 12)
    analyses = [row.step for row in net.history if row.event == "analysis"]
    assert analyses == [2, 4, 6, 10]
    assert events(net)[:4] == ["analysis", "wait", "analysis", "switch"]
    assert net.plan.average_bits < 16
    assert net.compilations == compilations
    assert {row.noise_source for row in net.history if row.event == "analysis"} == {"halves of the batch"}
    assert all(row.noise > 0 and row.budget == pytest.approx(0.25 * row.noise) for row in net.history[:1])


def test_noise_of_micro_batches_comes_first() -> None:
    run = made()
    train(run, 4, micro=4)
    found = [row for row in run[0].history if row.event == "analysis"]
    assert [row.noise_source for row in found] == ["micro-batches"] * 2
    halves = run[2].probe.of_halves({})
    assert halves / 4 == pytest.approx(found[-1].noise, rel=0.5), "two estimates of one variance"


def test_adam_has_its_own_norm() -> None:
    run = made(kind=torch.optim.Adam)
    train(run, 4)
    found = [row for row in run[0].history if row.event == "analysis"]
    metric = run[2].probe.metric()
    assert set(metric) == set(dict(run[0].named_parameters()))
    plain = run[2].probe.of_halves({})
    assert found[-1].noise > 2 * plain, "weights 1 / (sqrt(v) + eps) are large"


def test_without_a_loss_noise_comes_from_adams_moments() -> None:
    net, optimizer, ctl = run = made(kind=torch.optim.Adam, loss=None)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(net(torch.randn(16, 12)), torch.randint(4, (16,))).backward()
        optimizer.step()
        ctl.step()
    assert [row.noise_source for row in run[0].history if row.event == "analysis"] == ["moments of Adam"] * 2
    assert "switch" in events(net)


def test_no_source_of_noise_is_an_error_that_names_the_ways_out() -> None:
    net, optimizer, ctl = made(loss=None)
    for _ in range(2):
        F.cross_entropy(net(torch.randn(16, 12)), torch.randint(4, (16,))).backward()
        optimizer.step()
        if ctl.steps < 2:
            ctl.step()
    with pytest.raises(ControllerError, match="pass loss="):
        ctl.step()


class Owning(Perceptron):
    """Returns its own loss, as models of transformers do."""

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        logits = super().forward(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_a_model_with_its_own_loss_needs_none() -> None:
    torch.manual_seed(0)
    net = precc.compile(Owning(), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    ctl = NoiseAware(net, optimizer, rule=EARLY)
    for _ in range(4):
        optimizer.zero_grad()
        loss = net(torch.randn(16, 12), labels=torch.randint(4, (16,)))["loss"]
        loss.backward()
        optimizer.step()
        ctl.step(loss)
    assert events(net) == ["analysis", "wait", "analysis", "switch"]
    assert net.history[0].noise_source == "halves of the batch"


@pytest.mark.parametrize("loss", [9.0, math.nan])
def test_a_plan_whose_loss_is_not_as_predicted_is_refused(loss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    run = net, _, ctl = made()
    plain = ctl.watch.evaluate

    def evaluate() -> Tensor:
        rounds = session_of(net).plan != session_of(net).full_precision
        return torch.tensor(loss) if rounds else plain()

    monkeypatch.setattr(ctl.watch, "evaluate", evaluate)
    train(run, 4)
    assert events(net) == ["analysis", "wait", "analysis", "refused"]
    assert f"in shadow its loss is {loss:g}" in net.history[-1].reason
    assert session_of(net).chosen is None, "nothing was set"


def test_a_gradient_that_is_not_finite_is_left_out_and_rolls_back() -> None:
    run = net, optimizer, ctl = made()
    train(run, 5)
    assert "switch" in events(net)
    before = [own.detach().clone() for own in net.parameters()]
    optimizer.zero_grad()
    loss = ctl.loss(net(torch.randn(16, 12)), torch.randint(4, (16,))) * math.inf
    loss.backward()
    optimizer.step()
    ctl.step(loss)
    assert all(torch.equal(own, old) for own, old in zip(net.parameters(), before, strict=True))
    assert events(net)[-2:] == ["nonfinite_loss", "rollback"]
    assert net.plan.average_bits == 32
    train(run, 4)
    assert events(net)[-1] == "rollback", "held"
    train(run, 4)
    assert events(net)[-1] == "switch"


def in_a_plan(**guards: Any) -> Made:
    run = made(
        guards=Guards(window=8, warmup=4, **guards), rule=NoiseAwareRule(start=(2, 4, 60), agree=64.0), band=30.0
    )
    train(run, 30)
    assert run[0].plan.average_bits < 32
    run[1].step()
    return run


def test_a_loss_that_full_precision_has_too_blames_no_plan() -> None:
    run = in_a_plan()
    run[2].step(1e3)
    assert events(run[0])[-1] == "spike"
    assert "full precision has that loss too" in run[0].history[-1].reason
    assert run[0].plan.average_bits < 32


def test_a_loss_that_the_plan_alone_has_rolls_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    run = net, _, ctl = in_a_plan()
    plain = ctl.watch.evaluate
    far = torch.tensor(99.0)
    monkeypatch.setattr(
        ctl.watch,
        "evaluate",
        lambda: far if session_of(net).plan != session_of(net).full_precision else plain(),
    )
    run[2].step(1e3)
    assert events(net)[-2:] == ["spike", "rollback"]
    assert net.plan.average_bits == 32


def test_losses_that_stay_above_their_band_roll_the_plan_back() -> None:
    run = in_a_plan(patience=2, spike=1e9)
    for _ in range(2):
        run[2].step(9.0)
        run[1].step()
    assert events(run[0])[-2:] == ["divergence", "rollback"]
    assert run[0].plan.average_bits == 32


# Before the first analysis, between two, and after: each half of the steps under one optimizer.
@pytest.mark.parametrize(
    ("kind", "kept"), [(torch.optim.SGD, (1, 9)), pytest.param(torch.optim.Adam, (3, 5), marks=pytest.mark.slow)]
)
def test_resume_at_any_step_goes_on_bit_for_bit(kind: Any, kept: tuple[int, ...]) -> None:
    run, saved = made(kind=kind), {}
    for step in range(1, 13):
        train(run, 1, micro=2)
        if step in kept:
            parts = (run[0].state_dict(), run[1].state_dict(), run[2].state_dict(), torch.get_rng_state())
            saved[step] = copy.deepcopy(parts)
    for at, states in saved.items():
        again = made(seed=9, kind=kind)
        for part, state in zip(again, states, strict=False):
            part.load_state_dict(state)
        torch.set_rng_state(states[-1])
        train(again, 12 - at, micro=2)
        assert list(again[0].history) == list(run[0].history), at
        assert again[2].state_dict() == run[2].state_dict(), at
        for own, other in zip(again[0].parameters(), run[0].parameters(), strict=True):
            assert torch.equal(own, other), at


def test_a_state_that_is_none_changes_nothing() -> None:
    run = made()
    train(run, 3)
    state = run[2].state_dict()
    with pytest.raises(ControllerError, match="not a state of NoiseAware"):
        run[2].load_state_dict({**state, "own": {}})
    assert run[2].state_dict() == state


def test_a_torch_scheduler_of_the_learning_rate_goes_beside() -> None:
    run = made()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(run[1], 10)
    for _ in range(6):
        train(run, 1)
        scheduler.step()
    assert run[1].param_groups[0]["lr"] < 0.05
    assert "switch" in events(run[0])


def test_a_batch_that_says_nothing_postpones_the_analysis() -> None:
    def constant(output: Tensor, y: Tensor) -> Tensor:
        return output.sum() * 0.0 + 1.0

    run = made(loss=constant)
    with pytest.warns(precc.PrecisionWarning, match="zero"):
        train(run, 4)
    assert events(run[0]) == ["postponed"]
    assert "gradient" in run[0].history[0].reason
    assert run[2].state.due == 12
    assert session_of(run[0]).chosen is None


@pytest.mark.parametrize("rows", [1, 7])
def test_a_batch_of_another_size_postpones_the_analysis(rows: int) -> None:
    run = net, optimizer, ctl = made()
    train(run, 1)
    optimizer.zero_grad()
    x, y = torch.randn(rows, 12), torch.randint(4, (rows,))
    loss = ctl.loss(net(x), y)
    loss.backward()
    optimizer.step()
    ctl.step(loss)
    assert events(net) == ["postponed"]
    assert net.history[0].reason.startswith(f"a batch of {rows}:")
    train(run, 1)
    assert events(net)[1:] == ["analysis", "wait"]


@pytest.mark.parametrize("factor", few_always([0.25, 1.0, 100.0], [0.25]))
@pytest.mark.parametrize("clip", [None, 1e-3])
def test_noise_is_in_units_of_the_loss_whatever_the_training_does_to_gradients(factor: float, clip: float) -> None:
    """Directly: the variance of the mean gradient of 64 examples, over 60 batches at one point."""
    torch.manual_seed(0)
    net = precc.compile(nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 4)), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-9)
    ctl = NoiseAware(net, optimizer, loss=F.cross_entropy, rule=NoiseAwareRule(start=(1,), every=1), guards=None)
    ctl.probe.arm()
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        for _ in range(4):
            (factor * ctl.loss(net(torch.randn(16, 12)), torch.randint(4, (16,)))).backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        noise = ctl.probe.measure(Ranks(), {}, 0.0)
        assert noise.source is NoiseSource.MICRO_BATCHES
        values.append(noise.variance)
        ctl.probe.arm()
    direct = []
    for _ in range(60):
        loss = F.cross_entropy(net(torch.randn(64, 12)), torch.randint(4, (64,)))
        direct.append(torch.cat([own.flatten() for own in torch.autograd.grad(loss, list(net.parameters()))]))
    expected = float(torch.stack(direct).var(0).sum())
    assert sum(values) / len(values) == pytest.approx(expected, rel=0.35)


def test_a_second_backward_on_the_same_batch_is_no_micro_batch() -> None:
    run = net, optimizer, ctl = made(rule=NoiseAwareRule(start=(1,)))
    x, y = torch.randn(16, 12), torch.randint(4, (16,))
    for _ in range(2):
        optimizer.zero_grad()
        ctl.loss(net(x), y).backward()
    optimizer.step()
    ctl.step()
    assert [row.noise_source for row in run[0].history if row.event == "analysis"] == ["halves of the batch"]


def test_a_net_with_a_plan_begins_in_full_precision_and_says_so() -> None:
    net = precc.compile(Perceptron(), policy="e4m3", backend="reference")
    NoiseAware(net, torch.optim.SGD(net.parameters(), lr=0.05), loss=F.cross_entropy)
    assert net.plan.average_bits == 32
    assert events(net) == ["begin"]
    stored = precc.compile(Perceptron(), plan=precc.PrecisionPlan("fp32", default_result="bf16"), backend="reference")
    with pytest.raises(ControllerError, match="results"):
        NoiseAware(stored, torch.optim.SGD(stored.parameters(), lr=0.05), loss=F.cross_entropy)


def test_a_plan_that_is_measured_to_exceed_the_noise_is_not_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = made()
    spent = iter([0.49, 0.36, 0.2] * 2)
    monkeypatch.setattr(run[2].probe, "rounding", lambda *_: next(spent) * run[2].last_noise)
    seen: list[float] = []
    measure = run[2].probe.measure

    def noted(*args: Any) -> Any:
        found = measure(*args)
        run[2].last_noise = found.variance  # type: ignore[attr-defined]
        seen.append(found.variance)
        return found

    monkeypatch.setattr(run[2].probe, "measure", noted)
    train(run, 2)
    assert "predicted to hide" in run[0].history[0].reason, "the first one is not measured"
    train(run, 2)
    assert "measured 0.2 of it, 0.25 allowed" in run[0].history[2].reason
    assert run[2].state_dict()["own"]["tightness"] == pytest.approx(
        0.9**2 * (0.25 / 0.49) ** 0.5 * (0.25 / 0.36) ** 0.5
    )
    monkeypatch.setattr(run[2].probe, "rounding", lambda *_: 0.3 * run[2].last_noise)
    train(run, 2)
    assert "do not hide in the noise" in run[0].history[-2].reason
    assert run[0].plan.average_bits == 32


def test_two_controllers_do_not_see_each_others_evaluations() -> None:
    run = net, optimizer, ctl = made()
    other = NoiseAware(net, optimizer, loss=F.cross_entropy, rule=EARLY)
    for _ in range(2):
        x, y = torch.randn(16, 12), torch.randint(4, (16,))
        optimizer.zero_grad()
        output = net(x)
        other.loss(output, y)
        ctl.loss(output, y).backward()
        optimizer.step()
        ctl.step()
        other.step()
    assert torch.equal(other.watch.batch.args[0], x)
    rows = [row for row in run[0].history if row.event == "analysis"]
    assert rows[0].noise == rows[1].noise > 0


class Tuple(Perceptron):
    """Returns more than logits."""

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return logits, logits.detach().argmax(1)


def test_outputs_that_are_no_tensor() -> None:
    net = precc.compile(Tuple(), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    ctl = NoiseAware(net, optimizer, loss=lambda output, y: F.cross_entropy(output[0], y), rule=EARLY)
    for _ in range(4):
        optimizer.zero_grad()
        loss = ctl.loss(net(torch.randn(16, 12)), torch.randint(4, (16,)))
        loss.backward()
        optimizer.step()
        ctl.step(loss)
    assert events(net)[-1] == "switch"


def test_optimizers_that_it_cannot_go_around_are_refused() -> None:
    net = precc.compile(Perceptron(), backend="reference")
    with pytest.raises(ControllerError, match="chooses precision itself"):
        NoiseAware(net, precc.TrustRegion(net), loss=F.cross_entropy)
    with pytest.raises(precc.errors.UnsupportedError, match="LBFGS"):
        NoiseAware(net, torch.optim.LBFGS(net.parameters()), loss=F.cross_entropy)
    fixed = precc.compile(Perceptron(), policy="bf16", live=False, backend="reference")
    with pytest.raises(precc.errors.UnsupportedError, match="live=True"):
        NoiseAware(fixed, torch.optim.SGD(fixed.parameters(), lr=0.1), loss=F.cross_entropy)


def test_a_step_with_a_closure_is_seen_after_it() -> None:
    net, optimizer, ctl = made()

    def closure(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = ctl.loss(net(x), y)
        loss.backward()
        return loss

    for _ in range(4):
        x, y = torch.randn(16, 12), torch.randint(4, (16,))
        ctl.step(optimizer.step(lambda x=x, y=y: closure(x, y)))  # type: ignore[misc]
    assert "switch" in events(net)
    before = [own.detach().clone() for own in net.parameters()]
    optimizer.step(lambda: closure(torch.full((16, 12), math.inf), torch.randint(4, (16,))))
    assert all(torch.equal(own, old) for own, old in zip(net.parameters(), before, strict=True)), "left out"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"theta": 0.0}, "theta"),
        ({"theta": math.inf}, "theta"),
        ({"loss_gap": 0.0}, "loss_gap"),
        ({"loss_gap": math.nan}, "loss_gap"),
        ({"band": 0.0}, "band"),
        ({"candidates": ["e99"]}, "e99"),
        ({"probes": 0}, "probes"),
        ({"rows": 0}, "rows"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(precc.PreccError, match=message):
        made(**options)


def test_it_is_a_controller() -> None:
    assert issubclass(NoiseAware, Controller)


def test_lenet5_hides_in_the_noise_of_mnist() -> None:
    data = load_mnist()
    images, labels = data.train_images, data.train_labels
    torch.manual_seed(0)
    net = precc.compile(LeNet5(), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    ctl = NoiseAware(net, optimizer, loss=criterion, rule=NoiseAwareRule(start=(10, 20)))
    for _ in range(21):
        chosen = torch.randint(len(images), (32,))
        optimizer.zero_grad()
        loss = criterion(net(images[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        ctl.step(loss)
    assert events(net)[-1] == "switch"
    assert 4 <= net.plan.average_bits <= 8
