"""Every controller on two trainings with noisy gradients, beside fp32 and static plans. About an hour.

LeNet-5 on MNIST (60,000 images where --data or $PRECC_DATA has them) with 15% of the labels replaced at random, by SGD
with momentum; a small GPT on Shakespeare by the character, by Adam. Each run has its score (accuracy on clean test
images, loss of validation windows) in the plan that it ended with and in float32, and the bits of an operand averaged
over all multiply-adds of the training, evaluations by the controller included. Controls: float32; static formats of 16,
8, 6 and 4 bits, of which the last is the coarsest plan; a random plan of the bits that NoiseAware had.

Writes benchmarks/results/controllers.json after each run; runs that it has are not run again.

usage: python benchmarks/controllers.py [--data DIR] [--seeds N] [--task NAME] [--only RUN ...] [--again]
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from environment import environment
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.files import write_whole
from precc.models.gpt import GPT
from precc.models.lenet5 import LeNet5
from precc.models.mnist import load_mnist
from precc.models.shakespeare import draw_windows, load_shakespeare

RESULT = Path(__file__).resolve().parent / "results" / "controllers.json"
NOISY = 0.15
#: Coarsest first; tensors of fewer than 16 bits have a float32 scale.
LEVELS = tuple(precc.PrecisionPlan(own) for own in (*map(precc.scaled, ("e2m1", "e2m3", "e4m3")), "bf16", "float32"))

#: A ratio every 10 steps: F evaluations an epoch.
REGION: dict[str, Any] = {"evaluate_every": 10}

Batch = tuple[Tensor, Tensor]
Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """A training.

    Args:
        name: in the result.
        model: makes a model.
        optimizer: of parameters.
        batches: of a seed.
        steps: how many.
        score: of a net: accuracy, or loss.
        better: the sign of an improvement.
    """

    name: str
    model: Callable[[], nn.Module]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batches: Callable[[int], Iterator[Batch]]
    steps: int
    score: Callable[[nn.Module], float]
    better: int


def loss_of(output: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy; of sequences by position."""
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def lenet5(folder: str | None) -> Task:
    """Two epochs in batches of 128."""
    mnist = load_mnist(folder)
    images, count = mnist.train_images, len(mnist.train_labels)

    def batches(seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.rand(count, generator=generator) < NOISY
        labels = torch.where(wrong, torch.randint(10, (count,), generator=generator), mnist.train_labels)
        while True:
            for chosen in torch.randperm(count, generator=generator).split(128):
                if len(chosen) == 128:
                    yield images[chosen], labels[chosen]

    @torch.no_grad()
    def score(net: nn.Module) -> float:
        pairs = zip(mnist.test_images.split(1000), mnist.test_labels.split(1000), strict=True)
        right = sum(int((net(x).argmax(1) == y).sum()) for x, y in pairs)
        return right / len(mnist.test_labels)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.03, momentum=0.9)

    return Task("lenet5", LeNet5, optimizer, batches, 2 * (count // 128), score, 1)


def gpt() -> Task:
    """Eight hundred batches of 16 windows of 64 characters; two blocks of width 64."""
    text = load_shakespeare()
    generator = torch.Generator().manual_seed(0)
    held = draw_windows(text.validation_tokens, 65, 256, generator)

    def batches(seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            windows = draw_windows(text.train_tokens, 65, 16, generator)
            yield windows[:, :-1], windows[:, 1:]

    @torch.no_grad()
    def score(net: nn.Module) -> float:
        return statistics.fmean(float(loss_of(net(own[:, :-1]), own[:, 1:])) for own in held.split(64))

    def model() -> nn.Module:
        return GPT(len(text.vocabulary), context=64, width=64, layers=2, heads=4)

    return Task("gpt", model, lambda own: torch.optim.Adam(own, lr=3e-3), batches, 800, score, -1)


def flat(output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and targets."""
    return output.flatten(0, -2), y.flatten()


def plain(
    net: precc.PrecisionModule, optimizer: torch.optim.Optimizer, ctl: Any = None, *, watched: bool = False
) -> Step:
    """A step of a usual loop, with a scheduler or without."""

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = ctl.loss(net(x), y) if watched else loss_of(net(x), y)
        loss.backward()
        optimizer.step()
        if ctl is not None:
            ctl.step(loss)
        return loss.detach()

    return step


def closed(make: Callable[..., Any], *, analysed: bool = False) -> Callable[..., Step]:
    """An optimizer with a closure, in the place of the task's."""

    def begin(task: Task, net: precc.PrecisionModule) -> Step:
        optimizer = make(net)
        loss = optimizer.loss if analysed else loss_of
        return lambda x, y: optimizer.step(lambda: loss(net(x), y)).detach()  # type: ignore[no-any-return]

    return begin


def static(plan: precc.PrecisionPlan) -> Callable[..., Step]:
    """A plan that stays."""

    def begin(task: Task, net: precc.PrecisionModule) -> Step:
        net.set_plan(plan)
        return plain(net, task.optimizer(net.parameters()))

    return begin


def around(
    make: Callable[..., Any], plan: precc.PrecisionPlan | None = None, *, watched: bool = False
) -> Callable[..., Step]:
    """A scheduler around the task's optimizer, from a plan on; some want to see the loss."""

    def begin(task: Task, net: precc.PrecisionModule) -> Step:
        if plan is not None:
            net.set_plan(plan)
        optimizer = task.optimizer(net.parameters())
        return plain(net, optimizer, make(net, optimizer, task), watched=watched)

    return begin


RUNS: dict[str, Callable[..., Step]] = {
    "float32": static(LEVELS[4]),
    "bf16": static(LEVELS[3]),
    "e4m3, scaled": static(LEVELS[2]),
    "e2m3, scaled": static(LEVELS[1]),
    "e2m1, scaled": static(LEVELS[0]),
    "NoiseAware": around(lambda net, optimizer, task: precc.NoiseAware(net, optimizer, loss=loss_of), watched=True),
    "MPSGD": around(
        lambda net, optimizer, task: precc.MPSGD(net, optimizer, levels=LEVELS, loss=loss_of), watched=True
    ),
    "AdaPT": around(lambda net, optimizer, task: precc.AdaPT(net, optimizer)),
    "LateSwitch": around(
        lambda net, optimizer, task: precc.LateSwitch(net, optimizer, total_steps=task.steps, at=0.8), LEVELS[1]
    ),
    "SharpnessGuard": around(
        lambda net, optimizer, task: precc.SharpnessGuard(net, optimizer, loss_of, LEVELS[2:], logits=flat),
        LEVELS[1],
        watched=True,
    ),
    "TrustRegion, float32": closed(lambda net: precc.TrustRegion(net, levels=LEVELS[4:], **REGION)),
    "TrustRegion": closed(lambda net: precc.TrustRegion(net, levels=LEVELS, **REGION)),
    "TrustRegion, difference": closed(lambda net: precc.TrustRegion(net, levels=LEVELS, gate="difference", **REGION)),
    "TrustRegion, budget": closed(
        lambda net: precc.TrustRegion(net, levels="budget", loss=loss_of, **REGION), analysed=True
    ),
    "STORM": closed(lambda net: precc.STORM(net, levels=LEVELS)),
}


def run(task: Task, begin: Callable[..., Step], seed: int, tell: Callable[[], None]) -> dict[str, Any]:
    """One training."""
    torch.manual_seed(seed)
    net = precc.compile(task.model())
    step = begin(task, net)
    start, losses = time.perf_counter(), []
    for _, (x, y) in zip(range(task.steps), task.batches(seed), strict=False):
        losses.append(float(step(x, y)))
        tell()
    state = net.precision_state()
    seconds, (bits, weighed) = time.perf_counter() - start, state["bits"]
    plan = net.plan
    own = task.score(net)
    net.set_plan(precc.Uniform("float32").assign())
    return {
        "score": own,
        "score_in_float32": task.score(net),
        "training_loss": statistics.fmean(losses[-50:]),
        "average_bits": bits / weighed,
        "final_bits": plan.average_bits,
        "events": state["events"],
        "compilations": net.compilations,
        "seconds": seconds,
    }


def random_plan(net: precc.PrecisionModule, bits: float, seed: int) -> precc.PrecisionPlan:
    """A format drawn for each product; of many draws, that of the bits nearest to these."""
    choices = [precc.scaled(own) for own in ("e2m1", "e2m3", "e4m3", "bf16")]
    draw, work = random.Random(seed), net.plan.multiply_adds
    products = sorted({slot.rpartition(".")[0] for slot in work})
    plans = []
    for _ in range(500):
        weights = [draw.random() for _ in choices]
        own = {product: draw.choices(choices, weights)[0] for product in products}
        plans.append(precc.PrecisionPlan("float32", {slot: own[slot.rpartition(".")[0]] for slot in work}, work))
    return min(plans, key=lambda plan: abs(plan.average_bits - bits))


def in_random_plan(bits: float, seed: int) -> Callable[..., Step]:
    """Static, of as many bits as NoiseAware had on average."""

    def begin(task: Task, net: precc.PrecisionModule) -> Step:
        x, y = next(task.batches(seed))
        loss_of(net(x), y).backward()
        net.zero_grad()
        net.set_plan(random_plan(net, bits, seed))
        return plain(net, task.optimizer(net.parameters()))

    return begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--task", choices=("lenet5", "gpt"))
    parser.add_argument("--only", nargs="+", choices=[*RUNS, "random plan"])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    document = json.loads(chosen.out.read_text()) if chosen.out.exists() else {"runs": []}
    for name in ("lenet5", "gpt") if chosen.task is None else (chosen.task,):
        task = lenet5(chosen.data) if name == "lenet5" else gpt()
        for seed in range(chosen.seeds):
            for label in chosen.only or [*RUNS, "random plan"]:
                one(task, label, seed, document, chosen)
    print(table(document["runs"]))


def one(task: Task, label: str, seed: int, document: dict[str, Any], chosen: argparse.Namespace) -> None:
    """Run, and write, what is not there."""
    key = {"task": task.name, "run": label, "seed": seed}
    found = [own for own in document["runs"] if key.items() <= own.items()]
    if found and not chosen.again:
        return
    begin = RUNS.get(label)
    if begin is None:
        like = {**key, "run": "NoiseAware"}
        begin = in_random_plan(
            next(own for own in document["runs"] if like.items() <= own.items())["average_bits"], seed
        )
    with Progress() as progress:
        bar = progress.add_task(f"{task.name}, {label}, seed {seed}", total=task.steps)
        record = {**key, "steps": task.steps, **environment()["machine"]}
        record |= run(task, begin, seed, lambda: progress.advance(bar))
    others = [own for own in document["runs"] if own not in found]
    document |= {**environment(), "setting": {"label_noise": NOISY}, "runs": [*others, record]}
    document["summary"] = summary(document["runs"])
    write_whole(chosen.out, (json.dumps(document, indent=1) + "\n").encode())


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the distance to float32 of the same seed; above 0 is better."""
    found: dict[str, Any] = {}
    for own in runs:
        found.setdefault(own["task"], {}).setdefault(own["run"], []).append(own)
    return {task: {name: _summary(own, rows["float32"]) for name, own in rows.items()} for task, rows in found.items()}


def _summary(own: list[dict[str, Any]], exact: list[dict[str, Any]]) -> dict[str, Any]:
    sign = 1 if own[0]["task"] == "lenet5" else -1
    base = {row["seed"]: row["score"] for row in exact}
    apart = [sign * (row["score"] - base[row["seed"]]) for row in own if row["seed"] in base]
    names = ("score", "score_in_float32", "average_bits", "final_bits", "seconds")
    means = {name: statistics.fmean(row[name] for row in own) for name in names}
    return {**means, "seeds": len(own), "better_than_float32": apart}


def table(runs: list[dict[str, Any]]) -> str:
    """The summary as text."""
    lines = []
    for task, rows in summary(runs).items():
        for name, own in rows.items():
            apart = " ".join(f"{value:+.4f}" for value in own["better_than_float32"])
            lines.append(f"{task:8} {name:16} {own['score']:.4f} ({apart}) bits {own['average_bits']:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
