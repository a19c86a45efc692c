"""Time of a training step of LeNet-5, batch 128, in each backend and format, against eager fp32 beside it.

Alternates all variants round by round and reports medians and their ratio to eager. Writes
benchmarks/results/step_time.json.

usage: python benchmarks/step_time.py [--rounds N]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from environment import environment
from rich.progress import track
from torch import nn
from torch.nn import functional as F

import precc
from precc.files import write_whole
from precc.models.lenet5 import LeNet5, example_inputs

RESULT = Path(__file__).resolve().parent / "results" / "step_time.json"
BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    steps = variants()
    for step in steps.values():  # compile, warm up
        for _ in range(5):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in track(range(rounds), "rounds"):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(own) for name, own in times.items()}
    document = {
        **environment(),
        "setting": {"model": "LeNet5", "batch": BATCH, "rounds": rounds},
        "median_ms": {name: 1e3 * value for name, value in medians.items()},
        "ratio_to_eager": {name: value / medians["eager float32"] for name, value in medians.items()},
    }
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(document, indent=1))


def variants() -> dict[str, Callable[[], None]]:
    """A training step of each kind."""
    model = LeNet5()
    steps = {"eager float32": training_step(model)}
    for backend in ("inductor", "reference"):
        for name in ("float32", "e4m3"):
            steps[f"{backend} {name}"] = training_step(precc.compile(model, policy=name, backend=backend))
    return steps


def training_step(net: nn.Module) -> Callable[[], None]:
    (images,) = example_inputs(BATCH)
    labels = torch.arange(BATCH) % 10

    def step() -> None:
        net.zero_grad()
        F.cross_entropy(net(images), labels).backward()

    return step


if __name__ == "__main__":
    main()
