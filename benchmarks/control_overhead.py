"""What controllers cost beside the steps of a training: analyses, noise, shadow, ratios. A quarter of an hour.

LeNet-5 on MNIST in batches of 512, and a small GPT; NoiseAware as it comes, TrustRegion with a ratio every 100
steps. The overhead is all the time that the controller takes (its steps and hooks; of TrustRegion: what evaluated
steps take more than others), relative to that of the steps without it. Captures of graphs are left out, those of the
net in the first steps and those of the steps that are analysed; with the latter there is a share of its own.

Writes benchmarks/results/control_overhead.json. usage: python benchmarks/control_overhead.py [--data DIR] [--quick]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from environment import environment
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.analysis import run_analysis
from precc.files import write_whole
from precc.models.gpt import GPT
from precc.models.lenet5 import LeNet5
from precc.models.mnist import load_mnist
from precc.models.shakespeare import draw_windows, load_shakespeare

RESULT = Path(__file__).resolve().parent / "results" / "control_overhead.json"
RATIO_EVERY = 100
WARM = 8  # steps in which graphs are captured

Batches = Callable[[], tuple[Tensor, Tensor]]


def loss_of(output: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy; of sequences by position."""
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def lenet5(folder: str | None) -> tuple[nn.Module, Batches]:
    """Steps of 60 ms or so."""
    mnist = load_mnist(folder)

    def batch() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(mnist.train_labels), (512,))
        return mnist.train_images[chosen], mnist.train_labels[chosen]

    return LeNet5(), batch


def gpt() -> tuple[nn.Module, Batches]:
    """Likewise."""
    text = load_shakespeare()
    generator = torch.Generator().manual_seed(0)

    def batch() -> tuple[Tensor, Tensor]:
        windows = draw_windows(text.train_tokens, 65, 24, generator)
        return windows[:, :-1], windows[:, 1:]

    return GPT(len(text.vocabulary), context=64, width=96, layers=2, heads=4), batch


def noise_aware(model: nn.Module, batch: Batches, steps: int) -> dict[str, Any]:
    """Time in the controller, beside that of the rest of each step."""
    net = precc.compile(model)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9)
    ctl = precc.NoiseAware(net, optimizer, loss=loss_of)
    hook, spent, captured = ctl._before_update, [0.0], [0.0]
    trace = run_analysis.trace_step

    def traced(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        found = trace(*args, **kwargs)
        captured[0] += time.perf_counter() - start
        return found

    run_analysis.trace_step = traced

    def timed() -> None:
        start = time.perf_counter()
        hook()
        spent[0] += time.perf_counter() - start

    ctl._before_update = timed  # type: ignore[method-assign]
    own, rest, compilations = [], [], 0
    for step in track(range(steps), f"NoiseAware, {type(model).__name__}"):
        x, y = batch()
        spent[0], start = 0.0, time.perf_counter()
        optimizer.zero_grad()
        loss = ctl.loss(net(x), y)
        loss.backward()
        optimizer.step()
        middle = time.perf_counter()
        ctl.step(loss)
        if step == WARM:
            compilations = net.compilations
        if step >= WARM:
            own.append(time.perf_counter() - middle + spent[0])
            rest.append(middle - start - spent[0])
    run_analysis.trace_step = trace
    analyses = sum(row.event == "analysis" for row in net.history)
    with_capture = sum(own) / sum(rest)
    own.append(-captured[0])
    return {
        **measured(own, rest),
        "overhead_with_capture": with_capture,
        "analyses": analyses,
        "recompilations": net.compilations - compilations,
    }


def trust_region(model: nn.Module, batch: Batches, steps: int) -> dict[str, Any]:
    """What evaluated steps take more than the median of the others."""
    net = precc.compile(model)
    optimizer = precc.TrustRegion(net, evaluate_every=RATIO_EVERY)
    times, compilations = [], 0
    for step in track(range(steps), f"TrustRegion, {type(model).__name__}"):
        x, y = batch()
        start = time.perf_counter()
        optimizer.step(lambda x=x, y=y: loss_of(net(x), y))  # type: ignore[misc]
        times.append(time.perf_counter() - start)
        if step == WARM:
            compilations = net.compilations
    evaluated = [own for step, own in enumerate(times) if step % RATIO_EVERY == 0 and step >= WARM]
    others = [own for step, own in enumerate(times) if step % RATIO_EVERY and step >= WARM]
    usual = statistics.median(others)
    own = [max(value - usual, 0.0) for value in evaluated]
    return {
        **measured(own, [*others, *[usual] * len(evaluated)]),
        "evaluations": len(evaluated),
        "recompilations": net.compilations - compilations,
    }


def measured(own: list[float], rest: list[float]) -> dict[str, Any]:
    """The share, and medians in milliseconds."""
    return {
        "overhead": sum(own) / sum(rest),
        "step_ms": 1e3 * statistics.median(rest),
        "longest_ms": 1e3 * max(own),
        "seconds": sum(own) + sum(rest),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--quick", action="store_true", help="1,000 steps alone")
    chosen = parser.parse_args()
    rows = []
    lengths = {1000: 0.05} if chosen.quick else {1000: 0.05, 10_000: 0.02}
    for steps, wanted in lengths.items():
        for make in (lambda: lenet5(chosen.data), gpt) if steps == 1000 else (lambda: lenet5(chosen.data),):
            for run in (noise_aware, trust_region):
                torch.manual_seed(0)
                model, batch = make()
                found = run(model, batch, steps)
                name = {"run": run.__name__, "net": type(model).__name__, "steps": steps}
                met = found["overhead"] <= wanted and not found["recompilations"]
                rows.append({**name, **found, "wanted": wanted, "met": met})
                print(rows[-1])
                document = {**environment(), "rows": rows}
                write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
