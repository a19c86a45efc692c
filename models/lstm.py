"""A language model of characters: an embedding, two LSTM layers (Hochreiter, Schmidhuber 1997), a linear head."""

import torch
from torch import Tensor, nn

from precc.models.plays import plays
from precc.task import Task

__all__ = ["LSTMLanguageModel", "example_inputs", "task"]


class LSTMLanguageModel(nn.Module):
    """Tokens int64 [batch, length] to logits [batch, length, vocabulary] of each next token.

    With the default sizes 297,088 parameters, 278,528 multiply-adds a token. Each sequence starts from a state
    of zeros.

    Args:
        vocabulary: number of different tokens; the default is ASCII.
        width: of the embedding and of each layer.
        layers: number of LSTM layers.
        dropout: in training, between the layers and before the head.
    """

    def __init__(self, vocabulary: int = 128, *, width: int = 128, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embedding(tokens))
        logits: Tensor = self.head(self.drop(hidden))
        return logits


def example_inputs(batch: int = 4) -> tuple[Tensor]:
    """One batch of random tokens, the same each time."""
    return (torch.randint(128, (batch, 64), generator=torch.Generator().manual_seed(0)),)


def task() -> Task:
    """A new one of the default sizes, and its training on Shakespeare's plays."""
    return plays(LSTMLanguageModel, 64)
