"""Times that a roofline gives, beside those that this CPU takes, on one thread.

Products of the sizes of `precc calibrate`, products of other sizes, and each product of a training step of LeNet-5 and
of a GPT, in float32 and in bfloat16, as the step calls it, take turns (a backward of a convolution is one call and two
products). The figures are fitted to the first of them alone, and tried on the others. Reported are ratios of modelled
to measured times. Writes benchmarks/results/roofline_cpu.json.

usage: python benchmarks/roofline.py [--seconds N]
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from environment import environment
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from precc.devices.at_hand import device_at_hand
from precc.devices.calibrate import measure
from precc.devices.figures import DeviceFigures
from precc.devices.fit import fit_roofline
from precc.devices.timed_work import TimedWork
from precc.devices.workloads import SIZES, Sizes, Workload, workloads
from precc.files import write_whole
from precc.models.gpt import GPT
from precc.models.gpt import example_inputs as tokens_of
from precc.models.lenet5 import LeNet5
from precc.models.lenet5 import example_inputs as images_of

RESULT = Path(__file__).resolve().parent / "results" / "roofline_cpu.json"

#: None of them is a size of the calibration.
HELD_OUT = (
    *((32, 128, 128), (128, 128, 128), (384, 384, 384), (768, 768, 768), (64, 1024, 1024), (1536, 256, 512)),
    *((256, 2048, 256), (100, 1000, 300), (512, 64, 512), (900, 100, 500), (1, 1024, 1024), (2048, 16, 64)),
)


class Products(TorchDispatchMode):
    """Keeps each product that is called, to be called again."""

    def __init__(self, pair: str) -> None:
        super().__init__()
        self.pair = pair
        self.found: list[tuple[str, Workload]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = partial(func, *args, **(kwargs or {}))
        out = run()
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            tensors = [own for own in tree_leaves(args) if isinstance(own, Tensor)]
            results = [own for own in tree_leaves(out) if isinstance(own, Tensor)]
            moved = sum(own.numel() * own.itemsize for own in tensors + results)
            shape = tuple(size for own in tensors for size in own.shape)
            flops = float(count(*args, **(kwargs or {}), out_val=out))
            work = Workload("product", self.pair, shape, flops, moved, lambda: run)
            self.found.append((func._overloadpacket.__name__, work))
        return out


@dataclass(frozen=True)
class Step:
    """The products of a training step, with the names of their operators."""

    model: str
    dtype: str
    products: list[tuple[str, Workload]]


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """Of ratios of modelled to measured times."""
    ordered = sorted(ratios)
    within = [sum(max(own, 1 / own) <= factor for own in ordered) / len(ordered) for factor in (1.25, 1.5, 2)]
    return {
        "count": len(ordered),
        "lowest": ordered[0],
        "median": statistics.median(ordered),
        "highest": ordered[-1],
        "mean_factor": math.exp(statistics.fmean(abs(math.log(own)) for own in ordered)),
        **dict(zip(("within_1.25", "within_1.5", "within_2"), within, strict=True)),
    }


def step_of(model: nn.Module, loss: Callable[[nn.Module], Tensor], dtype: torch.dtype) -> Step:
    name = str(dtype).removeprefix("torch.")
    with Products(f"{name} x {name}") as products:
        loss(model.to(dtype)).backward()
    return Step(type(model).__name__, name, products.found)


def lenet5_loss(model: nn.Module) -> Tensor:
    (images,) = images_of(64)
    found: Tensor = F.cross_entropy(model(images.to(next(model.parameters()).dtype)), torch.arange(64) % 10)
    return found


def gpt_loss(model: nn.Module) -> Tensor:
    (tokens,) = tokens_of(8)
    logits = model(tokens)
    return F.cross_entropy(logits.flatten(0, -2), tokens.flatten())


def steps() -> list[Step]:
    torch.manual_seed(0)
    dtypes = (torch.float32, torch.bfloat16)
    return [step_of(kind(), loss, own) for kind, loss in ((LeNet5, lenet5_loss), (GPT, gpt_loss)) for own in dtypes]


def compared(step: Step, measured: Mapping[Workload, TimedWork], figures: DeviceFigures) -> dict[str, Any]:
    found = [(name, measured[work]) for name, work in step.products]
    ratios = [figures.seconds_of(own) / own.seconds for _, own in found]
    total = sum(own.seconds for _, own in found)
    modelled = sum(figures.seconds_of(own) for _, own in found)
    return {
        "model": step.model,
        "dtype": step.dtype,
        "measured_milliseconds": 1e3 * total,
        "modelled_milliseconds": 1e3 * modelled,
        "sum_ratio": modelled / total,
        "ratios": spread(ratios),
        "products": [
            {"op": name, "shapes": own.shape, "milliseconds": 1e3 * own.seconds, "ratio": ratio}
            for (name, own), ratio in zip(found, ratios, strict=True)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = steps()
    works = workloads("cpu", SIZES["cpu"]), workloads("cpu", Sizes(HELD_OUT, ()))
    products = [work for step in found for _, work in step.products]
    measured, missing = measure([*works[0], *works[1], *products], seconds=chosen.seconds, progress=True)
    known, others = ([measured[work] for work in own if work in measured] for own in works)
    figures = fit_roofline(device_at_hand("cpu"), known, missing, "")
    others = [own for own in others if own.kind == "product"]
    rows = [compared(step, measured, figures) for step in found]
    held_out = {
        rate.name: spread([figures.seconds_of(work) / work.seconds for work in others if work.name == rate.name])
        for rate in figures.rates
    }
    summary = {
        "figures": {rate.name: {"gflops": rate.flops / 1e9, "fit_error": rate.error} for rate in figures.rates},
        "bandwidth": {"gbytes": figures.bandwidth / 1e9, "fit_error": figures.bandwidth_error},
        "launch_microseconds": figures.launch * 1e6,
        "held_out_modelled_over_measured": held_out,
        "steps": [{name: value for name, value in row.items() if name != "products"} for row in rows],
    }
    tried = [
        {"pair": own.name, "shape": own.shape, "ms": 1e3 * own.seconds, "ratio": figures.seconds_of(own) / own.seconds}
        for own in others
    ]
    document = {"environment": environment(), "summary": summary, "held_out": tried, "steps": rows}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
