"""LeNet-5 on MNIST: TrustRegion with dynamic precision against fp32 SGD, and its controls. Several minutes.

Writes benchmarks/results/trust_region_lenet5.json. Controls: fp32 SGD at five learning rates, plain and with the same
momentum; the same trust region in one format from beginning to end; and in random plans of equal cost, whose formats
are drawn for each product in the shares that the dynamic run's levels had.

usage: python benchmarks/trust_region_lenet5.py [--data DIR] [--seeds N] [--epochs N]
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from environment import environment
from rich.progress import Progress

import precc
from precc.demo import BATCH, EPOCHS, MOMENTUM, accuracy, train_sgd, train_trust_region
from precc.files import write_whole
from precc.models.mnist import Mnist, load_mnist

LEARNING_RATES = (0.01, 0.03, 0.1, 0.2, 0.3)
FORMATS = ("e4m3", "e5m10", "float32")
RESULT = Path(__file__).resolve().parent / "results" / "trust_region_lenet5.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    chosen = parser.parse_args()
    mnist = load_mnist(chosen.data)
    runs: list[dict[str, Any]] = []
    with Progress() as progress:
        task = progress.add_task("runs", total=chosen.seeds * (2 * len(LEARNING_RATES) + len(FORMATS) + 2))
        for seed in range(chosen.seeds):
            for record in one_seed(mnist, seed, chosen.epochs):
                runs.append({"seed": seed, **record})
                progress.console.print(runs[-1])
                progress.advance(task)
    document = {
        **environment(),
        "setting": {"images": len(mnist.train_labels), "batch": BATCH, "epochs": chosen.epochs, "momentum": MOMENTUM},
        "summary": summary(runs),
        "runs": runs,
    }
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    print(json.dumps(document["summary"], indent=1))


def one_seed(mnist: Mnist, seed: int, epochs: int) -> Any:
    """The records of all runs from one start."""
    for momentum in (0.0, MOMENTUM):
        for rate in LEARNING_RATES:
            model = train_sgd(mnist, epochs=epochs, seed=seed, learning_rate=rate, momentum=momentum)
            yield {"run": f"sgd, momentum {momentum}", "learning_rate": rate, "accuracy": accuracy(model, mnist)}
    dynamic = trust_region(mnist, seed, epochs, "trust region, dynamic", FORMATS)
    yield dynamic
    for name in FORMATS:
        yield trust_region(mnist, seed, epochs, f"trust region, {name} only", [name])
    plan = random_plan(mnist, seed, dynamic["shares"])
    yield trust_region(mnist, seed, epochs, "trust region, random plan of equal cost", [plan])


def trust_region(mnist: Mnist, seed: int, epochs: int, name: str, levels: Any) -> dict[str, Any]:
    start = time.perf_counter()
    net = train_trust_region(mnist, epochs=epochs, seed=seed, levels=tuple(levels))
    seconds = time.perf_counter() - start
    work = net.precision_state()["multiply_adds"]
    return {
        "run": name,
        "accuracy": accuracy(net, mnist),
        "shares": {label: part / sum(work.values()) for label, part in sorted(work.items())},
        "below_float32": 1 - sum(part for label, part in work.items() if "float32" in label) / sum(work.values()),
        "events": net.precision_state()["events"],
        "compilations": net.compilations,
        "seconds": seconds,
    }


def random_plan(mnist: Mnist, seed: int, shares: dict[str, float]) -> precc.PrecisionPlan:
    """A format drawn for each product in the shares that the levels had; of many draws, that of the same average bits.

    float32 is left out of the shares: the levels did not reach it, it is the arithmetic of the evaluations.
    """
    probe = train_trust_region(mnist, epochs=1, seed=seed, backend="reference", evaluate_every=10**9)
    precisions = {name: precc.Uniform(name).assign().default for name in shares if name != "float32"}
    weights = [shares[name] for name in precisions]
    wanted = sum(shares[name] * own.format.bits for name, own in precisions.items()) / sum(weights)
    draw = random.Random(seed)
    products = sorted({slot.rpartition(".")[0] for slot in probe.plan.slots})
    plans = []
    for _ in range(1000):
        chosen = {product: draw.choices(list(precisions.values()), weights)[0] for product in products}
        slots = {slot: chosen[slot.rpartition(".")[0]] for slot in probe.plan.slots}
        plans.append(precc.PrecisionPlan(probe.plan.default, slots, probe.plan.multiply_adds))
    return min(plans, key=lambda plan: abs(plan.average_bits - wanted))


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy by run over the seeds; for SGD that of each seed's best learning rate."""
    by_run: dict[str, dict[int, float]] = {}
    for record in runs:
        best = by_run.setdefault(record["run"], {})
        best[record["seed"]] = max(best.get(record["seed"], 0.0), record["accuracy"])
    return {
        name: {"mean": statistics.fmean(best.values()), "each": list(best.values())} for name, best in by_run.items()
    }


if __name__ == "__main__":
    main()
