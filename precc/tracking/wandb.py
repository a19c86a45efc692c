"""Weights & Biases as a sink."""

import html
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from precc.extras import imported
from precc.tracking.names import safe_name
from precc.tracking.sink import Pixels

__all__ = ["Wandb"]

_MOST_BINS = 512  # that wandb takes


class Wandb:
    """A run of Weights & Biases; what it takes of infinite and NaN scalars it shows as gaps.

    The axis of ``precc/...`` is the metric ``precc/step``, as those who count steps need not agree. What belongs
    together, such as a row, commits one step of wandb's own. Names are those of `precc.tracking.names.safe_name`:
    wandb shows all, but sorts and filters tables by names without slashes, dots and ``-`` alone.

    Args:
        run: that is written to and stays open, or None: ``wandb.init(**init)``, which ends with the log.
        commit: False where you log to the same run with ``step=`` of your own: values then join the step that your
            next ``run.log`` commits, the last of each name.
        init: of ``wandb.init``, such as ``project="mine", mode="offline"``, or ``id=..., resume="allow"``.

    Raises:
        ExtraError: wandb is not installed.
    """

    def __init__(self, run: Any = None, *, commit: bool = True, **init: Any) -> None:
        self._wandb = imported("wandb", "wandb")
        self._given, self._commit, self._init = run, commit, init
        self._moments: dict[int, dict[str, Any]] = {}

    @cached_property
    def run(self) -> Any:
        """The run."""
        run = self._wandb.init(**self._init) if self._given is None else self._given
        run.define_metric("precc/step")
        run.define_metric("precc/*", step_metric="precc/step")
        return run

    def open(self) -> None:
        """Begin the run."""
        self.run  # noqa: B018 - made when it is asked for

    def scalar(self, name: str, value: float, step: int) -> None:
        """As `precc.tracking.sink.Sink`."""
        self._put(name, value, step)

    def histogram(self, name: str, edges: Sequence[float], counts: Sequence[int], step: int) -> None:
        """As `precc.tracking.sink.Sink`; neighbours are added up where there are more than 512."""
        many = -(-len(counts) // _MOST_BINS)
        starts = range(0, len(counts), many)
        summed = [sum(counts[start : start + many]) for start in starts]
        ends = [*(edges[start] for start in starts), edges[-1]]
        self._put(name, self._wandb.Histogram(np_histogram=(np.array(summed), np.array(ends))), step)

    def image(self, name: str, pixels: Pixels, step: int) -> None:
        """As `precc.tracking.sink.Sink`."""
        self._put(name, self._wandb.Image(pixels), step)

    def text(self, name: str, markdown: str, step: int) -> None:
        """As `precc.tracking.sink.Sink`; as it is, in a page."""
        self._put(name, self._wandb.Html(f"<pre>{html.escape(markdown)}</pre>"), step)

    def flush(self) -> None:
        """Log what was given, a step at a time."""
        moments, self._moments = self._moments, {}
        for step, values in moments.items():
            self.run.log({**values, "precc/step": step}, commit=self._commit)

    def close(self, *, failed: bool = False) -> None:
        """Log the rest; a run that was given goes on."""
        self.flush()
        if self._given is None:
            self.run.finish(exit_code=int(failed))

    def _put(self, name: str, value: Any, step: int) -> None:
        self._moments.setdefault(step, {})[safe_name(name)] = value
