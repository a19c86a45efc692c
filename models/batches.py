"""Batches of data in memory, for the tasks of models."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.models.shakespeare import Shakespeare, draw_windows

__all__ = ["ShuffledBatches", "WindowBatches"]


@dataclass(frozen=True, slots=True, eq=False)
class ShuffledBatches:
    """All examples once, in an order from torch's default generator.

    Args:
        inputs: [examples, ...].
        targets: [examples, ...].
        size: of a batch; the last one may be smaller.
    """

    inputs: Tensor
    targets: Tensor
    size: int

    def __len__(self) -> int:
        return -(-len(self.targets) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(len(self.targets)).split(self.size):
            yield self.inputs[chosen], self.targets[chosen]


@dataclass(frozen=True, slots=True, eq=False)
class WindowBatches:
    """Pieces of a text, as many as it has: tokens [size, length], and for each the one that follows it.

    Args:
        text: of which the part for training is read.
        length: of a piece.
        size: of a batch.
    """

    text: Shakespeare
    length: int
    size: int

    def __len__(self) -> int:
        return len(self.text.train_tokens) // (self.length * self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        for _ in range(len(self)):
            windows = draw_windows(self.text.train_tokens, self.length + 1, self.size, generator)
            yield windows[:, :-1], windows[:, 1:]
