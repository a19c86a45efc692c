"""Thresholds of condition numbers on LeNet-5: how much is in low precision, and what it costs in accuracy.

Each dot product of the forward is in low precision (operands and sums e4m3) or high precision (e5m10) by one of three
rules, layer by layer: by the threshold tau of ``kappa_phi * kappa_v`` (El Arar, Filip, Mary and Riccietti 2025, arXiv
2503.15568; `precc.TwoPasses`), at random, or low where ``|dL/dv| (|W| |h|)`` is smallest, the adjoint times the error,
which is known from fp32 and so no rule of a run. The last two have the share of the first, layer by layer.

Inference: of nets trained in fp32 for an epoch of MNIST, on test images; L is the cross-entropy with the class that the
fp32 net predicts. Training: from scratch, products of the backward in fp32, L with the labels; then accuracy of the
same arithmetic on test images. tanh and ReLU, several seeds. Writes benchmarks/results/thresholding.json as it goes,
and thresholding.svg beside it.

usage: python benchmarks/thresholding.py --data FOLDER [--seeds N] [--images N] [--steps N] [--plot]
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from environment import environment
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc import ProductArithmetic, Threshold, convolution_two_pass, matmul_two_pass
from precc.files import write_whole
from precc.models.lenet5 import LeNet5
from precc.models.mnist import Mnist, load_mnist

RESULT = Path(__file__).resolve().parent / "results" / "thresholding.json"
LOW, HIGH = ProductArithmetic("e4m3", "e4m3"), ProductArithmetic("e5m10", "e5m10")
TAUS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, math.inf)
TRAINING_TAUS = (2.0, 8.0, 64.0)
#: Products, with the multiply-adds of a component, and components an image.
LAYERS = {"conv1": (25, 4704), "conv2": (150, 1600), "fc1": (400, 120), "fc2": (120, 84), "fc3": (84, 10)}
BATCH, RATE, MOMENTUM, EPOCH = 64, 0.05, 0.9, 938

#: By which components are low: a threshold, and two controls with its shares.
RULES = ("condition", "random", "adjoint times error")

Activation = Literal["relu", "tanh"]
Shares = dict[str, float]  # of components in high precision, by layer
Forward = Callable[[Tensor, Tensor | None], Tensor]  # logits, of images and labels


class Replaced(torch.autograd.Function):
    """A value with the derivatives of another."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


@dataclass
class Masked:
    """LeNet-5 whose components are high by a share of each layer: of those with the largest scores, or at random.

    Args:
        net: its parameters.
        shares: of high components.
        scored: by adjoint times error; otherwise at random.
        seed: of the choice.
    """

    net: LeNet5
    shares: Shares
    scored: bool
    seed: int

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        self.adjoints: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, labels: Tensor | None) -> Tensor:
        if self.scored:
            self.adjoints = adjoints(self.net, images, labels)
        act = self.net.activation
        hidden = F.max_pool2d(act(self.product("conv1", images)), 2)
        hidden = F.max_pool2d(act(self.product("conv2", hidden)), 2)
        hidden = act(self.product("fc1", hidden.flatten(1)))
        return self.product("fc3", act(self.product("fc2", hidden)))

    def product(self, layer: str, x: Tensor) -> Tensor:
        """In two precisions; its derivatives are those of fp32 at these values."""
        module: Any = getattr(self.net, layer)
        exact = module(x)
        with torch.no_grad():
            value = computed(module, x.detach(), self.select(layer, module, x.detach(), exact.shape))
        return Replaced.apply(exact, value)  # type: ignore[no-any-return]

    def select(self, layer: str, module: Any, x: Tensor, shape: torch.Size) -> Tensor:
        """The share of a layer, of the largest scores."""
        scores = torch.rand(shape, generator=self.generator)
        if self.scored:
            scores = self.adjoints[layer].abs() * magnitudes(module, x)
        chosen = torch.zeros(scores.numel(), dtype=torch.bool)
        chosen[scores.flatten().topk(round(self.shares[layer] * scores.numel())).indices] = True
        return chosen.view(shape)


def computed(module: Any, x: Tensor, select: Tensor) -> Tensor:
    """A layer's result with these components in high precision."""
    weight, bias = module.weight.detach(), module.bias.detach()
    if isinstance(module, nn.Conv2d):
        found = convolution_two_pass(x, weight, LOW, HIGH, select=select, padding=module.padding)  # type: ignore[arg-type]
        return found.result + bias.view(-1, 1, 1)
    return matmul_two_pass(x, weight.t(), LOW, HIGH, select=select).result + bias


def magnitudes(module: Any, x: Tensor) -> Tensor:
    """``|W| |h|``."""
    weight = module.weight.detach().abs()
    return F.conv2d(x.abs(), weight, padding=module.padding) if isinstance(module, nn.Conv2d) else x.abs() @ weight.t()


def adjoints(net: LeNet5, images: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """dL/dv of each layer in fp32; L of the labels, or of the class that fp32 predicts."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        getattr(net, layer).register_forward_hook(lambda module, args, y, layer=layer: outputs.update({layer: y}))
        for layer in LAYERS
    ]
    with torch.enable_grad():
        logits = net(images)
        loss = F.cross_entropy(logits, logits.argmax(1) if labels is None else labels, reduction="sum")
        found = torch.autograd.grad(loss, list(outputs.values()))
    for hook in hooks:
        hook.remove()
    return dict(zip(outputs, found, strict=True))


def thresholded(net: LeNet5, tau: float, mnist: Mnist) -> Any:
    """The net under the plan of a threshold, for training and inference; the plan knows only what follows a product."""
    compiled = precc.compile(net, backend="cpp")
    labels = mnist.train_labels[:BATCH]
    analysis = compiled.analyze(mnist.train_images[:BATCH], loss=lambda y: F.cross_entropy(y, labels))
    compiled.set_plan(Threshold(tau, "component", LOW, HIGH).assign(analysis), recompile=True)
    return compiled


def low_share(shares: Shares) -> float:
    """Of multiply-adds."""
    total = sum(math.prod(own) for own in LAYERS.values())
    return 1 - sum(shares[layer] * math.prod(own) for layer, own in LAYERS.items()) / total


def measured_shares(counter: precc.Recomputed) -> Shares:
    return {layer: counter.of(f"{layer}/product/fprop.accumulator") for layer in LAYERS}


@torch.no_grad()
def accuracy(forward: Forward, images: Tensor, labels: Tensor) -> float:
    right = [forward(x, None).argmax(1) == y for x, y in zip(images.split(250), labels.split(250), strict=True)]
    return float(torch.cat(right).double().mean())


def train(net: LeNet5, forward: Forward, mnist: Mnist, steps: int, seed: int) -> None:
    """Plain SGD with momentum on batches that are drawn from all training images."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)
    for _ in range(steps):
        index = torch.randint(len(mnist.train_labels), (BATCH,), generator=generator)
        labels = mnist.train_labels[index]
        optimizer.zero_grad()
        F.cross_entropy(forward(mnist.train_images[index], labels), labels).backward()
        optimizer.step()


def fresh(activation: Activation, seed: int) -> LeNet5:
    torch.manual_seed(seed)
    return LeNet5(activation)


def plain(net: LeNet5) -> Forward:
    return lambda images, labels: net(images)


def controls(net: LeNet5, shares: Shares, seed: int) -> dict[str, Masked]:
    return {rule: Masked(net, shares, scored, seed) for rule, scored in zip(RULES[1:], (False, True), strict=True)}


def inference(mnist: Mnist, activation: Activation, seed: int, count: int) -> list[dict[str, Any]]:
    """Rows of all thresholds and rules, of one net that was trained in fp32."""
    net, images, labels = fresh(activation, seed), mnist.test_images[:count], mnist.test_labels[:count]
    train(net, plain(net), mnist, EPOCH, seed)
    rows = [{"rule": "fp32", "tau": None, "low": 0.0, "accuracy": accuracy(plain(net), images, labels)}]
    for tau in TAUS:
        compiled = thresholded(net, tau, mnist)
        with precc.recomputed() as counter:
            found = {RULES[0]: accuracy(plain(compiled), images, labels)}
        shares = measured_shares(counter)
        found |= {rule: accuracy(own, images, labels) for rule, own in controls(net, shares, seed).items()}
        rows += [{"rule": rule, "tau": tau, "low": low_share(shares), "accuracy": own} for rule, own in found.items()]
    return rows


def training(mnist: Mnist, activation: Activation, seed: int, count: int, steps: int) -> list[dict[str, Any]]:
    """Rows of all thresholds and rules, each trained from the same start on the same batches."""
    images, labels, rows = mnist.test_images[:count], mnist.test_labels[:count], []
    net = fresh(activation, seed)
    train(net, plain(net), mnist, steps, seed)
    rows.append({"rule": "fp32", "tau": None, "low": 0.0, "accuracy": accuracy(plain(net), images, labels)})
    for tau in TRAINING_TAUS:
        net = fresh(activation, seed)
        compiled = thresholded(net, tau, mnist)
        with precc.recomputed() as counter:
            train(net, plain(compiled), mnist, steps, seed)
        shares = measured_shares(counter)
        found = {RULES[0]: accuracy(plain(compiled), images, labels)}
        for rule in RULES[1:]:
            net = fresh(activation, seed)
            masked = controls(net, shares, seed)[rule]
            train(net, masked, mnist, steps, seed)
            found[rule] = accuracy(masked, images, labels)
        rows += [{"rule": rule, "tau": tau, "low": low_share(shares), "accuracy": own} for rule, own in found.items()]
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over seeds, of each experiment, activation, threshold and rule."""
    kinds = dict.fromkeys((own["experiment"], own["activation"], own["tau"], own["rule"]) for own in rows)
    found = []
    for kind in kinds:
        own = [row for row in rows if (row["experiment"], row["activation"], row["tau"], row["rule"]) == kind]
        medians = {what: statistics.median(row[what] for row in own) for what in ("low", "accuracy")}
        worst = min(row["accuracy"] for row in own)
        names = dict(zip(("experiment", "activation", "tau", "rule"), kind, strict=True))
        found.append({**names, **medians, "lowest": worst, "seeds": len(own)})
    return found


def write(rows: list[dict[str, Any]], setting: dict[str, Any]) -> None:
    document = {**environment(), "setting": setting, "summary": summary(rows), "rows": rows}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())


def plot(rows: list[dict[str, Any]]) -> None:
    """Accuracy over the share in low precision: medians, and the range of the seeds."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("the plot needs matplotlib: pip install matplotlib, then --plot") from None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "precc"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), sharey="row")
    panels = [(kind, activation) for kind in ("inference", "training") for activation in ("tanh", "relu")]
    for panel, (kind, activation) in zip(axes.flat, panels, strict=True):
        of_panel = [row for row in rows if (row["experiment"], row["activation"]) == (kind, activation)]
        for rule in RULES:
            own = [row for row in of_panel if row["rule"] == rule]
            line = sorted(summary(own), key=lambda row: row["low"])
            (drawn,) = panel.plot([r["low"] for r in line], [r["accuracy"] for r in line], "o-", label=rule)
            panel.plot([r["low"] for r in own], [r["accuracy"] for r in own], ".", alpha=0.3, color=drawn.get_color())
        exact = [row["accuracy"] for row in of_panel if row["rule"] == "fp32"]
        panel.axhline(statistics.median(exact), color="black", linewidth=0.8, label="fp32")
        panel.set(title=f"{kind}, {activation}", xlabel="share of multiply-adds in e4m3", ylabel="accuracy")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(RESULT.with_suffix(".svg"), metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with MNIST; default: $PRECC_DATA, or a subset")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000, help="of the test set")
    parser.add_argument("--steps", type=int, default=200, help="of training from scratch")
    parser.add_argument("--plot", action="store_true", help="draw what the file has, and measure nothing")
    chosen = parser.parse_args()
    if chosen.plot:
        plot(json.loads(RESULT.read_text())["rows"])
        return
    torch.set_num_threads(1)
    mnist, rows = load_mnist(chosen.data), []
    setting = {"training images": len(mnist.train_labels), "test images": chosen.images, "steps": chosen.steps}
    with Progress() as progress:
        task = progress.add_task("nets", total=4 * chosen.seeds)
        for seed in range(chosen.seeds):
            for activation in ("tanh", "relu"):
                names = {"activation": activation, "seed": seed}
                found = inference(mnist, activation, seed, chosen.images)
                rows += [{"experiment": "inference", **names, **own} for own in found]
                progress.advance(task)
                found = training(mnist, activation, seed, chosen.images, chosen.steps)
                rows += [{"experiment": "training", **names, **own} for own in found]
                progress.advance(task)
                write(rows, setting)
    plot(rows)


if __name__ == "__main__":
    main()
