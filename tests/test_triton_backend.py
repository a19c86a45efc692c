"""What shows of generated kernels: ``net.kernels()``, the report, and what runs between them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import precc
from precc.backends import BACKENDS
from precc.backends.triton.backend import Triton
from precc.backends.triton.running_group import RunningGroup
from precc.errors import BackendError
from tests.llama_block import LlamaBlock, example


def step(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    net.zero_grad()
    output: Tensor = net(x)
    output.square().mean().backward()
    return [output.detach(), *(value.grad for value in net.parameters() if value.grad is not None)]


def linear(plan: precc.PrecisionPlan | str, backend: str = "triton") -> precc.PrecisionModule:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 8))
    own = precc.PrecisionPlan(plan) if isinstance(plan, str) else plan
    return precc.compile(model, plan=own, backend=backend)


def test_kernels_are_shown() -> None:
    net = linear("e4m3")
    step(net, torch.randn(4, 24))
    listing = net.kernels()
    for kernel in listing.kernels:
        assert kernel.path.read_text() == kernel.text
        assert f"def {kernel.name}(" in kernel.text
        assert kernel.name in str(listing)
    slots = {slot for kernel in listing.kernels for slot in kernel.slots}
    assert slots >= {"0/product/fprop.weight", "2/product/wgrad.grad_output"}
    assert not [line for line in net.report().notes if "without a kernel" in line]


def test_the_report_names_what_has_no_kernel() -> None:
    net = linear(precc.PrecisionPlan(precc.Precision("e4m3", transform="hadamard")))
    step(net, torch.randn(4, 24))
    (note,) = [line for line in net.report().notes if line.startswith("without a kernel")]
    assert note.endswith("operands are transformed before they are rounded (hadamard), node by node")
    remaining = net.kernels().remaining
    assert remaining
    assert all(f"{own.half} {own.name}" in note for own in remaining)


def test_given_scales_are_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that differs in these numbers alone runs by the same kernels."""
    net, reference, x = linear("e4m3"), linear("e4m3", "reference"), torch.randn(4, 24)
    step(net, x)
    made: list[str] = []
    usual = RunningGroup._made

    def noted(self: RunningGroup, *arguments: Any) -> Any:
        made.append(self.group.record.name)
        return usual(self, *arguments)

    monkeypatch.setattr(RunningGroup, "_made", noted)
    for value in (0.01, 0.3):
        plan = precc.PrecisionPlan(precc.Precision("int8", scaling=precc.Scaling("static", value=value)))
        made.clear()
        for own in (net, reference):
            own.set_plan(plan)
        assert bool(made) is (value == 0.01)
        for ours, theirs in zip(step(net, x), step(reference, x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_inductor_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed tensors have other sizes than those that Inductor was told; its own sums have another order."""
    x, found = example(batch=1), []
    for own in (Triton(between="inductor"), Triton(between="eager")):
        monkeypatch.setitem(BACKENDS, "triton", own)
        torch.manual_seed(0)
        net = precc.compile(LlamaBlock(), policy="mxfp4", backend="triton")
        for _ in range(2):
            found.append(step(net, x))
    for first, second in ((0, 1), (0, 2)):
        for ours, theirs in zip(found[first], found[second], strict=True):
            assert (ours - theirs).norm() <= 1e-3 * theirs.norm()


def alike(model: nn.Module, x: Tensor, plan: precc.PrecisionPlan) -> list[tuple[Tensor, Tensor]]:
    """What the backend gives beside what the reference gives."""
    nets = [precc.compile(model, plan=plan, backend=backend) for backend in ("triton", "reference")]
    own, expected = (step(net, x) for net in nets)
    return list(zip(own, expected, strict=True))


def test_transformed_operands_come_with_their_scales() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
    plan = precc.PrecisionPlan(precc.Precision("nvfp4", transform="hadamard"))
    assert all(torch.equal(own, expected) for own, expected in alike(model, torch.randn(16, 16), plan))


@pytest.mark.parametrize("width", [17, 1])
def test_rows_may_be_one_number(width: int) -> None:
    """A batch of one: results of a reduction, and gradients, are single elements."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, 1))
    for own, expected in alike(model, torch.randn(1, 5), precc.PrecisionPlan("e4m3")):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)


OPTIONS: dict[str, dict[str, Any]] = {
    "is no device: expected None or one of DEVICES": {"target": "sm_90"},
    "expected 'auto', 'inductor' or 'eager'": {"between": "Inductor"},
    "expected True or False": {"force_low": "no"},
}


@pytest.mark.parametrize("said", OPTIONS)
def test_options_that_there_are_not(said: str) -> None:
    with pytest.raises(BackendError, match=said):
        Triton(**OPTIONS[said])


def test_long_names_of_modules() -> None:
    """Files are called after kernels."""
    model = nn.Sequential()
    model.add_module("layer" * 60, nn.Linear(8, 4))
    net = precc.compile(model, policy="e4m3", backend="triton")
    net(torch.randn(2, 8)).sum().backward()
    assert not net.kernels().remaining
    assert all(len(kernel.path.name) < 200 for kernel in net.kernels().kernels)
