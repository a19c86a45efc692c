"""The gates of TrustRegion, STORM and MPSGD on a quadratic and on logistic regression. Five to ten minutes on a core.

Writes benchmarks/results/gate.json. The objectives are full-batch: least squares of 200 examples in 20 dimensions
(condition number of the Hessian 100), and logistic regression on 500 images of the MNIST subset. (a) Their losses are
exact but for bounded noise, ``epsilon * uniform(-1, 1)`` on each evaluation, with gradients that are exact; levels have
1e-2, 1e-4 and 0 of the first loss. (b) They are nets in emulated formats, with levels e4m3, e5m10, float32. A
violation is an accepted step that did not lower the true loss, which is evaluated in float64. In (c) MPSGD trains the
least squares on batches of 20, in its strict form.

usage: python benchmarks/gate.py [--seeds N] [--steps N]
"""

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from environment import environment
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

import precc
from precc.control.trust_region_rule import Decision, Observation, TrustRegionRule
from precc.files import write_whole
from precc.models.mnist import load_mnist

RESULT = Path(__file__).resolve().parent / "results" / "gate.json"
NOISE = (1e-2, 1e-4, 0.0)  # of the first loss
LEVELS = ("e4m3", "e5m10", "float32")
GATES: dict[str, dict[str, Any]] = {
    "source": {},
    "source, both points": {"points": "both"},
    "difference": {"gate": "difference"},
    "no gate": {"levels": LEVELS[:1]},
    "float32": {"levels": LEVELS[2:]},
}
ETAS = (0.003, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Problem:
    """A model, its full batch, and the loss of an output."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]

    def true(self, model: nn.Module) -> tuple[float, list[Tensor]]:
        """Loss and gradient in float64."""
        exact = copy.deepcopy(model).double()
        loss = self.loss(exact(self.x.double()), self.y.double() if self.y.is_floating_point() else self.y)
        return loss.item(), list(torch.autograd.grad(loss, list(exact.parameters())))


def quadratic(seed: int) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(200, 20, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))
    x = math.sqrt(200) * left @ torch.diag(torch.logspace(0, -1, 20, dtype=torch.float64)) @ right
    y = x @ torch.randn(20, 1, generator=generator, dtype=torch.float64)
    y += 0.5 * torch.randn(200, 1, generator=generator, dtype=torch.float64)
    model = nn.Linear(20, 1, bias=False)
    nn.init.zeros_(model.weight)
    return Problem("quadratic", model, x.float(), y.float(), lambda out, y: 0.5 * (out - y).square().mean())


def logistic(seed: int) -> Problem:
    mnist = load_mnist()
    chosen = torch.randperm(len(mnist.train_labels), generator=torch.Generator().manual_seed(seed))[:500]
    torch.manual_seed(seed)
    images = mnist.train_images[chosen].flatten(1)
    return Problem("logistic", nn.Linear(784, 10), images, mnist.train_labels[chosen], F.cross_entropy)


def norm(gradient: list[Tensor]) -> float:
    return math.sqrt(sum(own.square().sum().item() for own in gradient))


def noisy(problem: Problem, seed: int, steps: int, *, gated: bool) -> dict[str, Any]:
    """Bounded noise: the rule alone, on levels whose epsilon is declared."""
    generator = torch.Generator().manual_seed(1000 + seed)
    model = copy.deepcopy(problem.model).double()
    loss, gradient = problem.true(model)
    epsilons = [share * loss for share in (NOISE if gated else NOISE[:1])]
    rule = TrustRegionRule(radius=0.1, levels=len(epsilons))
    state, accepted, violations, coarse = rule.init(), 0, 0, 0
    norms = [norm(gradient)]

    def measured(exact: float, level: int) -> float:
        return exact + epsilons[level] * (2.0 * torch.rand((), generator=generator).item() - 1.0)

    for _ in range(steps):
        length = norm(gradient)
        predicted = state.radius * length
        here = Observation(predicted, epsilons[state.level])
        decision, state = rule.step(here, state)
        while decision is Decision.REFINE:
            here = Observation(predicted, epsilons[state.level])
            decision, state = rule.step(here, state)
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for own, towards in zip(moved.parameters(), gradient, strict=True):
                own.sub_(towards * (state.radius / length))
        ahead, turned = problem.true(moved)
        actual = measured(loss, state.level) - measured(ahead, state.level)
        decision, state = rule.step(Observation(predicted, here.epsilon, actual), state)
        if decision is Decision.ACCEPT:
            accepted += 1
            violations += ahead >= loss
            coarse += epsilons[state.level] > 0
            model, loss, gradient = moved, ahead, turned
            norms.append(norm(gradient))
    return record(accepted, violations, coarse, norms)


def rounded(problem: Problem, steps: int, options: dict[str, Any], kind: str = "TrustRegion") -> dict[str, Any]:
    """Emulated formats: the optimizer on a net."""
    model = copy.deepcopy(problem.model)
    net = precc.compile(model, backend="reference")
    levels = options.get("levels", LEVELS)
    opt = getattr(precc, kind)(net, **{"levels": levels, **options})
    loss, gradient = problem.true(model)
    accepted = violations = coarse = 0
    norms = [norm(gradient)]
    for _ in range(steps):
        before = opt.events["accept"]
        opt.step(lambda: problem.loss(net(problem.x), problem.y))
        if opt.events["accept"] > before:
            ahead, gradient = problem.true(model)
            accepted += 1
            violations += ahead >= loss
            coarse += levels[opt.level] != "float32"
            loss = ahead
            norms.append(norm(gradient))
    return record(accepted, violations, coarse, norms)


def record(accepted: int, violations: int, coarse: int, gradients: list[float]) -> dict[str, Any]:
    return {
        "accepted": accepted,
        "violations": violations,
        "share_of_violations": violations / max(accepted, 1),
        "share_of_coarse": coarse / max(accepted, 1),
        "gradient_norm": gradients[-1],
        "least_gradient_norm": min(gradients),
    }


def mpsgd(problem: Problem, seed: int, steps: int, eta: float | None) -> dict[str, Any]:
    """Strict MPSGD with batches of 20; without an eta all steps in e4m3."""
    model = copy.deepcopy(problem.model)
    net = precc.compile(model, backend="reference")
    hessian = problem.x.double().T @ problem.x.double() / len(problem.x)
    lipschitz = float(torch.linalg.eigvalsh(hessian)[-1])
    rate = 0.1 / lipschitz
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    levels = LEVELS[:1] if eta is None else LEVELS
    ctl = precc.MPSGD(net, optimizer, eta=eta or 0.5, levels=levels, lipschitz=False)
    generator = torch.Generator().manual_seed(seed)
    squares, variances, first = [], [], problem.true(model)[0]
    for _ in range(steps):
        _, (full,) = problem.true(model)
        rows = torch.randperm(len(problem.x), generator=generator)[:20]
        x, y = problem.x[rows], problem.y[rows]
        optimizer.zero_grad()
        loss = ctl.backward(lambda x=x, y=y: problem.loss(net(x), y))
        squares.append(full.square().sum().item())
        part = Problem("", model, x, y, problem.loss).true(model)[1][0]
        variances.append((part - full).square().sum().item())
        optimizer.step()
        ctl.step(loss)
    sigma = statistics.fmean(variances)
    found = {
        "eta": eta,
        "share_of_coarse": sum(ctl.share_of_levels[:-1]) if eta is not None else 1.0,
        "mean_gradient_square": statistics.fmean(squares),
        "last_gradient_square": statistics.fmean(squares[-steps // 4 :]),
        "noise": sigma,
    }
    if eta is None:
        return found
    weight = 2 * (1 - eta) * rate - lipschitz * rate**2
    gap = first - problem.true(_minimum(problem))[0]
    bound = (2 * gap / steps + lipschitz * sigma * rate**2 + 2 * eta * sigma * rate) / weight
    return {**found, "floor": eta * sigma / (1 - eta), "bound": bound}


def _minimum(problem: Problem) -> nn.Module:
    model = copy.deepcopy(problem.model)
    found = torch.linalg.lstsq(problem.x.double(), problem.y.double()).solution
    with torch.no_grad():
        next(model.parameters()).copy_(found.T)
    return model


def measurements(seeds: int, steps: int) -> Iterator[dict[str, Any]]:
    """The records of all runs."""
    for seed in track(range(seeds), "seeds"):
        for problem in (quadratic(seed), logistic(seed)):
            names = {"problem": problem.name, "seed": seed}
            for gated in (True, False):
                run = {"part": "a", "run": "gate" if gated else "no gate"}
                yield {**names, **run, **noisy(problem, seed, steps, gated=gated)}
            for name, options in GATES.items():
                yield {**names, "part": "b", "run": name, **rounded(problem, steps, options)}
            for name, options in (("STORM", {}), ("STORM, float32", {"levels": LEVELS[2:]})):
                yield {**names, "part": "b", "run": name, **rounded(problem, steps, options, "STORM")}
        names = {"problem": "quadratic", "seed": seed, "part": "c", "run": "MPSGD"}
        for eta in (None, *ETAS):
            yield {**names, **mpsgd(quadratic(seed), seed, 2 * steps, eta)}


def rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was wanted, and what was measured, over all seeds."""
    found = []

    def add(name: str, wanted: str, measured: float, met: bool) -> None:
        found.append({"name": name, "wanted": wanted, "measured": measured, "met": met})

    def total(chosen: list[dict[str, Any]], key: str) -> float:
        return sum(run[key] for run in chosen) / max(sum(run["accepted"] for run in chosen), 1)

    def of(part: str, problem: str, run: str) -> list[dict[str, Any]]:
        return [own for own in runs if (own["part"], own["problem"], own["run"]) == (part, problem, run)]

    for problem in ("quadratic", "logistic"):
        share = total(of("a", problem, "gate"), "violations")
        add(f"{problem}, bounded noise, gate: violations", "0", share, share == 0.0)
        share = total(of("a", problem, "no gate"), "violations")
        add(f"{problem}, bounded noise, no gate: violations", ">= 0.05", share, share >= 0.05)
        for run in ("source", "source, both points", "difference", "STORM", "no gate"):
            own = of("b", problem, run)
            name = f"{problem}, rounding, {run}"
            share = total(own, "violations")
            wanted, met = (">= 0.05", share >= 0.05) if run == "no gate" else ("0", share == 0.0)
            add(f"{name}: violations", wanted, share, met)
            if run == "no gate":
                continue
            coarse = sum(one["share_of_coarse"] * one["accepted"] for one in own) / sum(one["accepted"] for one in own)
            add(f"{name}: accepted steps below float32", ">= 0.3", coarse, coarse >= 0.3)
            alone = of("b", problem, "STORM, float32" if run == "STORM" else "float32")
            for key, what in (("gradient_norm", "final"), ("least_gradient_norm", "least")):
                worst = max(one[key] / exact[key] for one, exact in zip(own, alone, strict=True))
                add(f"{name}: {what} gradient norm over float32's, worst seed", "<= 2", worst, worst <= 2)
    by_eta = {eta: [own for own in runs if own["part"] == "c" and own["eta"] == eta] for eta in (None, *ETAS)}
    shares = [statistics.fmean(own["share_of_coarse"] for own in by_eta[eta]) for eta in ETAS]
    for eta, share in zip(ETAS, shares, strict=True):
        bound = statistics.fmean(own["bound"] for own in by_eta[eta])
        ratio = statistics.fmean(own["mean_gradient_square"] for own in by_eta[eta]) / bound
        add(f"MPSGD, eta {eta}: mean ||grad f||**2 over its bound, with the floor", "<= 1", ratio, ratio <= 1)
        add(f"MPSGD, eta {eta}: steps below float32", "rising with eta", share, shares == sorted(shares))
    last = {eta: statistics.fmean(own["last_gradient_square"] for own in by_eta[eta]) for eta in by_eta}
    stalled = last[None] / last[ETAS[0]]
    add("MPSGD, all steps in e4m3: last ||grad f||**2 over that of the smallest eta", "> 1", stalled, stalled > 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    chosen = parser.parse_args()
    start = time.perf_counter()
    runs = list(measurements(chosen.seeds, chosen.steps))
    document = {
        **environment(),
        "setting": {"seeds": chosen.seeds, "steps": chosen.steps, "levels": LEVELS, "noise": NOISE, "etas": ETAS},
        "seconds": time.perf_counter() - start,
        "summary": rows(runs),
        "runs": runs,
    }
    write_whole(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    for row in document["summary"]:
        print("met   " if row["met"] else "MISSED", f"{row['name']}: {row['measured']:.4g}, wanted {row['wanted']}")


if __name__ == "__main__":
    main()
