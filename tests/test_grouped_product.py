"""Products of grouped rows: the operator, its slots in a net, its sums, and what it refuses."""

from collections.abc import Callable

import pytest
import torch
import transformers.integrations.moe  # noqa: F401  # registers the operator that models call
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.errors import PlanError
from precc.grouped_product import GROUPED_PRODUCT

ENDS = torch.tensor([3, 3, 8, 10])
A, B = (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in ((12, 16), (4, 16, 5)))


class Experts(nn.Module):
    """Rows sorted by expert, each times the matrix of its own; the last two rows belong to none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(B.clone())

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        result: Tensor = torch.ops.transformers.grouped_mm_fallback(x, self.weight, ends)
        return result


def by_loop(a: Tensor, b: Tensor, multiply: Callable[[Tensor, Tensor], Tensor] = torch.mm) -> Tensor:
    """Each group by itself, in order."""
    rows = [slice(start, end) for start, end in zip([0, *ENDS.tolist()], ENDS.tolist(), strict=False)]
    parts = [multiply(a[own], b[group]) for group, own in enumerate(rows) if own.start < own.stop]
    return torch.cat([*parts, torch.zeros(len(a) - int(ENDS[-1]), b.shape[-1])])


def gradients(net: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    net.zero_grad()
    result = net(x, ENDS)
    (result * torch.linspace(-1, 1, 5)).square().sum().backward()
    assert x.grad is not None
    return [result.detach(), x.grad, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]


def test_the_operator_equals_a_loop_and_its_gradients_the_numerical_ones() -> None:
    assert torch.equal(GROUPED_PRODUCT(A, B, ENDS), by_loop(A, B))
    a, b = (x.double().requires_grad_() for x in (A, B))
    assert torch.autograd.gradcheck(GROUPED_PRODUCT, (a, b, ENDS))
    torch.library.opcheck(GROUPED_PRODUCT, (A, B, ENDS))


@pytest.mark.parametrize("backend", ["reference", "inductor"])
def test_a_net_of_experts(backend: str) -> None:
    """Slots, work and numbers: plain in full precision; rounded operands, and rounded sums of each expert apart."""
    model = Experts()
    net = precc.compile(model, backend=backend)
    for found, plain in zip(gradients(net, A), gradients(model, A), strict=True):
        assert torch.allclose(found, plain, rtol=1e-6, atol=1e-6)
    roles = {"fprop": ("input", "weight"), "dgrad": ("grad_output", "weight"), "wgrad": ("input", "grad_output")}
    work = net.plan.multiply_adds
    assert work == {f"product/{role}.{name}": 12 * 16 * 5 for role, names in roles.items() for name in names}
    assert not [note for note in net.report().notes if note.startswith("not rounded:") and "no product" not in note]
    net.set_plan(precc.Uniform("e4m3").assign())
    rounded = [precc.round_to(x, "e4m3") for x in (A, B)]
    assert torch.allclose(gradients(net, A)[0], by_loop(*rounded), rtol=1e-6, atol=1e-6)


def test_sums_of_each_expert_are_rounded() -> None:
    net = precc.compile(Experts(), policy=precc.Uniform("fp32", accumulator="e5m10"), backend="reference")
    result, of_a, of_b = gradients(net, A)
    assert torch.equal(result, by_loop(A, B, lambda a, b: precc.matmul(a, b, "e5m10")))
    gradient = 2 * result * torch.linspace(-1, 1, 5).square()
    assert torch.allclose(of_a, by_loop(gradient, B.transpose(1, 2), lambda a, b: precc.matmul(a, b, "e5m10")))
    third = precc.matmul(A[3:8].t().contiguous(), gradient[3:8], "e5m10")
    assert torch.allclose(of_b[2], third)
    assert torch.equal(of_b[1], torch.zeros(16, 5))


def test_stochastic_sums_differ_from_expert_to_expert() -> None:
    """Equal rows and matrices: the bits are those of the place in the whole result."""
    model = Experts()
    model.weight.data.copy_(B[:1].expand(4, -1, -1))
    sums = precc.Accumulator(format="e5m2", rounding="stochastic")
    net = precc.compile(model, policy=precc.Uniform("fp32", accumulator=sums), backend="reference")
    result = net(A[:1].expand(12, -1), ENDS)
    assert not torch.equal(result[0], result[1])
    assert not torch.equal(result[0], result[3])


def test_hadamard_over_the_rows_of_several_experts_is_refused() -> None:
    net = precc.compile(Experts(), backend="reference")
    gradients(net, A)
    with pytest.raises(PlanError, match="'product/wgrad.*mix rows of different groups"):
        net.set_plan(precc.Uniform("e4m3", transform="hadamard").assign())
    mixed = precc.Rule(role="[fd]*", format="e4m3", transform="hadamard")
    net.set_plan(precc.PrecisionPlan("fp32", rules=(mixed,)))
    assert torch.isfinite(gradients(net, A)[0]).all()


def test_torchs_own_grouped_product() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 16, 8).bfloat16())

        def forward(self, x: Tensor, ends: Tensor) -> Tensor:
            return F.grouped_mm(x, self.weight, offs=ends)

    model, ends = Own(), torch.tensor([3, 8], dtype=torch.int32)
    net, x = precc.compile(model, backend="reference"), torch.randn(8, 16).bfloat16()
    assert torch.allclose(net(x, ends), model(x, ends), rtol=1e-2, atol=1e-2)
    net(x, ends).sum().backward()
    assert set(net.plan.slots) == {f"product/{own}" for own in _SLOTS}


_SLOTS = ("fprop.input", "fprop.weight", "wgrad.input", "wgrad.grad_output")
