"""Plans change while the net lives: forward and backward, without compiling again, and bit for bit."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precc
from precc.backends import BACKENDS
from precc.models.lenet5 import LeNet5
from precc.plan import PrecisionPlan
from precc.precision import Precision
from tests.nets import MODELS, Attention, Convolutional, equal, inputs_of, loss_and_gradients, loss_of, uniform

FORMATS = ["e4m3", "e5m2", "fp16", "bf16"]


@pytest.mark.parametrize("model_class", MODELS)
def test_live_plans_equal_fresh_compilations_and_return_to_fp32(model_class: type[nn.Module]) -> None:
    model = model_class()
    start = copy.deepcopy(model.state_dict())
    x = inputs_of(model)
    net = precc.compile(model, backend="reference")

    def under(net: nn.Module) -> list[torch.Tensor]:
        net.load_state_dict(start)  # batch-norm statistics too
        return loss_and_gradients(net, x)

    full = under(net)
    for fmt in FORMATS if model_class is LeNet5 else FORMATS[:2]:
        net.set_plan(uniform(fmt))
        live = under(net)
        fresh = under(precc.compile(model, policy=fmt, backend="reference"))
        assert equal(live, fresh), fmt
        assert not equal(live[:1], full[:1]), fmt
        net.set_plan(uniform("float32"))
        assert equal(under(net), full), fmt
    assert net.compilations == 1


def test_inductor_switches_live_too_and_returns_to_fp32() -> None:
    model = Convolutional()
    start = copy.deepcopy(model.state_dict())
    x = inputs_of(model)
    net = precc.compile(model, backend="inductor")

    def under(plan: str, net: precc.PrecisionModule) -> list[torch.Tensor]:
        net.load_state_dict(start)
        net.set_plan(uniform(plan))
        return loss_and_gradients(net, x)

    full = under("float32", net)
    oracle = precc.compile(model, backend="reference")
    for fmt in FORMATS:
        live, expected = under(fmt, net), under(fmt, oracle)
        for ours, theirs in zip(live, expected, strict=True):
            # sums are ordered differently, and a sum on a tie may then round to the other neighbour
            assert torch.allclose(ours, theirs, rtol=5e-2, atol=2e-3), fmt
    assert equal(under("float32", net), full)
    assert net.compilations == 1


@pytest.mark.parametrize("model_class", MODELS)
def test_full_precision_is_the_model_itself(model_class: type[nn.Module]) -> None:
    model = model_class().eval()
    x = inputs_of(model)
    expected = loss_and_gradients(model, x)
    for backend in BACKENDS if model_class is LeNet5 else ["reference"]:
        ours = loss_and_gradients(precc.compile(model, backend=backend), x)
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plan_change_reaches_the_backward(backend: str) -> None:
    model = LeNet5()
    x = inputs_of(model)
    net = precc.compile(model, backend=backend)
    full = loss_and_gradients(net, x)
    backward_only = {name: Precision(precc.FORMATS["float8_e5m2"]) for name in net.plan.slots if "/fprop." not in name}
    net.set_plan(PrecisionPlan(net.plan.default, backward_only))
    low = loss_and_gradients(net, x)
    assert torch.equal(low[0], full[0])
    weights = [p.dim() > 1 for p in net.parameters()]
    for changed, (ours, exact) in zip(weights, zip(low[1:], full[1:], strict=True), strict=True):
        # biases are sums of gradients that went through rounded dgrads; the last bias saw no product
        assert not torch.equal(ours, exact) or not changed
    assert net.compilations == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_backward_slot_moves_its_own_gradient(backend: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    x = torch.randn(4, 8)
    net = precc.compile(model, backend=backend)

    def gradients() -> tuple[torch.Tensor, torch.Tensor]:
        net.zero_grad()
        net(x).square().sum().backward()
        first, second = model[0].weight.grad, model[1].weight.grad
        assert first is not None
        assert second is not None
        return first.clone(), second.clone()

    full = gradients()
    moved = {}
    for slot in [name for name in net.plan.slots if "/fprop." not in name]:
        net.set_plan(PrecisionPlan(net.plan.default, {slot: Precision(precc.FORMATS["float4_e2m1fn"])}))
        moved[slot] = tuple(not torch.equal(a, b) for a, b in zip(gradients(), full, strict=True))
    assert moved == {
        "0/product/wgrad.grad_output": (True, False),
        "0/product/wgrad.input": (True, False),
        "1/product/dgrad.grad_output": (True, False),
        "1/product/dgrad.weight": (True, False),
        "1/product/wgrad.grad_output": (False, True),
        "1/product/wgrad.input": (False, True),
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backward_runs_under_the_plan_of_its_forward(backend: str) -> None:
    model = LeNet5()
    x = inputs_of(model)
    net = precc.compile(model, backend=backend)
    expected = {}
    for fmt in ("e5m2", "float32"):
        net.set_plan(uniform(fmt))
        expected[fmt] = loss_and_gradients(net, x)

    def gradients_after(loss: torch.Tensor) -> list[torch.Tensor]:
        net.zero_grad()
        loss.backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    net.set_plan(uniform("e5m2"))
    coarse = loss_of(net, x)
    net.set_plan(uniform("float32"))
    full = loss_of(net, x)
    net.set_plan(uniform("bf16"))
    assert equal(gradients_after(full), expected["float32"][1:])
    assert equal(gradients_after(coarse), expected["e5m2"][1:])


def test_twelve_nets_of_one_class_each_run_their_own_plan() -> None:
    x = inputs_of(LeNet5())
    names = ["e4m3", "e5m2", "bf16", "e5m10", "e4m5", "e2m1", "fp32", "e3m4", "e5m4", "tf32", "e2m3", "e3m2"]
    weights = LeNet5().state_dict()
    oracle, expected = precc.compile(LeNet5(), backend="reference"), []
    oracle.load_state_dict(weights)
    for name in names:
        oracle.set_plan(uniform(name))
        expected.append(loss_and_gradients(oracle, x))
    sums = {tuple(value.double().sum().item() for value in result) for result in expected}
    assert len(sums) == len(names)
    models = [LeNet5() for _ in names]
    for model in models:
        model.load_state_dict(weights)
    nets = [precc.compile(model, policy=name, backend="reference") for model, name in zip(models, names, strict=True)]
    for _ in range(2):
        for net, name, result in zip(nets, names, expected, strict=True):
            assert equal(loss_and_gradients(net, x), result), name
    assert [net.compilations for net in nets] == [1] * len(nets)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_still_rounds(copier: Any) -> None:
    model = LeNet5()
    x = inputs_of(model)
    net = precc.compile(model, policy="e4m3", backend="reference")
    expected = loss_and_gradients(net, x)
    twin = copier(net)
    assert isinstance(twin, LeNet5)
    assert isinstance(twin, precc.PrecisionModule)
    assert type(twin) is type(net)
    assert equal(loss_and_gradients(twin, x), expected)
    assert twin.plan == net.plan
    assert twin.compilations == 1
    # parameters and plans are the copy's own
    with torch.no_grad():
        next(twin.parameters()).zero_()
    twin.set_plan(uniform("float32"))
    assert equal(loss_and_gradients(net, x), expected)


class Sparing(nn.Module):
    """Keeps in copies and pickles what it knows of itself, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)  # type: ignore[no-any-return]

    def __getstate__(self) -> Any:
        return self.fc.weight, self.fc.bias

    def __setstate__(self, state: Any) -> None:
        Sparing.__init__(self)
        self.fc.weight, self.fc.bias = state


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_rounds_though_its_class_leaves_out_what_it_does_not_know(copier: Any) -> None:
    net, x = precc.compile(Sparing(), policy="e4m3", backend="reference"), torch.randn(3, 6)
    assert equal(loss_and_gradients(copier(net), x), loss_and_gradients(net, x))


def test_a_copy_made_before_the_first_call_rounds() -> None:
    model = LeNet5()
    net = precc.compile(model, policy="e4m3", backend="reference")
    twin = copy.deepcopy(net)
    x = inputs_of(model)
    assert equal([twin(x)], [net(x)])
    assert not equal([twin(x)], [model(x)])


def test_retained_graphs_and_saved_tensor_hooks_keep_the_plan() -> None:
    model = Attention()
    x = inputs_of(model)
    net = precc.compile(model, policy="e4m3", backend="reference")
    expected = loss_and_gradients(net, x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        loss = loss_of(net, x)
    net.set_plan(uniform("bf16"))
    for _ in range(2):
        net.zero_grad()
        loss.backward(retain_graph=True)
        assert equal([p.grad for p in net.parameters() if p.grad is not None], expected[1:])
