"""Measure a device: the figures of its roofline."""

import datetime
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from precc.devices.at_hand import device_at_hand
from precc.devices.figures import DeviceFigures
from precc.devices.fit import fit_roofline
from precc.devices.timed_work import TimedWork
from precc.devices.workloads import SIZES, Sizes, Workload, workloads
from precc.errors import PlanError

__all__ = ["calibrate", "measure"]

#: Seconds that a work is repeated for in one turn, and how often at most: what is shorter drowns in the clock.
_TURN, _MOST = 5e-3, 1000


@dataclass(slots=True, eq=False)
class _Prepared:
    work: Workload
    run: Callable[[], object]
    repeats: int
    seconds: list[float] = field(default_factory=list)


def calibrate(
    device: str | None = None, *, seconds: float = 60.0, sizes: Sizes | None = None, progress: bool = False
) -> DeviceFigures:
    """Time products, casts and the smallest kernel on a device of this machine, and fit a roofline to it.

    Every work has a turn in each round, so that what else the machine does falls on all alike; their medians count.
    There is at least one round. What torch does not run here is in ``missing``, with its reason: by the name of the
    work, or of single sizes, ``"<name>, <size> x <size>"``, where others run.

    Args:
        device: "cpu" or "cuda"; None: the GPU, if there is one.
        seconds: after which no further round begins.
        sizes: of the work; default: `precc.devices.workloads.SIZES`.
        progress: whether a bar shows how long it takes, on stderr.

    Raises:
        PlanError: there is no such device, or no time.

    >>> tiny = Sizes(products=((16, 16, 16),), casts=((16, 16),))
    >>> figures = calibrate("cpu", seconds=0.01, sizes=tiny)
    >>> figures.kind, figures.target, figures.launch > 0
    ('cpu', 'cpu-emulated', True)
    """
    own = device_at_hand(device)
    measured, missing = measure(workloads(own.kind, sizes or SIZES[own.kind]), seconds=seconds, progress=progress)
    return fit_roofline(own, tuple(measured.values()), missing, datetime.date.today().isoformat())


def measure(
    works: Sequence[Workload], *, seconds: float, progress: bool = False
) -> tuple[dict[Workload, TimedWork], dict[str, str]]:
    """Time works in turns, as `calibrate` does, and say what does not run here, and why.

    Raises:
        PlanError: there is no time.
    """
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise PlanError(f"seconds is how long to measure, not {seconds!r}")
    end = time.monotonic() + seconds
    with torch.no_grad(), _bar(seconds, progress) as advance:
        ready, missing = _prepared(works, advance)
        while True:
            for each in ready:
                each.seconds.append(_seconds(each))
                advance()
            if time.monotonic() >= end:
                break
    return {each.work: _measured(each) for each in ready}, missing


def _prepared(works: Sequence[Workload], advance: Callable[[], None]) -> tuple[list[_Prepared], dict[str, str]]:
    """What runs, warm, and why the rest does not."""
    ready, failed = [], {}
    for work in works:
        try:
            run = work.prepare()
            first = _Prepared(work, run, 1)
            _seconds(first)  # kernels are chosen, and memory is found, in the first call
            ready.append(_Prepared(work, run, min(_MOST, 1 + int(_TURN / _seconds(first)))))
        except (RuntimeError, ValueError) as error:
            failed[work] = str(error).strip().partition("\n")[0] or type(error).__name__
        advance()
    return ready, _missing(failed, {each.work.name for each in ready})


def _missing(failed: Mapping[Workload, str], known: Collection[str]) -> dict[str, str]:
    """Reasons by name where no size of it runs, else by name and size."""
    found: dict[str, list[str]] = {}
    for work, why in failed.items():
        found.setdefault(work.title if work.name in known else work.name, []).append(why)
    return {name: "; ".join(dict.fromkeys(reasons)) for name, reasons in found.items()}


def _seconds(each: _Prepared) -> float:
    """Of one run, on average over the repeats."""
    with _float32_products(each.work.fp32_precision):
        _wait()
        start = time.perf_counter()
        for _ in range(each.repeats):
            each.run()
        _wait()
        return (time.perf_counter() - start) / each.repeats


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def _float32_products(precision: str) -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def _measured(each: _Prepared) -> TimedWork:
    own = each.work
    return TimedWork(own.kind, own.name, own.shape, own.flops, own.moved, statistics.median(each.seconds))


@contextmanager
def _bar(seconds: float, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar of the time that has passed; what it yields moves it on."""
    start = time.monotonic()
    columns = (TextColumn("measuring"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown, transient=True) as bar:
        task = bar.add_task("", total=seconds)
        yield lambda: bar.update(task, completed=min(seconds, time.monotonic() - start))
