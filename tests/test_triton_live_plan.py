"""Numbers of a plan, static scales and states of random streams, lie where captured kernels find the next ones."""

import threading

import pytest
import torch
from torch import Tensor, nn

import precc
from precc.backends.triton import live_plan, running_group
from precc.backends.triton.compiled_graph import CompiledGraph
from precc.backends.triton.live_plan import LivePlan
from precc.backends.triton.live_rows import PlanRows, RowsRead
from precc.backends.triton.load import launches
from precc.errors import BackendError
from precc.module import session_of
from precc.rounding.random_bits import stream_state
from tests.triton_products import KEY, plan_tensor, rounding_row

CPU = torch.device("cpu")


def static(value: float, name: str = "e4m3") -> precc.PrecisionPlan:
    return precc.PrecisionPlan(precc.Precision(name, scaling=precc.Scaling("static", value=value)))


def net_of(backend: str = "triton") -> precc.PrecisionModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 8))
    return precc.compile(model, plan=static(0.5), backend=backend)


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    net.zero_grad()
    output: Tensor = net(x)
    output.square().mean().backward()
    return [output.detach(), *(own.grad for own in net.parameters() if own.grad is not None)]


def groups(net: precc.PrecisionModule) -> list[running_group.RunningGroup]:
    owners = [own for graph in session_of(net).graphs.current for own in graph.kernel_owners]
    return [group for own in owners if isinstance(own, CompiledGraph) for group in own.groups]


def test_launches_of_a_capture_run_under_the_next_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a CUDA graph does: the same kernels, the same arguments, after another static scale was set."""
    net, reference, x = net_of(), net_of("reference"), torch.randn(4, 24)
    before = step(net, x)
    with torch.no_grad():
        net(x)
    with monkeypatch.context() as capture, torch.no_grad(), launches() as captured:
        for module in live_plan, running_group:  # casts of weights are captured too
            capture.setattr(module, "is_capturing", lambda device: True)
        output = net(x)
    assert torch.equal(output, before[0])
    for own in (net, reference):
        own.set_plan(static(0.01))
    output.zero_()
    for launch in captured:
        launch()
    with torch.no_grad():
        torch.testing.assert_close(output, reference(x), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(output, before[0], rtol=1e-3)


def test_going_back_to_a_plan_renews_its_numbers() -> None:
    net, x = net_of(), torch.randn(4, 24)
    first = step(net, x)
    memory = {id(own) for group in groups(net) for own in group.live._memories.values()}
    for value in (0.01, 0.5):
        net.set_plan(static(value))
        found = step(net, x)
    assert all(torch.equal(*both) for both in zip(first, found, strict=True))
    assert memory == {id(own) for group in groups(net) for own in group.live._memories.values()}


def test_copies_are_not_kept_once_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that writes the parameter, an optimizer in it, does not tell Python."""
    net, x = net_of(), torch.randn(4, 24)
    step(net, x)
    monkeypatch.setattr(running_group, "is_capturing", lambda device: True)
    step(net, x)
    reused = sum(group.casts.reuses for group in groups(net))
    monkeypatch.setattr(running_group, "is_capturing", lambda device: False)
    with torch.no_grad():
        net[0].weight.data.mul_(2)  # type: ignore[index]
    found = step(net, x)
    assert sum(group.casts.reuses for group in groups(net)) == reused
    again = net_of("reference")
    with torch.no_grad():
        again[0].weight.mul_(2)  # type: ignore[index]
    torch.testing.assert_close(found[0], step(again, x)[0], rtol=1e-5, atol=1e-6)


def test_a_new_plan_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = net_of(), torch.randn(4, 24)
    step(net, x)
    net.set_plan(precc.PrecisionPlan(precc.Precision("e4m3", rounding="stochastic")))
    step(net, x)
    monkeypatch.setattr(live_plan, "is_capturing", lambda device: True)
    with pytest.raises(BackendError, match="CUDA graph is being captured under a plan that is new in this forward"):
        net(x)


def test_numbers_of_rows() -> None:
    scaled = rounding_row("e4m3", precc.Scaling("static", value=0.3))
    plan = plan_tensor([scaled, rounding_row("e5m2", mode="stochastic"), rounding_row("nested8.4", mode="stochastic")])
    given, drawn, twice = (own.numbers for own in LivePlan(RowsRead((0, 1, 2), ())).rows(plan, CPU).values())
    assert given is not None
    assert drawn is not None
    assert twice is not None
    assert given[:2].tolist() == [0.3, 0]
    for numbers, count in (drawn, 1), (twice, 2):
        states = [half for n in range(count) for half in stream_state(KEY, 9 + n)]
        assert numbers[1:].tolist() == [*states, *[0] * (15 - 2 * count)]
        assert numbers.data_ptr() % 16 == 0


def test_threads_have_numbers_of_their_own() -> None:
    live = LivePlan(RowsRead((0,), ()))
    plans = [plan_tensor([rounding_row("e4m3", precc.Scaling("static", value=value))]) for value in (1.0, 2.0)]
    mine = live.rows(plans[0], CPU)[0].numbers
    theirs: list[Tensor | None] = []
    thread = threading.Thread(target=lambda: theirs.append(live.rows(plans[1], CPU)[0].numbers))
    thread.start()
    thread.join()
    assert mine is not None
    assert theirs[0] is not None
    assert (float(mine[0]), float(theirs[0][0])) == (1.0, 2.0)


def test_kernels_are_the_same_for_all_scales_that_one_carrier_holds() -> None:
    def variant(value: float) -> object:
        plan = plan_tensor([rounding_row("e4m3", precc.Scaling("static", value=value))])
        return PlanRows.of(RowsRead((0,), ()), plan).variant

    assert variant(0.3) == variant(1.0) == variant(5.0)
    assert variant(0.3) != variant(2.0**-140)


def test_setting_a_plan_leaves_the_numbers_of_another_thread() -> None:
    """Whose forward may be between reading its plan and running its kernel."""
    live, theirs = LivePlan(RowsRead((0,), ())), list[Tensor | None]()
    plans = [plan_tensor([rounding_row("e4m3", precc.Scaling("static", value=value))]) for value in (1.0, 2.0)]
    thread = threading.Thread(target=lambda: theirs.append(live.rows(plans[0], CPU)[0].numbers))
    thread.start()
    thread.join()
    live.renew(plans[1])
    assert theirs[0] is not None
    assert float(theirs[0][0]) == 1.0


def test_parameters_of_inference_mode_are_rounded_each_time() -> None:
    """Writes to them are not counted."""
    x, outputs = torch.randn(4, 24), []
    for backend in ("triton", "reference"):
        with torch.inference_mode():
            net = net_of(backend).eval()
            net(x)
            net[0].weight.mul_(2)  # type: ignore[index]
            outputs.append(net(x))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
