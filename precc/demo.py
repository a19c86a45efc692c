"""``precc demo``: LeNet-5 on MNIST under a trust region with dynamic precision, and in fp32 beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F

from precc.api import compile as compile_net
from precc.api import export_onnx
from precc.control.trust_region import TrustRegion
from precc.files import write_whole
from precc.models.lenet5 import LeNet5, example_inputs
from precc.models.mnist import Mnist, load_mnist
from precc.module import PrecisionModule

__all__ = ["accuracy", "run_demo", "train_sgd", "train_trust_region"]

BATCH = 100
EPOCHS = 10
MOMENTUM = 0.5
LEARNING_RATE = 0.1  # of the fp32 run beside: the best of five in benchmarks/trust_region_lenet5.py

StepFunction = Callable[[Tensor, Tensor], object]


def run_demo(*, data: str | None, out: str, epochs: int, seed: int, backend: str) -> None:
    """Train both, print the report and the comparison, and write plan.json, report.txt, lenet5.onnx and what
    lenet5.onnx says of itself.

    Raises:
        DataError: the data cannot be read.
        OSError: the folder `out` cannot be written.
    """
    console = Console(highlight=False)
    mnist = load_mnist(data)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = f"{len(mnist.train_labels):,} + {len(mnist.test_labels):,}"
    console.print(f"MNIST: {sizes} images from {mnist.source}", soft_wrap=True)

    net = train_trust_region(mnist, epochs=epochs, seed=seed, backend=backend, console=console)
    work = net.precision_state()["multiply_adds"]
    dynamic = accuracy(net, mnist)
    plain = accuracy(train_sgd(mnist, epochs=epochs, seed=seed, console=console), mnist)

    shares = ", ".join(f"{name} {part / sum(work.values()):.1%}" for name, part in sorted(work.items()))
    lines = [
        str(net.report()),
        "",
        f"test accuracy: {dynamic:.2%} with TrustRegion, {plain:.2%} in fp32 with SGD (lr {LEARNING_RATE})",
        f"multiply-adds of the training, evaluations included: {shares}",
        f"compilations: {net.compilations}",
    ]
    net.plan.save(folder / "plan.json")
    write_whole(folder / "report.txt", ("\n".join(lines) + "\n").encode())
    export_onnx(net, example_inputs(), folder / "lenet5.onnx")
    written = ("plan.json", "report.txt", "lenet5.onnx", "lenet5.onnx.precc.json")
    lines.append("wrote " + ", ".join(str(folder / name) for name in written))
    console.print("\n".join(lines), soft_wrap=True, markup=False)


def train_trust_region(
    mnist: Mnist, *, epochs: int, seed: int, backend: str = "auto", console: Console | None = None, **options: Any
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
        console,
    )
    return net


def train_sgd(
    mnist: Mnist,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = LEARNING_RATE,
    momentum: float = 0.0,
    console: Console | None = None,
) -> nn.Module:
    """LeNet-5 trained in fp32 by SGD, from the same start and on the same batches."""
    torch.manual_seed(seed)
    model = LeNet5()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    _train(mnist, epochs, seed, step, lambda: f"float32, SGD lr {learning_rate}", console)
    return model


def _train(
    mnist: Mnist, epochs: int, seed: int, step: StepFunction, status: Callable[[], str], console: Console | None
) -> None:
    """Call `step` on each batch of each epoch, shuffled by the seed, under a progress bar if there is a console."""
    generator = torch.Generator().manual_seed(seed)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, disable=console is None) as progress:
        batches = -(-len(mnist.train_labels) // BATCH)
        task = progress.add_task("compiling", total=epochs * batches)
        for _ in range(epochs):
            order = torch.randperm(len(mnist.train_labels), generator=generator)
            for chosen in order.split(BATCH):
                step(mnist.train_images[chosen], mnist.train_labels[chosen])
                progress.update(task, advance=1, description=status())


def accuracy(model: nn.Module, mnist: Mnist) -> float:
    """Share of the test images that the model gets right, in the arithmetic that it has."""
    with torch.no_grad():
        predicted = model(mnist.test_images).argmax(dim=1)
    return float((predicted == mnist.test_labels).float().mean())
