"""Dropout in a net draws the masks of eager mode, and computes as it does."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc


class Dropped(nn.Module):
    """Two masks on one value, one beneath a product, and one in place."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.fc = p, nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (F.dropout(x, self.p, self.training) for _ in range(2))
        hidden = F.dropout(self.fc(first - second), self.p, self.training, inplace=True)
        result: Tensor = self.fc(hidden)
        return result


@pytest.mark.parametrize("backend", ["reference", "cpp", "inductor"])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_masks_are_those_of_eager_mode(p: float, backend: str) -> None:
    if backend == "inductor" and p != 0.1:
        pytest.skip("one compilation is enough")
    model = Dropped(p)
    net, x = precc.compile(model, backend=backend), torch.randn(8, 16)
    for training in (True, False):
        model.train(training)
        net.train(training)
        found = []
        for own in (net, model):
            torch.manual_seed(3)
            own.zero_grad()
            result = own(x)
            result.square().sum().backward()
            found.append([result.detach(), *(q.grad.clone() for q in own.parameters() if q.grad is not None)])
            found[-1].append(torch.rand(1))  # the generator has come as far
        for first, second in zip(*found, strict=True):
            assert torch.allclose(first, second, rtol=1e-6, atol=1e-6)


def test_the_share_of_what_is_kept() -> None:
    torch.manual_seed(0)
    net = precc.compile(nn.Sequential(nn.Dropout(0.3), nn.Identity()), backend="reference")
    kept = (net(torch.ones(100_000)) != 0).float().mean().item()
    assert abs(kept - 0.7) < 5 * (0.3 * 0.7 / 100_000) ** 0.5
