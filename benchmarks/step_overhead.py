"""What a training step costs under precc when nothing is rounded, beside `torch.compile` of the same model.

Without slots (``policy="float32", live=False``) and with live slots that all hold float32, on a tiny Llama and on
ResNet-20. All variants take turns, round by round; the ratio is the median of those within a round. Peak memory
is of one process a variant. At last: switches between prepared plans. Writes benchmarks/results/step_overhead.json.

usage: python benchmarks/step_overhead.py [--rounds N]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from environment import environment
from torch import nn
from torch.nn import functional as F
from turns import take_turns

import precc
from precc.files import write_whole
from precc.models.resnet20 import ResNet20

RESULT = Path(__file__).resolve().parent / "results" / "step_overhead.json"
PLAIN = "torch.compile"
VARIANTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    PLAIN: lambda model: torch.compile(model),  # type: ignore[dict-item]
    "no slots": lambda model: precc.compile(model, policy="float32", live=False, backend="inductor"),
    "live slots": lambda model: precc.compile(model, backend="inductor"),
}
Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "VARIANT"), help="print peak memory of some steps")
    options = parser.parse_args()
    if options.peak:
        print(peak(*options.peak))
        return
    models = {name: measured(name, options.rounds) for name in MODELS}
    document = {**environment(), "setting": {"rounds": options.rounds}, "models": models, "switch_ms": switch()}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(document, indent=1))


def llama_step(wrap: Callable[[nn.Module], nn.Module]) -> Step:
    """Four layers of width 256, sequences of 128."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 4, "vocab_size": 512}
    net = wrap(hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, num_hidden_layers=4, num_key_value_heads=4)))
    tokens = torch.randint(3, 512, (8, 128), generator=torch.Generator().manual_seed(0))
    return stepping(net, lambda: net(input_ids=tokens, labels=tokens).loss)


def resnet_step(wrap: Callable[[nn.Module], nn.Module]) -> Step:
    """A batch of 64."""
    torch.manual_seed(0)
    net, images = wrap(ResNet20()), torch.randn(64, 3, 32, 32)
    return stepping(net, lambda: F.cross_entropy(net(images), torch.arange(64) % 10))


def stepping(net: nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


MODELS = {"tiny llama": llama_step, "resnet20": resnet_step}


def measured(name: str, rounds: int) -> dict[str, Any]:
    """Median times and ratios, and peak memory, of one model."""
    steps = {variant: MODELS[name](wrap) for variant, wrap in VARIANTS.items()}
    medians, ratios = take_turns(steps, PLAIN, rounds, warm_up=5, title=name)
    peaks = {variant: alone(name, variant) for variant in VARIANTS}
    return {"median_ms": medians, "median_ratio": ratios, "peak_mib": peaks}


def alone(name: str, variant: str) -> float:
    """Peak memory in a process of its own, in MiB."""
    command = [sys.executable, __file__, "--peak", name, variant]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def peak(name: str, variant: str) -> float:
    """Peak resident memory of this process, in MiB, of which about 400 are torch; what it compiles is in caches."""
    step = MODELS[name](VARIANTS[variant])
    for _ in range(10):
        step()
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would begin with the parent's peak
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def switch() -> dict[str, float]:
    """Milliseconds of a switch between two prepared plans of 5,000 named slots; the median and the largest of 100."""
    net = precc.compile(nn.Sequential(*(nn.Linear(8, 8) for _ in range(834))), backend="reference")
    net(torch.randn(2, 8)).sum().backward()
    names = list(net.plan.slots)
    plans = [precc.PrecisionPlan("float32", dict.fromkeys(names, fmt)) for fmt in ("e4m3", "e5m2")]
    for plan in plans:
        net.set_plan(plan)
        net(torch.randn(2, 8)).sum().backward()
    times = []
    for index in range(100):
        start = time.perf_counter()
        net.set_plan(plans[index % 2])
        times.append(1e3 * (time.perf_counter() - start))
    assert net.compilations == 1
    return {"slots": len(names), "median": statistics.median(times), "largest": max(times)}


if __name__ == "__main__":
    main()
