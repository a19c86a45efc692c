"""Nets by interpreted kernels where inputs and models are unusual: what the reference gives."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import precc
from precc.backends.triton import group_op


def model_of(inputs: int = 16, outputs: int = 8, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 16), nn.GELU(), nn.Linear(16, outputs)).to(dtype)


def frozen() -> nn.Module:
    model = model_of()
    model[0].weight.requires_grad_(False)
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    model[2].weight = model[0].weight
    return model


def not_finite() -> Tensor:
    x = torch.randn(4, 16)
    x[0, 0], x[1, 1] = float("nan"), float("inf")
    return x


CASES = {
    "odd sizes": lambda: (model_of(5, 3), torch.randn(3, 5)),
    "no rows": lambda: (model_of(), torch.randn(0, 16)),
    "bfloat16": lambda: (model_of(dtype=torch.bfloat16), torch.randn(4, 16).bfloat16()),
    "float64": lambda: (model_of(dtype=torch.float64), torch.randn(4, 16).double()),
    "transposed": lambda: (model_of(), torch.randn(16, 4).t()),
    "not finite": lambda: (model_of(), not_finite()),
    "frozen": lambda: (frozen(), torch.randn(4, 16)),
    "tied": lambda: (tied(), torch.randn(4, 16)),
}
USUAL = {"odd sizes", "no rows"}


def step(model: nn.Module, x: Tensor, backend: str) -> list[Tensor]:
    """The output and the gradients."""
    model.zero_grad()
    y = precc.compile(model, policy="float8_e4m3fn", backend=backend)(x)
    y.float().square().sum().backward()
    return [y.detach(), *(own.grad.clone() for own in model.parameters() if own.grad is not None)]


@pytest.mark.parametrize("name", [own if own in USUAL else pytest.param(own, marks=pytest.mark.slow) for own in CASES])
def test_as_the_reference(name: str) -> None:
    model, x = CASES[name]()
    for own, other in zip(step(model, x, "triton"), step(model, x, "reference"), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.slow
def test_checkpoints_compute_again() -> None:
    model, x, found = model_of(), torch.randn(4, 16), []
    for backend in ("triton", "reference"):
        model.zero_grad()
        net = precc.compile(model, policy="float8_e4m3fn", backend=backend)
        checkpoint(net, x.clone().requires_grad_(), use_reentrant=False).sum().backward()
        found.append([own.grad.clone() for own in model.parameters()])
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_threads() -> None:
    net = precc.compile(model_of(), policy="float8_e4m3fn", backend="triton")
    batches = [torch.randn(4, 16) for _ in range(4)]
    run = torch.no_grad()(lambda x: net(x))
    expected = [run(x) for x in batches]
    with ThreadPoolExecutor(3) as pool:
        assert all(own.equal(other) for own, other in zip(pool.map(run, batches), expected, strict=True))


@pytest.mark.slow
def test_groups_go_with_their_net() -> None:
    gc.collect()
    before, model = len(group_op._groups), model_of()
    for _ in range(3):
        step(model, torch.randn(4, 16), "triton")
        gc.collect()
        assert len(group_op._groups) <= before


class Attention(nn.Module):
    """Heads are dimensions of their own between those of tokens and widths."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.outputs = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.inputs(x).reshape(batch, tokens, 3, 2, 8).permute(2, 0, 3, 1, 4)
        heads = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        result: Tensor = self.outputs(heads.transpose(1, 2).reshape(batch, tokens, 16))
        return result


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 6, 16), (1, 16, 16), (2, 16, 16)])
def test_heads_of_fused_attention(shape: tuple[int, ...]) -> None:
    """Gradients are rounded in the order of the heads; with as many tokens as widths a swap would have that shape."""
    model, x, found = Attention(), torch.randn(shape), []
    for backend in ("triton", "reference"):
        model.zero_grad()
        net = precc.compile(model, policy="float8_e4m3fn", backend=backend, attention="fused")
        net(x).square().sum().backward()
        found.append([own.grad for own in model.parameters()])
        if backend == "triton":
            assert not net.kernels().remaining
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)
