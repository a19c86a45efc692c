"""What ``precc demo`` trains: LeNet-5 on MNIST under a trust region with dynamic precision, and in fp32 beside it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from precc.api import compile as compile_net
from precc.control.trust_region import TrustRegion
from precc.models.lenet5 import LeNet5
from precc.models.mnist import Mnist
from precc.module import PrecisionModule

__all__ = ["BATCH", "EPOCHS", "LEARNING_RATE", "accuracy", "train_sgd", "train_trust_region"]

BATCH = 100
EPOCHS = 10
MOMENTUM = 0.5
LEARNING_RATE = 0.1  # of the fp32 run beside: the best of five in benchmarks/trust_region_lenet5.py

StepFunction = Callable[[Tensor, Tensor], object]

#: Is told after each step what is in force.
Told = Callable[[str], object]


def train_trust_region(
    mnist: Mnist, *, epochs: int, seed: int, backend: str = "auto", told: Told | None = None, **options: Any
) -> PrecisionModule:
    """LeNet-5 trained by `TrustRegion`; `options` go to it, momentum 0.5 unless they say otherwise."""
    torch.manual_seed(seed)
    net = compile_net(LeNet5(), backend=backend)
    optimizer = TrustRegion(net, **{"momentum": MOMENTUM, **options})
    _train(
        mnist,
        epochs,
        seed,
        lambda x, y: optimizer.step(lambda: F.cross_entropy(net(x), y)),
        lambda: f"{optimizer.plan.default}, radius {optimizer.radius:.3g}",
        told,
    )
    return net


def train_sgd(
    mnist: Mnist,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = LEARNING_RATE,
    momentum: float = 0.0,
    told: Told | None = None,
) -> nn.Module:
    """LeNet-5 trained in fp32 by SGD, from the same start and on the same batches."""
    torch.manual_seed(seed)
    model = LeNet5()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    _train(mnist, epochs, seed, step, lambda: f"float32, SGD lr {learning_rate}", told)
    return model


def _train(
    mnist: Mnist, epochs: int, seed: int, step: StepFunction, status: Callable[[], str], told: Told | None
) -> None:
    """Call `step` on each batch of each epoch, shuffled by the seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(mnist.train_labels), generator=generator)
        for chosen in order.split(BATCH):
            step(mnist.train_images[chosen], mnist.train_labels[chosen])
            if told is not None:
                told(status())


def accuracy(model: nn.Module, mnist: Mnist) -> float:
    """Share of the test images that the model gets right, in the arithmetic that it has."""
    with torch.no_grad():
        predicted = model(mnist.test_images).argmax(dim=1)
    return float((predicted == mnist.test_labels).float().mean())
