"""Time of a training step, batch 128, in each backend and format, against eager fp32 beside it.

e4m3 operands forward and e5m2 backward, rounded to nearest and stochastically; then with all sums rounded to e5m10
after every fused multiply-add, of these operands and of float32 ones. All variants take turns, round by round;
the ratio to eager is the median of the ratios within a round. Writes benchmarks/results/train_step.json.

usage: python benchmarks/train_step.py [--rounds N] [--model lenet5|resnet20] ...
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from environment import environment
from torch import nn
from torch.nn import functional as F
from turns import take_turns

import precc
from precc.files import write_whole
from precc.models import lenet5, resnet20
from precc.slots import Role, Slot

RESULT = Path(__file__).resolve().parent / "results" / "train_step.json"
BATCH = 128
MODELS = {"lenet5": (lenet5.LeNet5, lenet5.example_inputs), "resnet20": (resnet20.ResNet20, resnet20.example_inputs)}
EAGER = "eager float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--model", action="append", choices=list(MODELS))
    options = parser.parse_args()
    results = {name: measured(name, options.rounds) for name in options.model or MODELS}
    document = {**environment(), "setting": {"batch": BATCH, "rounds": options.rounds}, "models": results}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(document, indent=1))


def measured(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """Medians and ratios of one model's variants."""
    steps = variants(name)
    medians, ratios = take_turns(steps, EAGER, rounds, warm_up=3, title=name)
    return {"median_ms": medians, "median_ratio_to_eager": ratios}


def variants(name: str) -> dict[str, Callable[[], None]]:
    """A training step of each kind."""
    make, inputs = MODELS[name]
    model = make()
    (images,) = inputs(BATCH)
    steps = {EAGER: training_step(model, images)}
    for backend in ("cpp", "inductor", "reference"):
        for rounding in ("float32", "nearest_even", "stochastic"):
            if backend == "reference" and rounding == "stochastic":
                continue  # the oracle of the others; seconds a step
            net = precc.compile(model, backend=backend)
            step = training_step(net, images)
            step()
            if rounding != "float32":
                net.set_plan(mixed_plan(net.plan, rounding))
            steps[f"{backend} {rounding}"] = step
    return {**steps, **summing_variants(model, images)}


def summing_variants(model: nn.Module, images: torch.Tensor) -> dict[str, Callable[[], None]]:
    """A training step with accumulators in e5m10, of each kind."""
    steps = {}
    for backend, rounding in (("cpp", "nearest_even"), ("inductor", "nearest_even"), ("cpp", "float32")):
        net = precc.compile(model, backend=backend, policy=precc.Uniform("float32", accumulator="e5m10"))
        step = training_step(net, images)
        step()
        if rounding != "float32":
            operands = mixed_plan(net.plan, rounding)
            net.set_plan(precc.PrecisionPlan(operands.default, operands.slots, default_accumulator="e5m10"))
        steps[f"{backend} {rounding}, e5m10 sums"] = step
    return steps


def mixed_plan(plan: precc.PrecisionPlan, rounding: str) -> precc.PrecisionPlan:
    """e4m3 for the operands of fprop, e5m2 for those of dgrad and wgrad."""
    forward, backward = (precc.Precision(precc.parse_format(name), rounding) for name in ("e4m3", "e5m2"))
    slots = {slot: forward if Slot.parse(slot).role is Role.FPROP else backward for slot in plan.slots}
    return precc.PrecisionPlan(backward, slots)


def training_step(net: nn.Module, images: torch.Tensor) -> Callable[[], None]:
    labels = torch.arange(BATCH) % 10

    def step() -> None:
        net.zero_grad()
        F.cross_entropy(net(images), labels).backward()

    return step


if __name__ == "__main__":
    main()
