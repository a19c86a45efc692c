"""A multilayer perceptron for 28 x 28 images: two hidden layers with ReLU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precc.models.digits import digits
from precc.task import Task

__all__ = ["MLP", "example_inputs", "task"]


class MLP(nn.Module):
    """Images [batch, 1, 28, 28] to logits [batch, 10]; 109,386 parameters, 109,184 multiply-adds an image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 128)
        self.fc2 = nn.Linear(128, 64)
        self.fc3 = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.fc1(images.flatten(1)))
        hidden = F.relu(self.fc2(hidden))
        logits: Tensor = self.fc3(hidden)
        return logits


def example_inputs(batch: int = 4) -> tuple[Tensor]:
    """One batch of noise, the same each time."""
    return (torch.randn(batch, 1, 28, 28, generator=torch.Generator().manual_seed(0)),)


def task() -> Task:
    """A new one, and its training on MNIST."""
    return digits(MLP())
