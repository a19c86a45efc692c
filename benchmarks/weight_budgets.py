"""Formats of weights alone at equal storage bits, measured: by Hessian traces, by importance, and by other means.

LeNet-5, trained a while from several seeds and then analysed on a batch; weights choose among integers of 2 to 8 bits
with one float32 scale a tensor, all else is float32. Beside `HessianBudget` and `ImportanceBudget` are precc's own
error model (`CostBudget` with the same bits as its cost, for the loss alone), the integer of that width everywhere, and
random plans of equal bits (the median of 20). Each plan has the root mean square of the loss error on the batch of the
analysis, as `Analysis.measure` draws it, and what the loss rises by on the 16 batches that come next, with the weights
rounded as they are. Writes benchmarks/results/weight_budgets.json, a row a net, seed and width, as soon as it has it.

usage: python benchmarks/weight_budgets.py [--seeds N] [--again]
"""

import argparse
import itertools
import json
import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from bit_budget import STAGES, trained
from environment import environment
from error_model import Batch, cases, loss_of
from rich.progress import track

import precc
from precc.analysis.analysis import Analysis
from precc.analysis.weight import weights_of
from precc.assignment.step_work import step_work
from precc.cost.cost_of_plan import cost_of
from precc.files import write_whole

RESULT = Path(__file__).resolve().parent / "results" / "weight_budgets.json"
NETS, BITS = ("lenet5",), (3, 4, 6)
CANDIDATES = ("int2", "int3", "int4", "int5", "int6", "int7", "int8")
DRAWS = {"lenet5": 24}
PROBES, RANDOM_PLANS, RANDOM_DRAWS, OTHER_BATCHES = 16, 20, 2, 16


@dataclass(frozen=True)
class Errors:
    """Root mean square of the loss error on the batch, and what the loss rises by on other batches."""

    loss: float
    rise: float


@dataclass(frozen=True)
class Trained:
    """A net with its analysis, and the batches that come next."""

    net: precc.PrecisionModule
    analysis: Analysis
    others: Sequence[Batch]

    @classmethod
    def of(cls, name: str, seed: int) -> "Trained":
        model, (inputs, labels) = trained(name, seed, None)
        case = cases(None)[name]
        batches = case.batches(case.batch)
        for _ in range(STAGES[name] * (seed + 1) + 1):
            next(batches)  # those that it has seen, and the one of the analysis
        net = precc.compile(model, backend="reference")
        analysis = net.analyze(inputs, loss=loss_of(labels), options=precc.AnalysisOptions(probes=PROBES))
        return cls(net, analysis, [next(batches) for _ in range(OTHER_BATCHES)])

    def loss_under(self, plan: precc.PrecisionPlan) -> float:
        """Mean loss on the other batches."""
        self.net.set_plan(plan)
        with torch.no_grad():
            return statistics.mean(float(loss_of(labels)(self.net(inputs))) for inputs, labels in self.others)

    def errors(self, plan: precc.PrecisionPlan, draws: int) -> Errors:
        found = self.analysis.measure(plan, draws)
        rise = self.loss_under(plan) - self.loss_under(precc.PrecisionPlan("float32"))
        return Errors(math.hypot(found.loss, found.loss_mean), rise)


def by_error_model(analysis: Analysis, bits: int) -> precc.PrecisionPlan:
    """The least loss error by precc's own prediction, of the same candidates at the same bits."""
    weight_bits = precc.WeightBits.of(step_work(analysis).tensors)
    rules = [precc.Rule(operand="[!w]*", keep="float32")]
    policy = precc.CostBudget(bits, candidates=CANDIDATES, share="tensor", inference=True, lost=1.0)
    return policy.assign(analysis, cost=weight_bits, rules=rules)


def uniform(analysis: Analysis, bits: int) -> precc.PrecisionPlan:
    return precc.PrecisionPlan("float32", {own.name: precc.scaled(f"int{bits}") for own in weights_of(analysis)})


def row(name: str, seed: int, bits: int, own: Trained) -> dict[str, Any]:
    analysis = own.analysis
    plans = {
        "hessian": precc.HessianBudget(bits, candidates=CANDIDATES).assign(analysis),
        "importance": precc.ImportanceBudget(bits, candidates=CANDIDATES).assign(analysis),
        "error model": by_error_model(analysis, bits),
        "uniform": uniform(analysis, bits),
    }
    found = {policy: own.errors(plan, DRAWS[name]) for policy, plan in plans.items()}
    chance = [
        precc.HessianBudget(bits, candidates=CANDIDATES, solver=precc.RandomChoice(k)).assign(analysis)
        for k in range(RANDOM_PLANS)
    ]
    drawn = [own.errors(plan, RANDOM_DRAWS) for plan in chance]
    found["random"] = Errors(*(statistics.median(getattr(one, what) for one in drawn) for what in ("loss", "rise")))
    work, model = step_work(analysis), precc.WeightBits.of(step_work(analysis).tensors)
    return {
        "net": name,
        "seed": seed,
        "bits": bits,
        "loss": own.loss_under(precc.PrecisionPlan("float32")),
        "errors": {policy: asdict(one) for policy, one in found.items()},
        "average_bits": {policy: cost_of(plan, work, model).value for policy, plan in plans.items()},
        "formats": {
            policy: {one.name: plan.precision(one.name).format.name for one in weights_of(analysis)}
            for policy, plan in plans.items()
        },
        "traces": {one.name: asdict(one.trace) for one in weights_of(analysis)},
        "importances": {one.name: one.importance for one in weights_of(analysis)},
    }


def write(rows: list[dict[str, Any]]) -> None:
    """The rows, and medians over seeds."""
    summary: dict[str, Any] = {}
    for name, bits in itertools.product(NETS, BITS):
        own = [found["errors"] for found in rows if found["net"] == name and found["bits"] == bits]
        for policy in own[0] if own else ():
            medians = {what: statistics.median(one[policy][what] for one in own) for what in ("loss", "rise")}
            summary.setdefault(name, {}).setdefault(str(bits), {})[policy] = medians
    document = {
        "environment": environment(),
        "medians": summary,
        "rows": sorted(rows, key=lambda own: (NETS.index(own["net"]), own["seed"], own["bits"])),
    }
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="measure rows that the file has already")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", precc.PrecisionWarning)  # of max-pooling's jumps, in each analysis
    torch.set_num_threads(1)
    known: list[dict[str, Any]] = json.loads(RESULT.read_text())["rows"] if RESULT.exists() and not chosen.again else []
    done = {(own["net"], own["seed"], own["bits"]) for own in known}
    todo = [(name, seed) for name in NETS for seed in range(chosen.seeds)]
    for name, seed in track(todo, description="nets"):
        left = [bits for bits in BITS if (name, seed, bits) not in done]
        if not left:
            continue
        own = Trained.of(name, seed)
        for bits in left:
            known.append(row(name, seed, bits, own))
            write(known)


if __name__ == "__main__":
    main()
