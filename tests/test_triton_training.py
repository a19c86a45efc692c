"""Nets train by generated kernels, interpreted, as they do on the reference backend.

Products of rounded operands are exact; of their float32 sums the order differs, so that a last bit may, and, seldom,
the value next to it that a sum is rounded to: a step of one operand in hundreds. Losses are therefore within 1e-4 of
the reference's, and the same numbers where no such value was met; gradients within 1e-2 of their norm.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.backends.triton.load import launches
from precc.backends.triton.templates.bound_kernel import BoundKernel
from precc.models import lenet5, mlp
from precc.models.gpt import GPT
from tests.launched_kernels import not_run, not_shown
from tests.llama_block import LlamaBlock, example

#: Block formats, integers, scales by channel, stochastic gradients, stored results.
MIXED = precc.PrecisionPlan(
    "mxfp8",
    rules=(
        precc.Rule(role="fprop", operand="weight", format="nvfp4"),
        precc.Rule(role="dgrad", operand="weight", format="int8", scaling="channel"),
        precc.Rule(role="dgrad", operand="grad_output", format="e5m2", scaling="tensor"),
        precc.Rule(role="wgrad", operand="grad_output", format="e5m2", rounding="stochastic"),
    ),
    default_result="bf16",
)
UNIFORM = precc.Uniform("e4m3").assign()


class Trained(NamedTuple):
    net: precc.PrecisionModule
    losses: list[float]
    gradients: list[Tensor]


class Net(NamedTuple):
    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    loss: Callable[[Tensor], Tensor]


def classes(logits: Tensor) -> Tensor:
    flat = logits.flatten(0, -2)
    return F.cross_entropy(flat, torch.arange(len(flat)) % flat.shape[-1])


def squares(x: Tensor) -> Tensor:
    return x.square().mean()


NETS = {
    "lenet5": Net(lenet5.LeNet5, lambda: lenet5.example_inputs(4)[0], classes),
    "mlp": Net(mlp.MLP, lambda: mlp.example_inputs(4)[0], classes),
    "gpt": Net(lambda: GPT(32, context=16, width=32, layers=1, heads=2), lambda: torch.arange(16)[None], classes),
    "llama": Net(LlamaBlock, lambda: example(batch=1), squares),
}


def trained(own: Net, plans: Sequence[precc.PrecisionPlan], backend: str) -> Trained:
    """Three steps under each plan, in which each kernel runs that the net lists, and no other."""
    torch.manual_seed(0)
    net = precc.compile(own.make(), plan=plans[0], backend=backend)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for plan in plans:
        net.set_plan(plan)
        with launches() as launched:
            for _ in range(3):
                optimizer.zero_grad()
                loss = own.loss(net(own.inputs()))
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        if backend == "triton":
            assert not not_run(net.kernels(), launched)
            assert not not_shown(net.kernels(), launched)
    return Trained(net, losses, [value.grad for value in net.parameters() if value.grad is not None])


def check(own: Net, plans: Sequence[precc.PrecisionPlan]) -> precc.PrecisionModule:
    """Losses and gradients are the reference's; the net."""
    wanted, found = (trained(own, plans, backend) for backend in ("reference", "triton"))
    assert found.losses == pytest.approx(wanted.losses, rel=1e-4, abs=0)
    assert len(set(found.losses)) == len(found.losses)
    assert found.net.compilations == wanted.net.compilations
    for ours, theirs in zip(found.gradients, wanted.gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-2 * theirs.norm()
    return found.net


@pytest.mark.parametrize("own", NETS.values(), ids=NETS.keys())
def test_losses_are_those_of_the_reference(own: Net) -> None:
    net = check(own, [MIXED, UNIFORM])
    listing = net.kernels()
    assert {kernel.half for kernel in listing.kernels} == {"forward", "backward"}
    assert not listing.remaining


@pytest.mark.slow  # the same kernels by themselves: test_triton_product_sums.py
def test_a_layer_with_rounded_sums() -> None:
    net = check(NETS["mlp"], [precc.PrecisionPlan("e4m3", rules=(precc.Rule("fc2", accumulator="e6m9"),))])
    assert not net.kernels().remaining


@pytest.mark.parametrize("kernel", ["fc1_product_fprop", "fc2_product_wgrad"])
def test_a_kernel_that_never_runs_is_found(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """One of a half of the graph that is listed, and not launched."""
    usual = BoundKernel.__call__

    def launched(self: BoundKernel, values: Mapping[str, Any]) -> None:
        if self.source.name != kernel:
            usual(self, values)

    monkeypatch.setattr(BoundKernel, "__call__", launched)
    with pytest.raises(AssertionError, match=kernel):
        trained(NETS["mlp"], [UNIFORM], "triton")


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.GELU("tanh")], ids=str)
def test_tanh_behind_a_product(activation: nn.Module) -> None:
    """A kernel's line is called after its node, and what it calls is not."""
    net = precc.compile(nn.Sequential(nn.Linear(6, 8), activation), policy="e4m3", backend="triton")
    assert net(torch.randn(5, 6)).isfinite().all()
    assert not net.kernels().remaining
