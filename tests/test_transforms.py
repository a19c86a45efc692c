"""The random Hadamard transform and shift-and-squeeze."""

import pytest
import torch
from torch import nn

import precc
from precc import ShiftSqueeze, random_hadamard, round_to
from precc.backends import BACKENDS
from precc.errors import FormatError, PlanError
from precc.plan import PrecisionPlan
from precc.rounding import slot_number


def matrix(seed: int) -> torch.Tensor:
    """The transform of 16 values as a matrix."""
    return random_hadamard(torch.eye(16, dtype=torch.float64), seed=seed, axis=1)


def test_the_transform_is_orthogonal_with_entries_of_a_quarter() -> None:
    own = matrix(3)
    assert torch.equal(own @ own.T, torch.eye(16, dtype=torch.float64))
    assert set(own.abs().flatten().tolist()) == {0.25}
    assert not torch.equal(own, matrix(4))


@pytest.mark.parametrize("length", [16, 64, 70, 5])
def test_it_cancels_in_a_product(length: int) -> None:
    a, b = torch.randn(7, length, dtype=torch.float64), torch.randn(length, 9, dtype=torch.float64)
    ours = random_hadamard(a, seed=1, axis=1) @ random_hadamard(b, seed=1, axis=0)
    torch.testing.assert_close(ours, a @ b, rtol=1e-13, atol=1e-13)


def test_it_spreads_outliers() -> None:
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    x[:, ::37] *= 100
    mixed = random_hadamard(x, seed=1)
    assert mixed.norm().item() == pytest.approx(x.norm().item(), rel=1e-5)
    assert mixed.abs().max() < 0.5 * x.abs().max()


def test_hadamard_keeps_dtype_shape_and_refuses_what_it_cannot_do() -> None:
    x = torch.randn(3, 32, 2).bfloat16()
    assert random_hadamard(x, seed=0, axis=1).shape == x.shape
    assert random_hadamard(x, seed=0, axis=1).dtype == torch.bfloat16
    assert random_hadamard(torch.zeros(0, 16), seed=0).shape == (0, 16)
    for wrong in (torch.zeros(16, dtype=torch.int32), torch.tensor(1.0)):
        with pytest.raises(FormatError, match="Hadamard"):
            random_hadamard(wrong, seed=0)
    with pytest.raises(FormatError, match="axis 2"):
        random_hadamard(torch.zeros(4, 16), seed=0, axis=2)


def test_shift_and_squeeze_fits_e5m2_and_comes_back() -> None:
    x = torch.exp(torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 3 - 30) * torch.randn(10_000)
    x[::50] = 0.0
    transform = ShiftSqueeze.of(x)
    squeezed = transform.squeeze(x)
    logs = squeezed[squeezed != 0].abs().double().log2()
    assert abs(float(logs.mean())) < 1e-5
    assert abs(float(logs.max()) - 15) < 1e-5
    torch.testing.assert_close(transform.restore(squeezed.double()).float(), x, rtol=1e-5, atol=0)
    rounded = transform.restore(round_to(squeezed, "e5m2"))
    direct = round_to(x, "e5m2")
    assert (rounded - x).norm() < 0.3 * (direct - x).norm()


def test_shift_and_squeeze_of_special_tensors() -> None:
    assert ShiftSqueeze.of(torch.zeros(3)) == ShiftSqueeze(1.0, 0.0)
    constant = torch.tensor([-4.0, 4.0])
    assert ShiftSqueeze.of(constant).squeeze(constant).tolist() == [-1.0, 1.0]
    with pytest.raises(FormatError, match="finite"):
        ShiftSqueeze.of(torch.tensor([1.0, float("inf")]))


# --- as an option of slots ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hadamard_transform_of_both_operands_leaves_the_product(backend: str) -> None:
    """Without rounding the product is that of the model, up to the transform's own rounding; with it, by hand."""
    layer, x = nn.Linear(48, 24, bias=False), torch.randn(32, 48)
    x[:, 5] *= 100
    net = precc.compile(layer, policy=precc.Uniform("float32", transform="hadamard"), backend=backend)
    assert torch.allclose(net(x), layer(x), rtol=1e-4, atol=1e-4)
    net.set_plan(precc.Uniform("e2m1", scaling="tensor", transform="hadamard").assign())
    ours = net(x)
    signs = slot_number("product/fprop.accumulator") & 0xFFFFFFFF
    a = round_to(random_hadamard(x, seed=signs), "e2m1", scaling="tensor")
    b = round_to(random_hadamard(layer.weight.detach(), seed=signs), "e2m1", scaling="tensor")
    assert torch.equal(ours, a @ b.T)
    ours.sum().backward()
    assert net.compilations == 1


def test_a_hadamard_transform_of_a_convolution_leaves_its_gradients() -> None:
    model = nn.Conv2d(32, 20, 3, padding=1)
    x = torch.randn(18, 32, 6, 6)

    def gradients(net: nn.Module) -> list[torch.Tensor]:
        own = x.clone().requires_grad_()
        net.zero_grad()
        net(own).square().sum().backward()
        assert own.grad is not None
        return [own.grad, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    net = precc.compile(model, policy=precc.Uniform("float32", transform="hadamard"), backend="cpp")
    for ours, expected in zip(gradients(net), gradients(model), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_transforms_that_would_change_the_product_are_refused() -> None:
    net = precc.compile(nn.Linear(16, 16), backend="reference")
    net(torch.randn(4, 16)).sum().backward()
    one = precc.Precision("e4m3", transform="hadamard")
    with pytest.raises(PlanError, match=r"'product/fprop.weight' has a Hadamard transform and 'product/fprop.input'"):
        net.set_plan(PrecisionPlan("e4m3", {"product/fprop.weight": one}))
    grouped = precc.compile(nn.Conv2d(32, 32, 3, groups=2), policy=precc.Uniform("e4m3", transform="hadamard"))
    with pytest.raises(PlanError, match="the 2 groups of a convolution"):
        grouped(torch.randn(1, 32, 5, 5))
    with pytest.raises(FormatError, match="unknown transform 'fourier'"):
        precc.Precision("e4m3", transform="fourier")


@pytest.mark.parametrize("backend", BACKENDS)
def test_shift_and_squeeze_in_a_slot(backend: str) -> None:
    layer, x = nn.Linear(48, 24, bias=False), torch.exp(torch.randn(32, 48) * 3 - 30)
    squeezed = precc.Precision("e5m2", transform="shift_and_squeeze")
    plan = PrecisionPlan("float32", {"product/fprop.input": squeezed})
    net = precc.compile(layer, plan=plan, backend=backend)
    bend = ShiftSqueeze.of(x)
    assert torch.equal(net(x), bend.restore(round_to(bend.squeeze(x), "e5m2")) @ layer.weight.T)
    x[3, 4] = float("inf")
    assert net(x).isnan().all()
    assert PrecisionPlan.from_json(plan.to_json()) == plan
    assert str(squeezed) == "float8_e5m2 after shift_and_squeeze"


def test_sums_of_the_transform_do_not_overflow_where_results_do_not() -> None:
    signs = random_hadamard(torch.eye(16), seed=5)[:, 3].sign()
    mixed = random_hadamard(signs * 5e37, seed=5)
    assert mixed.isfinite().all()
    assert mixed[3].item() == pytest.approx(2e38)
    layer = nn.Linear(16, 1, bias=False).half()
    plan = precc.Uniform("e4m3", scaling=precc.Scaling("tensor", scale_format="fp32"), transform="hadamard")
    net = precc.compile(layer, policy=plan, backend="cpp")
    assert net((signs * 10000).half().repeat(3, 1)).isfinite().all()


def test_transforms_refuse_what_they_cannot_take() -> None:
    x = torch.ones(2, 16)
    for seed in (1.5, None, True, -1, 2**64):
        with pytest.raises(FormatError, match="a seed is"):
            random_hadamard(x, seed=seed)  # type: ignore[arg-type]
    for axis in (1.0, None, True):
        with pytest.raises(FormatError, match="along axis"):
            random_hadamard(x, seed=1, axis=axis)  # type: ignore[arg-type]
    for wrong in ([1.0], None, x.to_sparse()):
        with pytest.raises(FormatError, match="a Hadamard transform takes"):
            random_hadamard(wrong, seed=1)  # type: ignore[arg-type]
        with pytest.raises(FormatError, match="shift-and-squeeze takes"):
            ShiftSqueeze.of(wrong)  # type: ignore[arg-type]
