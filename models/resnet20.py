"""ResNet-20 for 32 x 32 images (He, Zhang, Ren, Sun 2016, section 4.2), shortcuts without parameters."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precc.models.digits import digits
from precc.task import Task

__all__ = ["BasicBlock", "ResNet20", "example_inputs", "task"]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norms, and a shortcut that subsamples and pads channels with zeros."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, (channels - channels_in) // 2
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(x)))
        hidden = self.bn2(self.conv2(hidden))
        shortcut = x
        if self.padding:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(hidden + shortcut)


class ResNet20(nn.Module):
    """Images [batch, 3, 32, 32] to logits [batch, 10]; 269,722 parameters, 40,551,040 multiply-adds an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks = nn.Sequential(*(BasicBlock(*width) for width in widths))
        self.fc = nn.Linear(64, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.blocks(F.relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def example_inputs(batch: int = 4) -> tuple[Tensor]:
    """One batch of noise, the same each time."""
    return (torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)),)


def task() -> Task:
    """A new one, and its training on MNIST, in frames of 32 x 32, for no images in colour ship with precc."""
    return digits(ResNet20(), channels=3, padding=2)
