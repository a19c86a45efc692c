"""``precc demo``: LeNet-5 on MNIST under a trust region with dynamic precision, and in fp32 beside it."""

import argparse
from pathlib import Path
from typing import Any

from torch.nn import functional as F

from precc.api import export_onnx
from precc.commands.arguments import add_folder, count, seed
from precc.commands.command import Command
from precc.commands.output import progress, say
from precc.commands.places import writable_folder
from precc.commands.report_files import save_reports
from precc.demo import BATCH, EPOCHS, LEARNING_RATE, accuracy, train_sgd, train_trust_region
from precc.files import write_whole
from precc.models.lenet5 import example_inputs
from precc.models.mnist import Mnist, load_mnist
from precc.module import PrecisionModule

__all__ = ["DEMO"]


def _add(parser: argparse.ArgumentParser) -> None:
    add_folder(parser, "--data", help="folder with mnist.npz or the four IDX files (default: $PRECC_DATA, or a subset)")
    add_folder(parser, "--out", default="out", help="folder for plan, reports and lenet5.onnx (default: out)")
    parser.add_argument("--epochs", type=count, default=EPOCHS, help=f"default: {EPOCHS}")
    parser.add_argument("--seed", type=seed, default=0, help="default: 0")
    parser.add_argument("--backend", default="auto", help="auto, inductor, cpp or reference (default: auto)")


def _run(chosen: argparse.Namespace) -> int:
    mnist = load_mnist(chosen.data)
    folder = writable_folder(chosen.out)
    sizes = f"{len(mnist.train_labels):,} + {len(mnist.test_labels):,}"
    if not chosen.json:
        print(f"MNIST: {sizes} images from {mnist.source}", flush=True)
    net, plain = _trained(chosen, mnist)
    _finish(chosen, folder, net, {"TrustRegion": accuracy(net, mnist), "SGD": plain}, mnist)
    return 0


def _trained(chosen: argparse.Namespace, mnist: Mnist) -> tuple[PrecisionModule, float]:
    """The net, and the accuracy of the one beside."""
    batches = -(-len(mnist.train_labels) // BATCH)
    with progress(chosen, 2 * chosen.epochs * batches) as bar:
        bar.at("compiling")
        own = {"epochs": chosen.epochs, "seed": chosen.seed, "told": bar.advance}
        net = train_trust_region(mnist, backend=chosen.backend, **own)
        return net, accuracy(train_sgd(mnist, **own), mnist)


def _finish(
    chosen: argparse.Namespace, folder: Path, net: PrecisionModule, accuracies: dict[str, float], mnist: Mnist
) -> None:
    work = net.precision_state()["multiply_adds"]
    shares = ", ".join(f"{name} {part / sum(work.values()):.1%}" for name, part in sorted(work.items()))
    dynamic, plain = accuracies.values()
    lines = [
        "",
        f"test accuracy: {dynamic:.2%} with TrustRegion, {plain:.2%} in fp32 with SGD (lr {LEARNING_RATE})",
        f"multiply-adds of the training, evaluations included: {shares}",
        f"compilations: {net.compilations}",
    ]
    net.plan.save(folder / "plan.json")
    export_onnx(net, example_inputs(), folder / "lenet5.onnx")
    report = _report(net, mnist)
    lines = [str(report), *lines]
    write_whole(folder / "report.txt", ("\n".join(lines) + "\n").encode())
    wrote = ["plan.json", "report.txt", *save_reports(report, folder), "lenet5.onnx", "lenet5.onnx.precc.json"]
    lines.append("wrote " + ", ".join(str(folder / name) for name in wrote))
    document = {"accuracy": accuracies, "multiply_adds": work, "compilations": net.compilations}
    say(chosen, {**document, "wrote": [str(folder / name) for name in wrote]}, "\n".join(lines))


def _report(net: PrecisionModule, mnist: Mnist) -> Any:
    images, labels = mnist.train_images[:BATCH], mnist.train_labels[:BATCH]
    return net.report(net.analyze(images, loss=lambda output: F.cross_entropy(output, labels)))


DEMO = Command(
    "demo",
    "train LeNet-5 on MNIST in dynamic precision, beside fp32",
    "example: precc demo --data ~/mnist --epochs 3",
    _add,
    _run,
)
