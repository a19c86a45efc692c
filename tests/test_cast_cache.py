"""Rounded copies of parameters: kept as long as nothing writes to the parameter, and no longer."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import precc
from precc.backends.triton.compiled_graph import CompiledGraph
from precc.module import session_of


def net_of(**options: object) -> tuple[nn.Linear, precc.PrecisionModule]:
    torch.manual_seed(0)
    model = nn.Linear(16, 16)
    return model, precc.compile(model, backend="triton", **options)  # type: ignore[arg-type]


def reuses(net: precc.PrecisionModule) -> int:
    owners = [own for graph in session_of(net).graphs.current for own in graph.kernel_owners]
    return sum(group.casts.reuses for own in owners if isinstance(own, CompiledGraph) for group in own.groups)


def expected(model: nn.Linear, x: Tensor) -> Tensor:
    with torch.no_grad():
        return precc.compile(model, policy="e4m3", backend="reference")(x).detach()


def test_micro_batches_share_a_copy() -> None:
    _, net = net_of(policy="e4m3")
    x = torch.randn(4, 16)
    for n in range(3):
        net(x).sum().backward()
        assert reuses(net) == n


WRITES: dict[str, Callable[[nn.Linear], object]] = {
    "in place": lambda model: model.weight.add_(1),
    "copy": lambda model: model.weight.copy_(torch.ones(16, 16)),
    "load_state_dict": lambda model: model.load_state_dict({"weight": torch.ones(16, 16), "bias": torch.ones(16)}),
    "a part": lambda model: model.weight[3].zero_(),
    "an optimizer": lambda model: torch.optim.SGD(model.parameters(), 0.5).step(),
    "other memory": lambda model: setattr(model.weight, "data", torch.full((16, 16), 0.5)),
    "data and drop_casts": lambda model: (model.weight.data.mul_(2), precc.drop_casts()),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_is_seen(name: str) -> None:
    model, net = net_of(policy="e4m3")
    x = torch.randn(4, 16)
    net(x).sum().backward()
    with torch.no_grad():
        WRITES[name](model)
    torch.testing.assert_close(net(x).detach(), expected(model, x), rtol=1e-5, atol=1e-5)
    assert reuses(net) == 0


class ThroughData(torch.optim.Optimizer):
    """Writes as the version counter does not see."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for own in group["params"]:
                own.data.sub_(own.grad.data)


def test_optimizers_that_write_through_data() -> None:
    model, net = net_of(policy="e4m3")
    x = torch.randn(4, 16)
    net(x).sum().backward()
    ThroughData(model.parameters()).step()
    torch.testing.assert_close(net(x).detach(), expected(model, x), rtol=1e-5, atol=1e-5)


def test_another_plan_is_another_copy() -> None:
    model, net = net_of(policy="mxfp4")
    x = torch.randn(4, 16)
    net(x)
    net.set_plan(precc.Uniform("e4m3").assign())
    torch.testing.assert_close(net(x).detach(), expected(model, x), rtol=1e-5, atol=1e-5)


def test_stochastic_copies_are_drawn_anew() -> None:
    _, net = net_of(policy=precc.Uniform("e2m1", rounding="stochastic"))
    x = torch.randn(4, 16)
    first, second = net(x).detach(), net(x).detach()
    assert not first.equal(second)
    assert reuses(net) == 0
