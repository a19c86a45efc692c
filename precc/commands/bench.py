"""``precc bench``: what a training step costs under precc, beside the same step in eager fp32 and by torch.compile."""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from precc.api import compile
from precc.commands.arguments import count
from precc.commands.command import Command
from precc.commands.factories import add_factory, task_of
from precc.commands.machine import machine
from precc.commands.output import Bar, progress, say
from precc.commands.steps import add_plan, learn, plan_of, with_loss
from precc.errors import BackendError, CaptureError
from precc.module import PrecisionModule
from precc.task import Task

__all__ = ["BENCH", "Benched"]

_EAGER, _COMPILED, _PRECC = "eager", "torch.compile", "precc"
_VARIANTS = (_EAGER, _COMPILED, _PRECC)

#: Steps before those that are timed, and before memory is read.
_WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Benched:
    """One variant.

    Args:
        first: seconds of the first step, in which graphs are compiled.
        median: seconds of a later step.
        ratio: median of the ratios to the first variant within a round.
        memory: peak bytes: of the GPU's memory, or of a process of its own; None if it was not measured.
    """

    first: float
    median: float
    ratio: float
    memory: int | None = None


def _add(parser: argparse.ArgumentParser) -> None:
    add_factory(parser)
    add_plan(parser, "no rounding, with live slots")
    parser.add_argument("--backend", default="auto", help="of precc: auto, inductor, cpp or reference (default: auto)")
    parser.add_argument("--rounds", type=count, default=20, help="in which each variant has a turn (default: 20)")
    parser.add_argument(
        "--variant", choices=_VARIANTS, action="append", help="may be repeated; the first is what others are beside"
    )
    parser.add_argument(
        "--no-memory", dest="memory", action="store_false", help="leave out the processes that are run for peak memory"
    )
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)


def _run(chosen: argparse.Namespace) -> int:
    variants = tuple(dict.fromkeys(chosen.variant or _VARIANTS))
    if chosen.alone:
        print(_peak(chosen, variants[0]))
        return 0
    task = _plain(task_of(chosen))
    with progress(chosen, len(variants) * (1 + chosen.memory) + chosen.rounds) as bar:
        found = _benched(bar, chosen, task, variants)
    own = machine("cuda" if _on_gpu(task) else "cpu")
    say(chosen, {**_document(chosen, found), "machine": own}, _heading(own), _table(found), *_about(chosen, found))
    return 0


def _plain(task: Task) -> Task:
    if isinstance(task.module, PrecisionModule):
        raise CaptureError("bench compiles the model itself, beside others: give it the model, not a net of precc")
    return with_loss(task)


def _benched(bar: Bar, chosen: argparse.Namespace, task: Task, variants: tuple[str, ...]) -> Mapping[str, Benched]:
    tasks, first = {}, {}
    for name in variants:
        bar.at(f"compiling {name}")
        tasks[name] = task.on(_made(chosen, name, copy.deepcopy(task.module)))
        first[name] = _seconds(partial(learn, tasks[name]))
        bar.advance()
    medians, ratios = _turns(bar, {name: partial(learn, own) for name, own in tasks.items()}, chosen.rounds)
    memory = _memory(bar, chosen, task, variants) if chosen.memory else {}
    return {name: Benched(first[name], medians[name], ratios[name], memory.get(name)) for name in variants}


def _made(chosen: argparse.Namespace, name: str, model: nn.Module) -> nn.Module:
    if name == _EAGER:
        return model
    if name == _COMPILED:
        compiled: nn.Module = torch.compile(model)  # type: ignore[assignment]
        return compiled
    return compile(model, plan=None if chosen.plan is None else plan_of(chosen.plan), backend=chosen.backend)


def _turns(
    bar: Bar, steps: Mapping[str, Callable[[], object]], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds, and median ratios to the first: all take turns, as what else a machine does falls on all."""
    bar.at("timing")
    for step in steps.values():
        for _ in range(_WARM_UP):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(_seconds(step))
        bar.advance()
    base = next(iter(times.values()))
    ratios = {name: [a / b for a, b in zip(own, base, strict=True)] for name, own in times.items()}
    return ({name: statistics.median(own) for name, own in one.items()} for one in (times, ratios))  # type: ignore[return-value]


def _seconds(step: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    step()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _on_gpu(task: Task) -> bool:
    return any(own.is_cuda for own in task.module.parameters())


def _memory(bar: Bar, chosen: argparse.Namespace, task: Task, variants: tuple[str, ...]) -> dict[str, int]:
    """Peak bytes, each in a process of its own: what others have allocated is in no number."""
    found = {}
    for name in variants:
        bar.at(f"memory of {name}")
        found[name] = _alone(chosen, name)
        bar.advance()
    return found


def _alone(chosen: argparse.Namespace, name: str) -> int:
    plan = [] if chosen.plan is None else ["--plan", chosen.plan]
    weights = [] if chosen.weights is None else ["--weights", chosen.weights]
    own = ["--variant", name, "--backend", chosen.backend, "--seed", str(chosen.seed), *plan, *weights, "--alone"]
    command = [sys.executable, "-m", "precc", "bench", chosen.model, *own]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip() or "it said nothing").splitlines()[-1]
        raise BackendError(f"the process for the memory of {name} ended with {ended.returncode}: {last}")
    return int(json.loads(ended.stdout.splitlines()[-1]))


def _peak(chosen: argparse.Namespace, name: str) -> int:
    """Of this process, or of the GPU, after some steps of one variant."""
    task = _plain(task_of(chosen))
    own = task.on(_made(chosen, name, task.module))
    for _ in range(1 + _WARM_UP):
        learn(own)
    if _on_gpu(task):
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would begin with the parent's peak
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def _heading(own: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in own["versions"].items())
    device = own["device"].removesuffix("s") if own["threads"] == 1 else own["device"]
    return f"forward and backward on {device} ({own['system']}; {versions})"


def _about(chosen: argparse.Namespace, found: Mapping[str, Benched]) -> list[str]:
    """What the numbers are of."""
    plan = "no rounding, with live slots" if chosen.plan is None else f"the plan {chosen.plan}"
    own = [f"{_PRECC}: {plan}, by the backend {chosen.backend}"] * (_PRECC in found)
    return [*own, "first step: with compiling, and with the compilers' caches as they are"]


def _table(found: Mapping[str, Benched]) -> Table:
    first = next(iter(found))
    table = Table(box=None, pad_edge=False)
    for heading in ("", "first step", "median step", f"beside {first}", "peak memory"):
        table.add_column(heading, overflow="fold", justify="left" if not heading else "right")
    for name, own in found.items():
        memory = "" if own.memory is None else f"{own.memory / 2**20:,.0f} MiB"
        table.add_row(name, f"{own.first:.3g} s", f"{1e3 * own.median:.4g} ms", f"{own.ratio:.3g}", memory)
    return table


def _document(chosen: argparse.Namespace, found: Mapping[str, Benched]) -> dict[str, Any]:
    setting = {"model": chosen.model, "plan": chosen.plan, "backend": chosen.backend, "rounds": chosen.rounds}
    units = {"first": "s", "median": "s", "ratio": f"to {next(iter(found))}", "memory": "bytes"}
    return {"setting": setting, "units": units, "variants": {name: asdict(own) for name, own in found.items()}}


BENCH = Command(
    "bench",
    "time a training step in eager fp32, by torch.compile and by precc, in turns, with peak memory",
    "example: precc bench net.py:factory --plan e4m3 --rounds 50. The first step compiles, with the caches as they "
    "are. Memory is of a process each, which compiles again",
    _add,
    _run,
)
