"""Fusion groups: the graph computes the same bits, every rounding is in a group, and which groups there are."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.fusion_group import FusionGroup, GroupKind
from precc.models.gpt import GPT
from precc.models.lenet5 import LeNet5
from precc.passes.fusion_units import FusionUnits
from tests.fused_backend import Fused
from tests.golden import check_golden
from tests.llama_block import LlamaBlock

PLAN = precc.PrecisionPlan(
    "mxfp8",
    rules=(
        precc.Rule(role="fprop", operand="weight", format="e2m1", scaling="channel"),
        precc.Rule(role="wgrad", operand="grad_output", format="e5m2", rounding="stochastic"),
    ),
    default_result="bf16",
)


def trained(model: nn.Module, backend: Any, *inputs: Tensor) -> list[Tensor]:
    """The loss and the gradients of a step."""
    torch.manual_seed(3)
    net = precc.compile(model, plan=PLAN, backend=backend)
    net.zero_grad()
    output = net(*inputs)
    loss = (output.double() * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum()
    loss.backward()
    return [loss.detach(), *(own.grad.clone() for own in model.parameters() if own.grad is not None)]


def same(model: nn.Module, *inputs: Tensor) -> Fused:
    backend = Fused()
    fused, plain = trained(model, backend, *inputs), trained(model, "reference", *inputs)
    assert all(a.equal(b) for a, b in zip(fused, plain, strict=True))
    return backend


NETS = {
    "lenet5": (LeNet5, lambda: torch.randn(2, 1, 28, 28)),
    "gpt": (lambda: GPT(32, context=16, width=32, layers=1, heads=2), lambda: torch.arange(32).view(2, 16)),
    "llama": (LlamaBlock, lambda: torch.randn(2, 8, 32)),
}


@pytest.mark.parametrize("name", NETS)
def test_the_same_bits(name: str) -> None:
    make, inputs = NETS[name]
    backend = same(make(), inputs())
    assert all(kind in {own.kind for half in backend.graphs for own in half} for kind in GroupKind)
    assert not [target for half in backend.left for target in half if target.startswith("precc.")]


def listed(halves: list[list[FusionGroup]]) -> str:
    names = ("forward", "backward")
    lines = []
    for name, half in zip(names, halves, strict=True):
        lines.append(name)
        for own in half:
            lines.append(f"  {own.kind.value} {own.name}: {' '.join(own.nodes)}")
            lines += [f"    {slot}" for slot in own.slots]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["lenet5", "llama"])
def test_the_groups_of_a_net(name: str) -> None:
    make, inputs = NETS[name]
    backend = Fused()
    trained(make(), backend, inputs())
    check_golden(f"fused_{name}.txt", listed(backend.graphs))


class Branches(nn.Module):
    """Layers in a row, with functions between them that read any two earlier values."""

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.steps = steps
        self.layers = nn.ModuleList(nn.Linear(16, 16, bias=n % 2 == 0) for n, _ in enumerate(steps))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in steps)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for n, (kind, first, second) in enumerate(self.steps):
            a, b = values[first % len(values)], values[second % len(values)]
            values.append(self.step(kind, n, a, b))
        return torch.stack(values[1:]).sum(0)

    def step(self, kind: str, n: int, a: Tensor, b: Tensor) -> Tensor:
        made = {
            "linear": lambda: self.layers[n](a),
            "add": lambda: a + b,
            "gate": lambda: F.silu(a) * b,
            "norm": lambda: self.norms[n](a + b),
            "relu": lambda: F.relu(a),
            "softmax": lambda: torch.softmax(a, -1),
            "product": lambda: a @ b.mT @ a,
        }
        value: Tensor = made[kind]()
        return value


STEPS = st.tuples(
    st.sampled_from(["linear", "linear", "add", "gate", "norm", "relu", "softmax", "product"]),
    st.integers(0, 9),
    st.integers(0, 9),
)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.lists(STEPS, min_size=3, max_size=6))
def test_any_net_computes_the_same(steps: list[tuple[str, int, int]]) -> None:
    same(Branches([("linear", 0, 0), *steps]), torch.randn(4, 16))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=3, max_size=12))
def test_any_larger_net_computes_the_same(steps: list[tuple[str, int, int]]) -> None:
    same(Branches([("linear", 0, 0), *steps]), torch.randn(4, 16))


def test_a_way_around_forbids_a_group() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    a = graph.call_function(torch.relu, (x,))
    b = graph.call_function(torch.neg, (a,))
    c = graph.call_function(torch.add, (a, b))
    graph.output(c)
    units = FusionUnits(graph)
    assert not units.can_join([a, c])
    assert units.can_join([a, b, c])
    units.join([b, c])
    assert units.can_join([a, b])


def test_two_groups_do_not_wait_for_each_other() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    a, b = (graph.call_function(torch.relu, (x,)) for _ in range(2))
    c, d = graph.call_function(torch.neg, (a,)), graph.call_function(torch.neg, (b,))
    graph.output((c, d))
    units = FusionUnits(graph)
    units.join([a, d])
    assert not units.can_join([b, c])
