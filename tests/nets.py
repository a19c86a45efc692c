"""Small models that the tests share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.models.lenet5 import LeNet5


class Convolutional(nn.Module):
    """Convolution, batch norm, dropout, max-pooling, a transposed and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4 * 12 * 12, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.conv(x)))
        hidden = self.up(F.max_pool2d(self.grouped(F.pad(hidden, (1, 1, 1, 1))), 2)[..., :6, :6])
        logits: Tensor = self.head(self.drop(hidden.flatten(1)))
        return logits


class Attention(nn.Module):
    """One head: products of two activations, one of an activation with itself, and a parameter at the root."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.mix = nn.Parameter(torch.randn(width, width) / 4)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2)
        hidden = scores.softmax(-1) @ x
        gram = x @ x.transpose(-1, -2)
        return (gram @ hidden) @ self.mix


class Stack(nn.Module):
    """A list of blocks, one module used twice, and a product that a dictionary names."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.shared = nn.Linear(16, 16)
        self.heads = nn.ModuleDict({"main": nn.Linear(16, 10)})

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + self.shared(block(x))
        logits: Tensor = self.heads["main"](x.mean(1))
        return logits


class Broken(nn.Module):
    """A graph break between two products of one module."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        torch._dynamo.graph_break()
        result: Tensor = self.fc(x)
        return result


def inputs_of(model: nn.Module, batch: int = 4) -> Tensor:
    """Example inputs of one of these models."""
    generator = torch.Generator().manual_seed(1)
    shapes = {LeNet5: (1, 28, 28), Convolutional: (3, 12, 12), Attention: (6, 16), Stack: (6, 16)}
    return torch.randn(batch, *shapes[type(model)], generator=generator)


MODELS: list[type[nn.Module]] = [LeNet5, Convolutional, Attention, Stack]


def loss_of(net: nn.Module, x: Tensor) -> Tensor:
    """A scalar that every output element moves."""
    return (net(x) * torch.linspace(-1, 1, 10 if not isinstance(net, Attention) else 16)).square().mean()


def loss_and_gradients(net: nn.Module, x: Tensor, seed: int = 0) -> list[Tensor]:
    """Loss and gradient of each parameter, for one dropout mask."""
    torch.manual_seed(seed)
    net.zero_grad()
    loss = loss_of(net, x)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    """Bit for bit, NaN equal to NaN."""
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a.nan_to_num(nan=1.5), b.nan_to_num(nan=1.5)) for a, b in pairs)


def uniform(fmt: str) -> precc.PrecisionPlan:
    """The plan of `Uniform`."""
    return precc.Uniform(fmt).assign()
