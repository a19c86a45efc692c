"""Small nets of the kinds that people train beside transformers: convolutional, recurrent, a U-Net, a recommender."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Between(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.function, self.a, self.b = function, nn.Linear(16, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(self.function(self.a(x)))
        return logits


class SqueezeExcite(nn.Module):
    """Channels weighted by a gate that sees the mean of each."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class InvertedResidual(nn.Module):
    """EfficientNet's block: widen, depthwise convolution, squeeze-excite, narrow, each with batch norm; a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.conv_pw = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv_dw = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.se = SqueezeExcite(wide, channels // 4)
        self.conv_pwl = nn.Conv2d(wide, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.bn1(self.conv_pw(x)))
        hidden = self.se(F.silu(self.bn2(self.conv_dw(hidden))))
        return x + self.bn3(self.conv_pwl(hidden))


class ScaledResidual(nn.Module):
    """ConvNeXt's block: depthwise convolution, layer norm and a perceptron over channels, layer scale; a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc1 = nn.Linear(channels, 2 * channels)
        self.fc2 = nn.Linear(2 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        hidden = self.gamma * self.fc2(F.gelu(self.fc1(hidden)))
        return x + hidden.permute(0, 3, 1, 2)


class ConvNet(nn.Module):
    """Images [batch, 3, 16, 16] to logits [batch, 10], in the manner of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stage1 = nn.Sequential(InvertedResidual(16), InvertedResidual(16))
        self.downsample = nn.Conv2d(16, 32, 2, stride=2)
        self.stage2 = nn.Sequential(ScaledResidual(32), ScaledResidual(32))
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stage1(F.silu(self.bn(self.stem(images))))
        hidden = self.stage2(self.downsample(hidden))
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


class RecurrentClassifier(nn.Module):
    """Tokens [batch, length] to logits [batch, 4], by the last hidden states of an `nn.LSTM` or `nn.GRU`."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], *, layers: int = 1, bidirectional: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 16)
        self.rnn = kind(16, 24, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(48 if bidirectional else 24, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        _, state = self.rnn(self.embedding(tokens))
        hidden = state[0] if isinstance(state, tuple) else state
        last = torch.cat([hidden[-2], hidden[-1]], 1) if self.rnn.bidirectional else hidden[-1]
        logits: Tensor = self.head(last)
        return logits


def _two_convolutions(channels_in: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (channels_in, channels):
        layers += [nn.Conv2d(width, channels, 3, padding=1), nn.GroupNorm(4, channels), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images [batch, 3, 16, 16] to logits [batch, 3, 16, 16] of each pixel's class."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = _two_convolutions(3, 8), _two_convolutions(8, 16)
        self.bottom = _two_convolutions(16, 32)
        self.up2, self.merge2 = nn.ConvTranspose2d(32, 16, 2, stride=2), _two_convolutions(32, 16)
        self.up1, self.merge1 = nn.ConvTranspose2d(16, 8, 2, stride=2), _two_convolutions(16, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.down1(images)
        coarse = self.down2(F.max_pool2d(fine, 2))
        hidden = self.bottom(F.max_pool2d(coarse, 2))
        hidden = self.merge2(torch.cat([coarse, self.up2(hidden)], 1))
        hidden = self.merge1(torch.cat([fine, self.up1(hidden)], 1))
        logits: Tensor = self.head(hidden)
        return logits


class Recommender(nn.Module):
    """After DLRM: bags of categories and dense features [batch, 8], products of all pairs, one logit [batch].

    Table t of three looks up ``categories[t]``; bag i of it begins at ``offsets[t, i]`` and may be empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(50, 16, mode=mode) for mode in ("sum", "mean", "sum"))
        self.bottom = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(16 + 6, 32), nn.ReLU(), nn.Linear(32, 1))
        rows, columns = torch.tril_indices(4, 4, offset=-1)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    def forward(self, dense: Tensor, categories: Tensor, offsets: Tensor) -> Tensor:
        features = self.bottom(dense)
        bags = [table(*where) for table, *where in zip(self.tables, categories, offsets, strict=True)]
        vectors = torch.stack([features, *bags], 1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        pairs = products[:, self.rows, self.columns]
        logit: Tensor = self.top(torch.cat([features, pairs], 1))
        return logit.squeeze(1)
