"""Plans at equal average bits, measured: ours, the best uniform formats, first and last layers high, greedy, random.

LeNet-5, ResNet-20 and a GPT, each trained a while from several seeds and then analysed on a batch. At each number of
average bits the plan of `BitBudget` is measured beside uniform formats of that width (scaled if they have fewer than 16
bits; those that are predicted best in loss and in gradient, of which the better measured one counts, for loss and
gradient apart), the widest uniform format that leaves bits for float16 in the first and the last layer, the greedy
plan, and random plans of equal bits. All choose from the default candidates and the formats of that width. Writes
benchmarks/results/bit_budget.json, a row a net, seed and width, as soon as it has it.

usage: python benchmarks/bit_budget.py [--model NAME] ... [--seeds N] [--cifar FILE.npz] [--again]
"""

import argparse
import json
import math
import statistics
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from environment import environment
from error_model import Batch, cases, loss_of
from rich.progress import track
from torch import nn

import precc
from precc.analysis.analysis import Analysis
from precc.assignment.candidates import CANDIDATES
from precc.assignment.greedy import Greedy, RandomChoice
from precc.files import write_whole
from precc.policies.bit_budget import BitBudget
from precc.policies.first_last_high import FirstLastHigh
from precc.policies.uniform_errors import formats_of_width

RESULT = Path(__file__).resolve().parent / "results" / "bit_budget.json"
BITS = (5, 6, 8, 10, 16)
STAGES = {"lenet5": 150, "resnet20": 100, "gpt": 150}
DRAWS = {"lenet5": 24, "resnet20": 8, "gpt": 8}
RANDOM_PLANS, RANDOM_DRAWS = 20, 2
PROBES = 8


@dataclass(frozen=True)
class Errors:
    """Root mean square of the loss error, and of the gradient's, relative."""

    loss: float
    gradient: float

    @classmethod
    def measured(cls, analysis: Analysis, plan: precc.PrecisionPlan, draws: int) -> "Errors":
        found = analysis.measure(plan, draws)
        return cls(math.hypot(found.loss, found.loss_mean), found.gradient)

    @classmethod
    def predicted(cls, analysis: Analysis, plan: precc.PrecisionPlan) -> "Errors":
        found = analysis.predict(plan)
        return cls(math.hypot(found.loss, found.loss_mean), found.gradient)


def trained(name: str, seed: int, cifar: str | None) -> tuple[nn.Module, Batch]:
    """A net after a while, and the batch that comes next."""
    case = cases(cifar)[name]
    torch.manual_seed(seed)
    model, batches = case.make(), case.batches(case.batch)
    for _ in range(STAGES[name] * seed):
        next(batches)  # each seed sees other batches
    adam = case.rate < 0.01
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(model.parameters(), case.rate) if adam else torch.optim.SGD(model.parameters(), case.rate, 0.9)
    )
    for _ in range(STAGES[name]):
        inputs, labels = next(batches)
        optimizer.zero_grad()
        loss_of(labels)(model(inputs)).backward()
        optimizer.step()
    return model, next(batches)


def uniform(analysis: Analysis, bits: int, draws: int) -> tuple[Errors, list[str]]:
    """The best errors of uniform formats, of loss and gradient apart."""
    plans = [precc.PrecisionPlan(own) for own in formats_of_width(bits)]
    predicted = [Errors.predicted(analysis, plan) for plan in plans]
    chosen = {min(range(len(plans)), key=lambda k: getattr(predicted[k], what)) for what in ("loss", "gradient")}
    found = [Errors.measured(analysis, plans[k], draws) for k in sorted(chosen)]
    names = [str(plans[k].default) for k in sorted(chosen)]
    return Errors(min(own.loss for own in found), min(own.gradient for own in found)), names


def first_last_high(analysis: Analysis, bits: int, draws: int) -> Errors | None:
    """With the widest uniform format that bits are left for; None if there are none."""
    for width in range(bits, 3, -1):
        plans = [
            FirstLastHigh(precc.Uniform(own.format, scaling=own.scaling), "float16").assign(analysis)
            for own in formats_of_width(width)
        ]
        if plans[0].average_bits <= bits:
            return Errors.measured(
                analysis, min(plans, key=lambda own: Errors.predicted(analysis, own).gradient), draws
            )
    return None


def row(name: str, seed: int, bits: int, analysis: Analysis) -> dict[str, Any]:
    draws = DRAWS[name]
    policy = BitBudget(bits, candidates=[*CANDIDATES, *formats_of_width(bits)])
    plan = policy.assign(analysis)
    ours, predicted = Errors.measured(analysis, plan, draws), Errors.predicted(analysis, plan)
    best, formats = uniform(analysis, bits, draws)
    greedy = Errors.measured(analysis, replace(policy, solver=Greedy()).assign(analysis), draws)
    chance = [replace(policy, solver=RandomChoice(k)).assign(analysis) for k in range(RANDOM_PLANS)]
    drawn = [Errors.measured(analysis, own, RANDOM_DRAWS) for own in chance]
    high = first_last_high(analysis, bits, draws)
    others = {
        "uniform": best,
        "first and last high": high,
        "greedy": greedy,
        "random": Errors(*(statistics.median(getattr(own, what) for own in drawn) for what in ("loss", "gradient"))),
    }
    return {
        "net": name,
        "seed": seed,
        "bits": bits,
        "processor": environment()["machine"]["processor"],
        "average_bits": plan.average_bits,
        "uniform_formats": formats,
        "ours": vars(ours),
        "predicted": vars(predicted),
        **{what: None if own is None else vars(own) for what, own in others.items()},
        "factors": {
            what: None if own is None else {"loss": own.loss / ours.loss, "gradient": own.gradient / ours.gradient}
            for what, own in others.items()
        },
    }


def write(rows: list[dict[str, Any]]) -> None:
    """The rows, and the medians over seeds of how many times the errors of each other plan are ours."""
    summary: dict[str, Any] = {}
    for name in STAGES:
        for bits in BITS:
            own = [found["factors"] for found in rows if found["net"] == name and found["bits"] == bits]
            for other in own[0] if own else ():
                known = [found[other] for found in own if found[other] is not None]
                if known:
                    medians = {what: statistics.median(one[what] for one in known) for what in ("loss", "gradient")}
                    summary.setdefault(name, {}).setdefault(str(bits), {})[other] = medians
    order = sorted(rows, key=lambda own: (list(STAGES).index(own["net"]), own["seed"], own["bits"]))
    document = {"environment": environment(), "median_factors": summary, "rows": order}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list(STAGES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cifar", help="CIFAR-10 as .npz; default: MNIST in three channels")
    parser.add_argument("--again", action="store_true", help="measure rows that the file has already")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", precc.PrecisionWarning)  # of max-pooling's jumps, in each analysis
    torch.set_num_threads(1)
    known: list[dict[str, Any]] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() and not chosen.again else []
    done = {(own["net"], own["seed"], own["bits"]) for own in known}
    todo = [(name, seed) for name in chosen.model or STAGES for seed in range(chosen.seeds)]
    for name, seed in track(todo, description="nets"):
        left = [bits for bits in BITS if (name, seed, bits) not in done]
        if not left:
            continue
        model, (inputs, labels) = trained(name, seed, chosen.cifar)
        options = precc.AnalysisOptions(probes=PROBES)
        analysis = precc.compile(model, backend="reference").analyze(inputs, loss=loss_of(labels), options=options)
        for bits in left:
            known.append(row(name, seed, bits, analysis))
            write(known)


if __name__ == "__main__":
    main()
