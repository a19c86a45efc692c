"""A net with every fault that the lint knows, one a line."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 512


class FaultyHead(nn.Module):
    """Losses by formulas."""

    def forward(self, x: Tensor) -> Tensor:
        probabilities = x.exp() / x.exp().sum(-1, keepdim=True)
        scores = [
            x.exp().sum(-1).log(),
            torch.log(1 + x.exp()),
            torch.softmax(x, -1).log(),
            torch.log(torch.sigmoid(x) + 1e-6),
            torch.log(1 + x.square()),
            torch.exp(x) - 1,
            x.square().mean(-1) - x.mean(-1) ** 2,
            x / x.norm(dim=-1, keepdim=True),
        ]
        return torch.stack([own.mean() for own in scores]).sum() + probabilities.std()


class FaultyNet(nn.Module):
    """In float32, and at its end in float16."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.head = FaultyHead()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc(x)
        narrow = hidden.half()
        normal = F.layer_norm(narrow, (WIDTH,), eps=1e-8)
        scaled = normal / (narrow.abs() + 1e-9)
        total = F.normalize(scaled).sum(dtype=torch.float32) + hidden.bfloat16().sum(-1).float().sum()
        loss: Tensor = self.head(hidden) + total
        return loss
