"""What a step keeps in memory if results are stored in formats of their own, at the error of bfloat16 throughout.

LeNet-5, ResNet-20 and a GPT, each trained a while from several seeds and then analysed with results. The limits are the
errors that bfloat16 in all operands and results is predicted to make. Beside that plan stand float32, the best scaled
format of 8 bits everywhere, the cheapest plan by `Memory` within the limits with results as tensors have them, the one
that chooses results too, and random plans of its cost. All are measured. Writes benchmarks/results/stored_results.json,
a row a net and seed, as soon as it has it.

usage: python benchmarks/stored_results.py [--model NAME] ... [--seeds N] [--cifar FILE.npz]
"""

import argparse
import json
import math
import statistics
import warnings
from pathlib import Path
from typing import Any

from bit_budget import DRAWS, STAGES, Errors, trained
from environment import environment
from error_model import loss_of
from rich.progress import track

import precc
from precc.analysis.analysis import Analysis
from precc.assignment.greedy import RandomChoice
from precc.assignment.step_work import step_work
from precc.cost.cost_of_plan import cost_of
from precc.cost.memory import Memory
from precc.files import write_whole
from precc.policies.cost_budget import CostBudget
from precc.policies.error_budget import ErrorBudget
from precc.policies.uniform_errors import formats_of_width

RESULT = Path(__file__).resolve().parent / "results" / "stored_results.json"
PROBES, RANDOM_PLANS, RANDOM_DRAWS = 8, 10, 2
#: Of the optimizer and the master weights, which no plan changes, nothing is counted.
COST = Memory(master=0.0, optimizer_state=0.0)


def everywhere(precision: Any) -> precc.PrecisionPlan:
    return precc.PrecisionPlan(precision, default_result=precision)


def plans_of(analysis: Analysis) -> dict[str, precc.PrecisionPlan]:
    bfloat16 = everywhere("bfloat16")
    known = analysis.predict(bfloat16)
    limits = {"loss": math.hypot(known.loss, known.loss_mean), "gradient": known.gradient}
    narrow = [everywhere(own) for own in formats_of_width(8)]
    return {
        "float32": everywhere("float32"),
        "bfloat16": bfloat16,
        "best of 8 bits": min(narrow, key=lambda own: analysis.predict(own).gradient),
        "operands chosen": ErrorBudget(**limits).assign(analysis, cost=COST),
        "results chosen": ErrorBudget(**limits, results=True).assign(analysis, cost=COST),
        "results chosen, shared": ErrorBudget(**limits, results=True, share="tensor").assign(analysis, cost=COST),
    }


def row(name: str, seed: int, analysis: Analysis) -> dict[str, Any]:
    work, draws, plans = step_work(analysis), DRAWS[name], plans_of(analysis)
    found = {}
    for label, plan in plans.items():
        found[label] = {
            "bytes": cost_of(plan, work, COST).value,
            "predicted": vars(Errors.predicted(analysis, plan)),
            "measured": vars(Errors.measured(analysis, plan, draws)),
        }
    limit = found["results chosen"]["bytes"]
    chance = [
        CostBudget(limit, results=True, solver=RandomChoice(k)).assign(analysis, cost=COST) for k in range(RANDOM_PLANS)
    ]
    drawn = [Errors.measured(analysis, own, RANDOM_DRAWS) for own in chance]
    median = {what: statistics.median(getattr(own, what) for own in drawn) for what in ("loss", "gradient")}
    found["random"] = {"bytes": limit, "predicted": None, "measured": median}
    return {
        "net": name,
        "seed": seed,
        "slots": len(analysis.operands),
        "results": len(analysis.results),
        "plans": found,
    }


def write(rows: list[dict[str, Any]]) -> None:
    """The rows, and medians over seeds relative to bfloat16 throughout."""
    summary: dict[str, Any] = {}
    for net in dict.fromkeys(own["net"] for own in rows):
        own_rows = [own["plans"] for own in rows if own["net"] == net]
        summary[net] = {
            label: {
                "seeds": len(own_rows),
                "bytes": statistics.median(own[label]["bytes"] / own["bfloat16"]["bytes"] for own in own_rows),
                **{
                    what: statistics.median(
                        own[label]["measured"][what] / own["bfloat16"]["measured"][what] for own in own_rows
                    )
                    for what in ("loss", "gradient")
                },
            }
            for label in own_rows[0]
        }
    document = {"environment": environment(), "probes": PROBES, "relative to bfloat16": summary, "rows": rows}
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list(STAGES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cifar")
    options = parser.parse_args()
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    wanted = [(name, seed) for name in options.model or STAGES for seed in range(options.seeds)]
    for name, seed in track(wanted, "nets and seeds"):
        if any((own["net"], own["seed"]) == (name, seed) for own in rows):
            continue
        model, (inputs, labels) = trained(name, seed, options.cifar)
        net = precc.compile(model, backend="reference")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", precc.PrecisionWarning)
            analysis = net.analyze(
                inputs, loss=loss_of(labels), options=precc.AnalysisOptions(probes=PROBES, results=True)
            )
        rows.append(row(name, seed, analysis))
        write(rows)


if __name__ == "__main__":
    main()
