"""Variants of one piece of work take turns, so that what else a machine does falls on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping

from rich.progress import track

__all__ = ["take_turns"]


def take_turns(
    steps: Mapping[str, Callable[[], None]], baseline: str, rounds: int, *, warm_up: int, title: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Median milliseconds of each step, and the median of the ratios to the baseline within a round."""
    for step in steps.values():
        for _ in range(warm_up):
            step()
    times: dict[str, list[float]] = {variant: [] for variant in steps}
    for _ in track(range(rounds), title):
        for variant, step in steps.items():
            start = time.perf_counter()
            step()
            times[variant].append(time.perf_counter() - start)
    ratios = {key: [own / plain for own, plain in zip(times[key], times[baseline], strict=True)] for key in times}
    medians = {variant: 1e3 * statistics.median(own) for variant, own in times.items()}
    return medians, {variant: statistics.median(own) for variant, own in ratios.items()}
