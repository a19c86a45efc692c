"""Predicted errors of loss and gradient beside measured ones, for whole plans and for single slots.

Nets of five kinds at the start, in the middle and at the end of a training; formats of 2 to 10 stored significand bits
with wide exponents, and scaled e4m3, e5m2, e2m1 and MXFP4; in all slots, and in one slot at a time. Every case is
kept: ratios, the share of draws within the predicted interval of 95%, and rank correlations of the slots' shares beside
those of two halves of the measurement. Writes benchmarks/results/error_model.json. With ``--results`` what is rounded
are results in the place of operands, as they are stored, and error_model_results.json has the cases.

usage: python benchmarks/error_model.py [--model NAME] ... [--draws N] [--probes N] [--cifar FILE.npz] [--merge]
    [--results]
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.analysis.measurement import Draws
from precc.files import write_whole
from precc.models.gpt import GPT
from precc.models.lenet5 import LeNet5
from precc.models.lstm import LSTMLanguageModel
from precc.models.mnist import load_mnist
from precc.models.resnet20 import ResNet20
from precc.models.shakespeare import draw_windows, load_shakespeare

RESULT = Path(__file__).resolve().parent / "results" / "error_model.json"
BITS = (2, 3, 5, 7, 10)
SCALED = ("e4m3", "e5m2", "e2m1")
SLOT_FORMATS = ("e8m3", "e8m7")

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A net with its data, and how long it is trained."""

    make: Callable[[], nn.Module]
    batches: Callable[[int], Iterator[Batch]]  # of a size
    batch: int
    rate: float
    stages: tuple[int, ...]


def mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), activation(), nn.Linear(128, 64), activation(), nn.Linear(64, 10)
    )


def images(size: int, *, wide: bool = False, file: str | None = None) -> Iterator[Batch]:
    if file is not None:
        with np.load(file) as data:
            x, y = torch.from_numpy(data["x_train"]), torch.from_numpy(data["y_train"]).long().reshape(-1)
        x = x.float() / 255.0
        x = (x if x.shape[1] == 3 else x.permute(0, 3, 1, 2)) - 0.45
    else:
        data = load_mnist()
        x, y = data.train_images, data.train_labels
        if wide:
            x = F.pad(x, (2, 2, 2, 2)).expand(-1, 3, -1, -1)
    generator = torch.Generator().manual_seed(0)
    while True:
        chosen = torch.randint(len(x), (size,), generator=generator)
        yield x[chosen].contiguous(), y[chosen]


def text(size: int, length: int) -> Iterator[Batch]:
    tokens = load_shakespeare().train_tokens
    generator = torch.Generator().manual_seed(0)
    while True:
        windows = draw_windows(tokens, length + 1, size, generator)
        yield windows[:, :-1], windows[:, 1:]


def cases(cifar: str | None) -> dict[str, Case]:
    stages = (0, 150, 600)
    nets: dict[str, Case] = {
        f"mlp {name}": Case(lambda kind=kind: mlp(kind), images, 64, 0.05, stages)
        for name, kind in (("tanh", nn.Tanh), ("gelu", nn.GELU), ("relu", nn.ReLU))
    }
    nets["lenet5"] = Case(LeNet5, images, 64, 0.05, stages)
    nets["resnet20"] = Case(ResNet20, lambda size: images(size, wide=True, file=cifar), 32, 0.1, (0, 100, 400))
    nets["gpt"] = Case(GPT, lambda size: text(size, 128), 4, 1e-3, (0, 150, 600))
    nets["lstm"] = Case(LSTMLanguageModel, lambda size: text(size, 24), 8, 3e-3, (0, 150, 600))
    return nets


def loss_of(labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda output: F.cross_entropy(output.flatten(0, -2), labels.flatten())


def trained(case: Case) -> Iterator[tuple[int, nn.Module]]:
    """The net at each stage of its training."""
    torch.manual_seed(0)
    model = case.make()
    adam = case.rate < 0.01
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(model.parameters(), case.rate) if adam else torch.optim.SGD(model.parameters(), case.rate, 0.9)
    )
    batches = case.batches(case.batch)
    for step in range(case.stages[-1] + 1):
        if step in case.stages:
            yield step, model
        inputs, labels = next(batches)
        optimizer.zero_grad()
        loss_of(labels)(model(inputs)).backward()
        optimizer.step()


def plans(analysis: Analysis, most: int, results: bool) -> Iterator[tuple[str, str, precc.PrecisionPlan]]:
    """Name, slot ("" for all) and plan."""

    def everywhere(own: precc.Precision) -> precc.PrecisionPlan:
        return precc.PrecisionPlan("float32", default_result=own) if results else precc.PrecisionPlan(own)

    for bits in BITS:
        yield f"e8m{bits}", "", everywhere(precc.Precision(f"e8m{bits}"))
    for name in SCALED:
        yield f"{name} scaled", "", everywhere(precc.Precision(name, scaling="tensor"))
    yield "mxfp4", "", everywhere(precc.Precision("mxfp4"))
    slots = analysis.results if results else analysis.operands
    some = [slots[i * len(slots) // most] for i in range(most)] if len(slots) > most else slots
    for name in SLOT_FORMATS:
        for slot in some:
            yield name, slot, precc.PrecisionPlan("float32", {slot: name})


def compared(analysis: Analysis, plan: precc.PrecisionPlan, draws: int) -> dict[str, Any]:
    estimate = analysis.predict(plan)
    found = analysis.draws(plan, draws)
    measured = found.estimate
    inside = (found.loss - estimate.loss_mean).abs() <= 1.96 * estimate.loss if estimate.loss else None
    return {
        "predicted": [estimate.loss_mean, estimate.loss, estimate.gradient],
        "lost": estimate.lost,
        "measured": [measured.loss_mean, measured.loss, measured.gradient],
        "standard_error": [
            measured.standard_error.loss_mean,
            measured.standard_error.loss,
            measured.standard_error.gradient,
        ],
        "within_95": None if inside is None else float(inside.double().mean()),
        "halves": [_halves(found, slice(0, None, 2)), _halves(found, slice(1, None, 2))],
    }


def _halves(draws: Draws, half: slice) -> list[float]:
    return [float(draws.loss[half].square().mean().sqrt()), float(draws.gradient[half].square().mean().sqrt())]


def results_of(
    name: str, case: Case, draws: int, probes: int, most: int, results: bool = False
) -> list[dict[str, Any]]:
    found = []
    for stage, model in trained(case):
        net = precc.compile(model, backend="reference")
        inputs, labels = next(case.batches(case.batch))
        candidates = (precc.Precision("mxfp4"),)
        options = AnalysisOptions(probes=probes, candidates=candidates, results=results)
        analysis = net.analyze(inputs, loss=loss_of(labels), options=options)
        work = list(plans(analysis, most, results))
        for form, slot, plan in track(work, description=f"{name}, step {stage}"):
            entry = {"net": name, "stage": stage, "format": form, "slot": slot, "draws": draws, "probes": probes}
            found.append({**entry, **compared(analysis, plan, draws)})
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of these cases: shares of the ratios within 1.5 and 3, coverage, means, rank correlations."""
    told: dict[str, Any] = {"cases": len(rows)}
    for index, what in ((1, "loss deviation"), (2, "gradient")):
        ratios = [row["predicted"][index] / row["measured"][index] for row in rows if row["measured"][index] > 0]
        told[what] = _shares(ratios, 1.5, 3.0)
    clear = [row for row in rows if abs(row["measured"][0]) > 3 * row["standard_error"][0]]
    told["loss mean, where clear"] = _shares([row["predicted"][0] / row["measured"][0] for row in clear], 2.0)
    inside = [row["within_95"] for row in rows if row["within_95"] is not None]
    told["draws within the interval of 95%"] = statistics.fmean(inside) if inside else None
    told["rank correlation of slots"] = _ranks([row for row in rows if row["slot"]])
    return told


def _shares(ratios: list[float], *limits: float) -> dict[str, Any]:
    told: dict[str, Any] = {"n": len(ratios)}
    for limit in limits:
        told[f"within {limit:g}"] = (
            sum(1 / limit <= ratio <= limit for ratio in ratios) / len(ratios) if ratios else None
        )
    told["median"] = statistics.median(ratios) if ratios else None
    return told


def _ranks(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over nets, stages and formats, with that of two halves of the measurement as the ceiling."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["net"], row["stage"], row["format"]), []).append(row)
    told = {}
    for index, half, what in ((1, 0, "loss"), (2, 1, "gradient")):
        pairs = [
            [(r["predicted"][index], r["measured"][index]) for r in own if r["measured"][index]]
            for own in groups.values()
        ]
        ceilings = [
            [(r["halves"][0][half], r["halves"][1][half]) for r in own if r["measured"][index]]
            for own in groups.values()
        ]
        told[what] = {"predicted": _mean_rank(pairs), "ceiling": _mean_rank(ceilings)}
    return told


def _mean_rank(groups: list[list[tuple[float, float]]]) -> float | None:
    """Spearman's correlation, the mean over groups."""
    found = [float(np.corrcoef(np.argsort(np.argsort(np.array(own), 0), 0).T)[0, 1]) for own in groups if len(own) > 2]
    found = [own for own in found if not math.isnan(own)]
    return statistics.fmean(found) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--probes", type=int, default=AnalysisOptions().probes)
    parser.add_argument("--slots", type=int, default=24, help="the most slots of one net, measured one at a time")
    parser.add_argument("--cifar", help="images for resnet20, an .npz with x_train and y_train; else MNIST's")
    parser.add_argument("--merge", action="store_true", help="keep what the result has of other nets")
    parser.add_argument("--results", action="store_true", help="round results in the place of operands")
    options = parser.parse_args()
    file = RESULT.with_stem("error_model_results") if options.results else RESULT
    nets = cases(options.cifar)
    chosen = options.model or list(nets)
    rows = [
        row
        for name in chosen
        for row in results_of(name, nets[name], options.draws, options.probes, options.slots, options.results)
    ]
    if options.merge and file.exists():
        rows = [row for row in json.loads(file.read_text())["rows"] if row["net"] not in chosen] + rows
    write(rows, "CIFAR-10" if options.cifar else "MNIST", file)


def write(rows: list[dict[str, Any]], images_of_resnet: str, file: Path) -> None:
    whole = [row for row in rows if not row["slot"]]
    names, formats = dict.fromkeys(row["net"] for row in rows), dict.fromkeys(row["format"] for row in whole)
    told = {
        "all": summary(rows),
        "whole plans": summary(whole),
        "single slots": summary([r for r in rows if r["slot"]]),
    }
    told |= {name: summary([row for row in rows if row["net"] == name]) for name in names}
    told |= {form: summary([row for row in whole if row["format"] == form]) for form in formats}
    document = {
        **environment(),
        "setting": {"resnet20 images": images_of_resnet},
        "summary": told,
        "misses": misses(rows),
        "rows": rows,
    }
    write_whole(file, (json.dumps(document) + "\n").encode())
    print(json.dumps({"summary": told}, indent=1))


def misses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cases whose predicted deviation of the loss, or error of the gradient, is off by more than 1.5."""
    found = []
    for row in rows:
        for index, what in ((1, "loss deviation"), (2, "gradient")):
            measured = row["measured"][index]
            if measured > 0 and not 1 / 1.5 <= row["predicted"][index] / measured <= 1.5:
                entry = {key: row[key] for key in ("net", "stage", "format", "slot")}
                found.append({**entry, "what": what, "predicted over measured": row["predicted"][index] / measured})
    return found


if __name__ == "__main__":
    main()
