"""What all schedulers of precision have in common: what they see, refuse, keep and go on with."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.control.controller import Controller
from precc.errors import CaptureError, ControllerError, PlanError
from precc.module import session_of


class Noting(Controller):
    """Notes the norm of the gradients that the optimizer gets, and sets a format by turns."""

    seen = 0.0

    def _before_update(self) -> None:
        self.seen = float(sum(own.norm() for own in self.gradients().values()))

    def _decide(self, loss: float | None) -> None:
        self.set_plan(precc.PrecisionPlan("e4m3" if self.steps % 2 else "bf16"))
        self.note("turn", f"norm {self.seen:.9g}", loss=loss)

    def _state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def _load(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Net(nn.Module):
    """With dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(F.dropout(self.norm(self.a(x)).relu(), 0.3, self.training))
        return logits


def made(seed: int = 0) -> tuple[precc.PrecisionModule, torch.optim.Optimizer, Noting]:
    torch.manual_seed(seed)
    net = precc.compile(Net(), backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return net, optimizer, Noting(net, optimizer, F.cross_entropy)


def train(net: precc.PrecisionModule, optimizer: torch.optim.Optimizer, ctl: Controller, steps: int) -> None:
    for _ in range(steps):
        x, y = torch.randn(8, 6), torch.randint(3, (8,))
        optimizer.zero_grad()
        loss = ctl.loss(net(x), y)
        loss.backward()
        optimizer.step()
        ctl.step(loss)


def test_it_sees_gradients_as_the_optimizer_gets_them() -> None:
    net, optimizer, ctl = made()
    ctl.loss(net(torch.randn(8, 6)), torch.randint(3, (8,))).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    clipped = float(sum(own.grad.norm() for own in net.parameters() if own.grad is not None))
    optimizer.step()
    assert ctl.seen == pytest.approx(clipped)
    optimizer.zero_grad()
    ctl.step()
    assert ctl.steps == 1
    assert net.history[0].reason == f"norm {clipped:.9g}"
    assert session_of(net).events["turn"] == 1


def test_a_step_that_the_optimizer_left_out_is_noted() -> None:
    net, _, ctl = made()
    ctl.step(1.5)
    assert [(row.event, row.loss, row.step) for row in net.history] == [("skipped", 1.5, 0)]


def test_a_resumed_training_goes_on_bit_for_bit() -> None:
    net, optimizer, ctl = made()
    train(net, optimizer, ctl, 3)
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict(), ctl.state_dict(), torch.get_rng_state()))
    train(net, optimizer, ctl, 4)
    other, second, again = made(seed=5)
    other.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    torch.set_rng_state(saved[3])
    train(other, second, again, 4)
    assert list(other.history) == list(net.history)
    assert other.precision_state() == net.precision_state()
    assert again.steps == 7
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_evaluations_of_a_batch_leave_no_trace() -> None:
    net, optimizer, ctl = made()
    train(net, optimizer, ctl, 1)
    state = copy.deepcopy(net.state_dict())
    grads = {name: own.grad.clone() for name, own in net.named_parameters() if own.grad is not None}
    generator, plan = torch.get_rng_state(), net.plan
    first = ctl.watch.evaluate()
    with ctl.watch.in_plan(None):
        exact = ctl.watch.evaluate()
    assert torch.equal(ctl.watch.evaluate(), first), "the same masks each time"
    assert not torch.equal(exact, first)
    gradient = ctl.watch.gradient()
    assert set(gradient) == set(grads)
    ctl.watch.analyze(precc.AnalysisOptions(rows=4, probes=1))
    assert net.plan == plan
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), name
    for name, own in net.named_parameters():
        assert own.grad is not None
        assert torch.equal(own.grad, grads[name])


def test_a_part_of_a_batch_has_the_size_of_the_whole_and_its_own_mean() -> None:
    net, _, ctl = made()
    net.eval()
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    ctl.loss(net(x), y)
    half = ctl.watch.batch.of_part(0, 4)
    assert half.rows == 8
    torch.testing.assert_close(ctl.watch.evaluate(half), F.cross_entropy(net(x[:4]), y[:4]))
    compilations = net.compilations
    ctl.watch.gradient(half)
    assert net.compilations == compilations


def test_a_part_of_a_batch_has_the_strides_of_the_whole() -> None:
    net, _, ctl = made()
    wide = torch.randn(8, 7)
    ctl.loss(net(wide[:, :-1]), torch.randint(3, (8,)))
    half = ctl.watch.batch.of_part(4, 8)
    assert half.args[0].stride() == (7, 1)
    assert torch.equal(half.args[0], wide[[4, 5, 6, 7, 4, 5, 6, 7], :-1])
    ctl.watch.gradient(half)
    assert net.compilations == 1
    ctl.loss(net(wide[:1, :-1].expand(8, 6)), torch.randint(3, (8,)))
    assert ctl.watch.batch.of_part(0, 4).rows == 8


def test_a_loss_module_is_seen_wherever_it_is_called() -> None:
    net = precc.compile(Net(), backend="reference")
    criterion = nn.CrossEntropyLoss()
    ctl = Noting(net, torch.optim.SGD(net.parameters(), lr=0.1), criterion)
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    criterion(net(x), y)
    with torch.no_grad():
        criterion(net(x[:2]), y[:2])  # a validation
    assert ctl.watch.batch.rows == 8
    criterion(net(x).flatten(0), torch.randn(24))
    with pytest.raises(ControllerError, match="something else than the net's output"):
        ctl.watch.batch  # noqa: B018


def test_a_batch_is_asked_for_too_early() -> None:
    net, _, ctl = made()
    with pytest.raises(ControllerError, match="not called with gradients"):
        ctl.watch.batch  # noqa: B018
    net(torch.randn(8, 6))
    with pytest.raises(ControllerError, match=r"loss = ctl\.loss\(net\(x\), y\)"):
        ctl.watch.batch  # noqa: B018


def test_what_does_not_fit_is_refused_by_name() -> None:
    net, optimizer, _ = made()
    with pytest.raises(CaptureError, match=r"Noting takes a net made by precc\.compile, not Net"):
        Noting(Net(), optimizer)  # type: ignore[arg-type]
    with pytest.raises(ControllerError, match="has not the parameter 'a.weight'"):
        Noting(net, torch.optim.SGD(Net().parameters(), lr=0.1))
    with pytest.raises(ControllerError, match="an optimizer of torch.optim, not dict"):
        Noting(net, {})  # type: ignore[arg-type]
    with pytest.raises(ControllerError, match="loss is called as"):
        Noting(net, optimizer, 3)  # type: ignore[arg-type]
    frozen = precc.compile(Net().requires_grad_(False))
    with pytest.raises(ControllerError, match="no parameter that requires a gradient"):
        Noting(frozen, optimizer)
    for loss in (torch.ones(2), "3", True):
        with pytest.raises(ControllerError, match="loss as one number"):
            made()[2].step(loss)  # type: ignore[arg-type]


def test_parameters_that_change_are_refused() -> None:
    net, optimizer, ctl = made()
    train(net, optimizer, ctl, 1)
    net.get_parameter("b.bias").requires_grad_(False)
    with pytest.raises(ControllerError, match="lost 'b.bias'"):
        train(net, optimizer, ctl, 1)
    net.get_parameter("b.bias").requires_grad_(True)
    net.add_module("more", nn.Linear(2, 2))
    with pytest.raises(ControllerError, match=r"gained 'more\.bias'"):
        ctl.step()


def test_a_state_of_something_else_is_refused_and_changes_nothing() -> None:
    _, _, ctl = made()
    state = ctl.state_dict()
    for bad, message in (
        ({}, "not the state_dict of a controller"),
        ({**state, "controller": "Other"}, "of 'Other', not of Noting"),
        ({**state, "steps": -1}, "steps -1"),
    ):
        with pytest.raises(ControllerError, match=message):
            ctl.load_state_dict(bad)
    with pytest.raises(PlanError):
        ctl.load_state_dict({**state, "own": {"seen": 7.0}, "net": {}})
    assert ctl.seen == 0.0


def test_a_closed_controller_sees_nothing_and_none_is_kept_alive() -> None:
    net, optimizer, ctl = made()
    ctl.close()
    net(torch.randn(8, 6)).sum().backward()
    optimizer.step()
    assert ctl.steps == 0
    assert not session_of(net).watchers
    net, optimizer, ctl = made()
    gone = weakref.ref(ctl)
    del ctl, net
    gc.collect()
    assert gone() is None
    optimizer.step()  # its hooks do nothing
