"""Nets that are compiled for one plan alone: as live ones in its slots, and without slots where it rounds nothing."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import precc
from precc.errors import PlanError
from precc.module import session_of
from precc.pipeline import Pipeline
from precc.protocols import GraphContext
from precc.round_op import ROUND
from tests.nets import MODELS, Attention, Stack, equal, inputs_of, loss_and_gradients

PLANS = {
    "some operands": precc.PrecisionPlan("float32", rules=(precc.Rule(role="fprop", format="e4m3"),)),
    "stochastic": precc.Uniform("e5m2", rounding="stochastic").assign(),
    "some sums": precc.PrecisionPlan("float32", rules=(precc.Rule(role="wgrad", accumulator="e5m10", required=False),)),
}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Rounding nodes and fused attention in the joint graphs that are made."""
    counts: Counter[str] = Counter()
    run = Pipeline.run

    def counting(self: Pipeline, graph: GraphModule, context: GraphContext) -> None:
        run(self, graph, context)
        if not self.passes:
            return
        counts["rounded"] += len(graph.graph.find_nodes(op="call_function", target=ROUND))
        counts["fused"] += sum("scaled_dot_product" in str(node.target) for node in graph.graph.nodes)

    monkeypatch.setattr(Pipeline, "run", counting)
    return counts


#: Each model, and each plan.
ALWAYS = {
    ("Stack", "stochastic"),
    ("Attention", "some operands"),
    ("LeNet5", "some sums"),
    ("Convolutional", "some sums"),
}
PAIRS = [(kind, name) for kind in MODELS for name in PLANS]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=[pytest.mark.slow] * ((kind.__name__, name) not in ALWAYS))
        for kind, name in PAIRS
    ],
)
def test_a_fixed_plan_computes_as_a_live_one(kind: type[nn.Module], name: str) -> None:
    torch.manual_seed(0)
    model = kind()
    live = precc.compile(model, plan=PLANS[name], backend="reference")
    fixed = precc.compile(model, plan=PLANS[name], backend="reference", live=False)
    x = inputs_of(model)
    expected, found = (loss_and_gradients(net, x) for net in (copy.deepcopy(live), copy.deepcopy(fixed)))
    assert equal(found, expected)
    work = [net.precision_state()["multiply_adds"] for net in (live, fixed) if loss_and_gradients(net, x)]
    assert work[0] == work[1]
    assert live.plan == fixed.plan
    assert live.plan.slots.keys() == fixed.plan.slots.keys()


def test_only_what_the_plan_rounds_has_a_node(counted: Counter[str]) -> None:
    model = Stack()
    net = precc.compile(model, plan=PLANS["some operands"], backend="reference", live=False)
    loss_and_gradients(net, inputs_of(model))
    assert counted["rounded"] == sum("fprop" in slot for slot in net.plan.slots)


class Fused(nn.Module):
    """Attention by torch's function."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.project(x).unflatten(-1, (2, 8)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("policy", [None, "float32"])
def test_without_roundings_nothing_is_placed_or_opened(counted: Counter[str], policy: str | None) -> None:
    model, x = Fused(), torch.randn(2, 6, 16)
    net = precc.compile(model, policy=policy, backend="reference", live=False)
    losses = []
    for own in (net, model):
        own.zero_grad()
        loss = own(x).square().mean()
        loss.backward()
        losses.append([loss.detach(), *(p.grad.clone() for p in own.parameters() if p.grad is not None)])
    assert equal(*losses)
    assert counted["rounded"] == 0
    assert counted["fused"] > 0
    assert set(net.precision_state()["multiply_adds"]) == {"float32"}
    precc.compile(Fused(), policy="e4m3", backend="reference", live=False)(x)
    assert counted["rounded"] > 0


def test_a_double_net_without_a_plan_rounds_nothing() -> None:
    model = Attention().double()
    net = precc.compile(model, backend="reference", live=False)
    x = inputs_of(model).double()
    assert torch.equal(net(x), model(x))


def test_another_plan_is_refused_or_built() -> None:
    model = Attention()
    net = precc.compile(model, policy="e4m3", backend="reference", live=False)
    x = inputs_of(model)
    net.set_plan(precc.Uniform("e5m2").assign())  # no graph is lost before the first call
    expected = loss_and_gradients(precc.compile(model, policy="e5m2", backend="reference"), x)
    assert equal(loss_and_gradients(net, x), expected)
    net.set_plan(precc.Uniform("e5m2").assign())
    assert net.compilations == 1
    other = precc.Uniform("e4m3", accumulator="e5m10").assign()
    with pytest.raises(PlanError, match="built for one plan alone.*live=True.*recompile=True"):
        net.set_plan(other)
    assert equal(loss_and_gradients(net, x), expected)
    net.set_plan(other, recompile=True)
    assert equal(loss_and_gradients(net, x), loss_and_gradients(precc.compile(model, plan=other), x))
    assert net.compilations == 2
    for kept in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert equal(loss_and_gradients(kept, x), loss_and_gradients(net, x))


def test_graphs_that_were_built_again_leave_no_more_than_their_records() -> None:
    net = precc.compile(Attention(), policy="e4m3", backend="reference", live=False)
    x = inputs_of(Attention())
    names = {"bfloat16", "float16", "float8_e5m2", "float8_e3m4"}
    for name in names:
        net.set_plan(precc.Uniform(name).assign(), recompile=True)
        loss_and_gradients(net, x)
    graphs = session_of(net).graphs
    assert (net.compilations, len(graphs.current), len(graphs.former)) == (4, 1, 1)
    assert not graphs.former[0]._prepared
    assert set(net.precision_state()["multiply_adds"]) == names


def test_a_controller_refuses_the_net() -> None:
    net = precc.compile(Attention(), policy="e4m3", backend="reference", live=False)
    with pytest.raises(PlanError, match="one plan alone.*live=True"):
        precc.TrustRegion(net)


def test_a_state_with_another_plan_is_refused() -> None:
    model = Attention()
    state = precc.compile(model, policy="e5m2", backend="reference").precision_state()
    net = precc.compile(model, policy="e4m3", backend="reference", live=False)
    net(inputs_of(model))
    with pytest.raises(PlanError, match="one plan alone"):
        net.load_precision_state(state)


def test_live_is_a_choice() -> None:
    with pytest.raises(PlanError, match="live is True or False, not 'no'"):
        precc.compile(Attention(), live="no")  # type: ignore[arg-type]
