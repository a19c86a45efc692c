"""``precc demo``: LeNet-5 on MNIST under a trust region with dynamic precision, and in fp32 beside it."""

from collections.abc import Callable
from pathlib import Path

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

__all__ = ["accuracy", "run_demo", "train"]

BATCH = 100
MOMENTUM = 0.5
LEARNING_RATE = 0.1  # of the fp32 run beside; the best of five in benchmarks/trust_region_lenet5.py

StepFunction = Callable[[Tensor, Tensor], object]


def run_demo(*, data: str | None, out: str, epochs: int, seed: int, backend: str) -> None:
    """Train both, print the report and the comparison, and write plan.json, report.txt and lenet5.onnx.

    Raises:
        DataError: the data cannot be read.
    """
    console = Console(highlight=False)
    mnist = load_mnist(data)
    count = len(mnist.train_labels)
    console.print(f"MNIST: {count:,} + {len(mnist.test_labels):,} images from {mnist.source}", soft_wrap=True)

    torch.manual_seed(seed)
    net = compile_net(LeNet5(), backend=backend)
    optimizer = TrustRegion(net, momentum=MOMENTUM)
    train(
        mnist,
        epochs,
        seed,
        lambda x, y: optimizer.step(lambda: F.cross_entropy(net(x), y)),
        lambda: f"{optimizer.plan.default}, radius {optimizer.radius:.3g}",
        console,
    )
    work = dict(net.precision_state()["multiply_adds"])
    dynamic_accuracy = accuracy(net, mnist)

    torch.manual_seed(seed)
    plain = LeNet5()
    sgd = torch.optim.SGD(plain.parameters(), lr=LEARNING_RATE)
    train(mnist, epochs, seed, _sgd_step(plain, sgd), lambda: f"float32, SGD lr {LEARNING_RATE}", console)
    plain_accuracy = accuracy(plain, mnist)

    lines = [
        str(net.report()),
        "",
        f"test accuracy: {dynamic_accuracy:.2%} TrustRegion, {plain_accuracy:.2%} fp32 SGD (lr {LEARNING_RATE})",
        "multiply-adds of the training: "
        + ", ".join(f"{name} {share / sum(work.values()):.1%}" for name, share in sorted(work.items())),
        f"compilations: {net.compilations}",
    ]
    folder = Path(out)
    net.plan.save(folder / "plan.json")
    write_whole(folder / "report.txt", ("\n".join(lines) + "\n").encode())
    export_onnx(net, example_inputs(), folder / "lenet5.onnx")
    lines.append("wrote " + ", ".join(str(folder / name) for name in ("plan.json", "report.txt", "lenet5.onnx")))
    console.print("\n".join(lines), soft_wrap=True)


def train(
    mnist: Mnist, epochs: int, seed: int, step: StepFunction, status: Callable[[], str], console: Console
) -> None:
    """Call `step` on each batch of each epoch, shuffled by the seed, under a progress bar."""
    generator = torch.Generator().manual_seed(seed)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        batches = -(-len(mnist.train_labels) // BATCH)
        task = progress.add_task("compiling", total=epochs * batches)
        for _ in range(epochs):
            order = torch.randperm(len(mnist.train_labels), generator=generator)
            for chosen in order.split(BATCH):
                step(mnist.train_images[chosen], mnist.train_labels[chosen])
                progress.update(task, advance=1, description=status())


def _sgd_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> StepFunction:
    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def accuracy(model: nn.Module, mnist: Mnist) -> float:
    """Share of the test images that the model gets right, in the arithmetic that it has."""
    with torch.no_grad():
        predicted = model(mnist.test_images).argmax(dim=1)
    return float((predicted == mnist.test_labels).float().mean())
