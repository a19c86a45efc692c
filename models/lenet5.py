"""LeNet-5 for 28 x 28 images (LeCun, Bottou, Bengio, Haffner 1998), with max-pooling."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precc.models.digits import digits
from precc.task import Task

__all__ = ["LeNet5", "example_inputs", "task"]


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "tanh": torch.tanh}


class LeNet5(nn.Module):
    """Images [batch, 1, 28, 28] to logits [batch, 10]; 61,706 parameters, 416,520 multiply-adds an image.

    Args:
        activation: behind all products but the last.
    """

    def __init__(self, activation: Literal["relu", "tanh"] = "relu") -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[activation]
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.max_pool2d(self.activation(self.conv1(images)), 2)
        hidden = F.max_pool2d(self.activation(self.conv2(hidden)), 2)
        hidden = self.activation(self.fc1(hidden.flatten(1)))
        hidden = self.activation(self.fc2(hidden))
        logits: Tensor = self.fc3(hidden)
        return logits


def example_inputs(batch: int = 4) -> tuple[Tensor]:
    """One batch of noise, the same each time."""
    return (torch.randn(batch, 1, 28, 28, generator=torch.Generator().manual_seed(0)),)


def task() -> Task:
    """A new one, and its training on MNIST."""
    return digits(LeNet5())
