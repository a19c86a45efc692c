"""A block in the manner of Llama, small."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LlamaBlock(nn.Module):
    """[batch, length, width] to the same: RMS norms, causal attention, a gated perceptron, shortcuts; no biases."""

    def __init__(self, width: int = 32, heads: int = 2, hidden: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        query, key, value = (self._heads(own(normed)) for own in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        normed = self.norm2(x)
        result: Tensor = x + self.down(F.silu(self.gate(normed)) * self.up(normed))
        return result

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


def example(batch: int = 2, length: int = 8, width: int = 32) -> Tensor:
    """One batch of noise, the same each time."""
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(0))
