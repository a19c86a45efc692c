"""A decoder-only transformer after GPT-2 (Radford et al. 2019), by default for characters, in a small size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precc.models.plays import plays
from precc.task import Task

__all__ = ["GPT", "Block", "SelfAttention", "example_inputs", "task"]


class SelfAttention(nn.Module):
    """Causal attention with several heads; [batch, length, width] to the same."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        projected: Tensor = self.projection(mixed.transpose(1, 2).reshape(batch, length, width))
        return projected


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        hidden = F.gelu(self.expand(self.norm2(x)), approximate="tanh")
        result: Tensor = x + self.drop(self.contract(hidden))
        return result


class GPT(nn.Module):
    """Tokens int64 [batch, length] to logits [batch, length, vocabulary] of each next token.

    With the default sizes 826,112 parameters, 802,816 multiply-adds a token in the products with weights. The head's
    weight is the embedding's.

    Args:
        vocabulary: number of different tokens; the default is ASCII.
        context: the longest sequence.
        width: of the residual stream; a multiple of `heads`.
        layers: number of blocks.
        heads: of the attention.
        dropout: in training, of the embeddings, the attention's weights and what each block adds.

    Raises:
        ValueError: `width` is no multiple of `heads`; in the forward, a sequence longer than `context`.
    """

    def __init__(
        self,
        vocabulary: int = 128,
        *,
        context: int = 128,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of heads {heads}")
        self.context = context
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.apply(_initialise)
        for name, parameter in self.named_parameters():
            if name.endswith(("projection.weight", "contract.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5)  # 2 * layers of these add up
        self.head.weight = self.token_embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"a sequence of {length} tokens is longer than the context, {self.context}")
        positions = torch.arange(length, device=tokens.device)
        x = self.drop(self.token_embedding(tokens) + self.position_embedding(positions))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def example_inputs(batch: int = 4) -> tuple[Tensor]:
    """One batch of random tokens, the same each time."""
    return (torch.randint(128, (batch, 128), generator=torch.Generator().manual_seed(0)),)


def task() -> Task:
    """A new one of the default sizes, and its training on Shakespeare's plays."""
    return plays(GPT, 128)
