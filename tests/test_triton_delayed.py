"""Largest magnitudes for delayed scales, recorded by the kernels that round."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import precc
from precc.amax_history import AmaxHistory
from precc.backends.triton.device import INTERPRETER
from precc.backends.triton.live_plan import LivePlan
from precc.backends.triton.live_rows import rows_read
from precc.backends.triton.load import launches
from precc.backends.triton.running_group import RunningGroup
from precc.backends.triton.templates.cast import CastTemplate
from precc.packing import PACK
from precc.round_op import ROUND
from precc.rounding import RECORD_COLUMNS
from tests.llama_block import LlamaBlock, example
from tests.triton_casts import group_of
from tests.triton_products import plan_tensor, rounding_row

DELAYED = precc.PrecisionPlan(precc.Precision("e4m3", scaling=precc.Scaling("tensor", history=4)))


def recorded(x: Tensor, layout: str) -> float | None:
    """What one cast records of a value; None if nothing."""
    history = AmaxHistory()
    plan = plan_tensor([rounding_row("e4m3", precc.Scaling("static", value=0.5))])
    plan[0, RECORD_COLUMNS[0]], plan[0, RECORD_COLUMNS[1]] = history.number, history.begin(["fc/product/fprop.input"])
    both = group_of(lambda g, x, p: [g.call_function(PACK, (x, p, 0, t)) for t in (False, True)])
    values = group_of(lambda g, x, p: [g.call_function(ROUND, (x, p, 0))])
    group = both if layout == "packed" else values
    for node in group.module.graph.find_nodes(op="placeholder"):
        node.meta["val"] = x
    live = LivePlan.of([rows_read(group.module)])
    own = RunningGroup(group, CastTemplate(), INTERPRETER, live, group.module)
    for ours, theirs in zip(own([x], plan), group.module(x, plan), strict=True):
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
    assert not isinstance(own.built, str)
    (found,) = history.to_lists().values() or [[]]
    return found[0] if found else None


VALUES: dict[str, Callable[[], Tensor]] = {
    "float32": lambda: torch.randn(70, 40),
    "bfloat16": lambda: torch.randn(33, 8).bfloat16(),
    "float16": lambda: torch.randn(16, 48).half(),
    "float64": lambda: torch.randn(5, 6, dtype=torch.float64) * 1e200,
    "negative": lambda: -torch.rand(7, 9),
    "tiny": lambda: torch.full((4, 6), 1e-45),
}


@pytest.mark.parametrize("layout", ["packed", "values"])
@pytest.mark.parametrize("name", VALUES)
def test_of_a_cast(name: str, layout: str) -> None:
    x = VALUES[name]()
    assert recorded(x, layout) == float(x.abs().max())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_leaves_none(value: float) -> None:
    x = torch.randn(20, 30)
    x[3, 4] = value
    assert recorded(x, "packed") is None
    assert recorded(torch.zeros(20, 30), "packed") is None
    assert recorded(torch.zeros(0, 30), "packed") is None


def states(make: Callable[[], nn.Module], x: Tensor, backend: str) -> tuple[list[float], dict[str, list[float]]]:
    """Losses of three steps, and the histories after them."""
    torch.manual_seed(0)
    net = precc.compile(make(), plan=DELAYED, backend=backend)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if backend == "triton":
        assert not net.kernels().remaining
    return losses, net.precision_state()["amax"]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(24, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8))


@pytest.mark.parametrize("name", ["mlp", pytest.param("llama", marks=pytest.mark.slow)])
def test_of_a_net(name: str) -> None:
    """By kernels alone: in casts, behind norms, behind products, in both halves; as `reference` records them."""
    make, x = (mlp, torch.randn(6, 24)) if name == "mlp" else (LlamaBlock, example(batch=1))
    ours, wanted = (states(make, x, backend) for backend in ("triton", "reference"))
    torch.testing.assert_close(ours[0], wanted[0], rtol=1e-4, atol=0)
    assert ours[1].keys() == wanted[1].keys()
    for slot, amax in wanted[1].items():
        assert ours[1][slot] == pytest.approx(amax, rel=1e-3), slot


def test_nothing_is_recorded_in_evaluation() -> None:
    torch.manual_seed(0)
    net = precc.compile(mlp(), plan=DELAYED, backend="triton")
    net(torch.randn(6, 24)).sum().backward()
    before = net.precision_state()["amax"]
    net.eval()
    with torch.no_grad(), launches() as found:
        net(torch.randn(6, 24) * 100)
    assert found
    assert net.precision_state()["amax"] == before


@pytest.mark.parametrize("first", [1.0, math.inf])
def test_each_of_two_backwards_records_by_itself(first: float) -> None:
    """One that has an infinity or a NaN leaves no record, and does not take that of the other."""
    found = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        net = precc.compile(nn.Sequential(nn.Linear(24, 16), nn.Linear(16, 8)), plan=DELAYED, backend=backend)
        output = net(torch.ones(6, 24))
        for value in (first, 1.0 if first != 1.0 else math.nan):
            output.backward(torch.full_like(output, value), retain_graph=True)
        found.append(net.precision_state()["amax"])
    assert found[0].keys() == found[1].keys()
    assert found[0]["1/product/dgrad.grad_output"] == [1.0]


def test_largest_magnitudes_are_of_what_is_rounded_after_a_transform() -> None:
    plan = precc.PrecisionPlan(
        precc.Precision("e4m3", scaling=precc.Scaling("tensor", history=4), transform="hadamard")
    )
    found = []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        net = precc.compile(nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 16)), plan=plan, backend=backend)
        net(torch.arange(192.0).reshape(6, 32)).sum().backward()
        found.append(net.precision_state()["amax"])
    assert found[0].keys() == found[1].keys()
    for slot, amax in found[1].items():
        assert found[0][slot] == pytest.approx(amax, rel=1e-5), slot
