"""What an analysis costs: its time in steps of the same net by the backend `reference`, and its peak memory.

The step is traced once before; what is timed are the passes, of the whole batch and of a part of it, in turns with
steps: the median of the ratios within a round. Peak memory is of one process each, above that of a process that has the
net and its batch alone. Writes benchmarks/results/analysis_cost.json.

usage: python benchmarks/analysis_cost.py [--rounds N] [--model NAME] ...
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from environment import environment
from torch import Tensor, nn
from torch.nn import functional as F
from turns import take_turns

import precc
from precc.analysis.traced_step import trace_step
from precc.files import write_whole
from precc.models.gpt import GPT
from precc.models.lenet5 import LeNet5
from precc.models.lstm import LSTMLanguageModel
from precc.models.resnet20 import ResNet20
from precc.passes import analysis_pipeline
from precc.passes.analyse import analyse
from precc.passes.sensitivity import Sensitivity

RESULT = Path(__file__).resolve().parent / "results" / "analysis_cost.json"
STEP, WHOLE, QUARTER = "step", "analysis", "analysis of a quarter of the batch"


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(128, (batch, length), generator=torch.Generator().manual_seed(0))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "lenet5": (LeNet5, lambda: torch.randn(256, 1, 28, 28)),
    "resnet20": (ResNet20, lambda: torch.randn(64, 3, 32, 32)),
    "gpt": (GPT, lambda: tokens(8, 128)),
    "lstm": (LSTMLanguageModel, lambda: tokens(16, 32)),
}


def loss_of(output: Tensor) -> Tensor:
    logits = output.flatten(0, -2)
    return F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1])


def variants(name: str) -> dict[str, Callable[[], Any]]:
    make, inputs = NETS[name]
    torch.manual_seed(0)
    model, x = make(), inputs()
    net = precc.compile(model, backend="reference")
    coarse = precc.compile(model, backend="reference", policy=precc.Uniform("e4m3", scaling="tensor"))
    found: dict[str, Callable[[], Any]] = {
        STEP: lambda: loss_of(net(x)).backward(),
        "step in e4m3": lambda: loss_of(coarse(x)).backward(),
    }
    for label, rows in ((WHOLE, len(x)), ("analysis of half the batch", len(x) // 2), (QUARTER, len(x) // 4)):
        traced = trace_step(net, (x[:rows],), {}, loss_of, title=name, pipeline=analysis_pipeline())
        found[label] = partial(analyse, traced, precc.AnalysisOptions())
        if label == WHOLE:
            found["its sensitivity alone"] = partial(Sensitivity().run, traced)
    return found


def peak(name: str, variant: str) -> float:
    """Peak resident memory of this process, in MiB."""
    steps = variants(name)
    if variant:
        for _ in range(3):
            steps[variant]()
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would begin with the parent's peak
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def alone(name: str, variant: str) -> float:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, variant]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def measured(name: str, rounds: int) -> dict[str, Any]:
    medians, ratios = take_turns(variants(name), STEP, rounds, warm_up=2, title=name)
    base = alone(name, "")
    peaks = {variant: alone(name, variant) - base for variant in (STEP, WHOLE, QUARTER)}
    memory = {variant: own / peaks[STEP] for variant, own in peaks.items()}
    return {"median_ms": medians, "steps": ratios, "peak_mib_above_net": peaks, "memory_of_step": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", action="append", choices=list(NETS))
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "VARIANT"), help="print peak memory of some runs")
    options = parser.parse_args()
    if options.peak:
        print(peak(*options.peak))
        return
    results = {name: measured(name, options.rounds) for name in options.model or NETS}
    document = {**environment(), "setting": {"rounds": options.rounds}, "nets": results}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
