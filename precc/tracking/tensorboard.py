"""TensorBoard as a sink."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from precc.extras import imported
from precc.tracking.names import safe_name
from precc.tracking.sink import Pixels

__all__ = ["TensorBoard"]


class TensorBoard:
    """Event files of TensorBoard. It takes everything: infinite and NaN scalars too.

    Names are those of `precc.tracking.names.safe_name`.

    Args:
        writer: folder of the events, or a ``SummaryWriter``, which stays open.
        options: of the ``SummaryWriter`` of a folder, such as ``purge_step=`` where a training goes on from a
            checkpoint that is older than the last events.

    Raises:
        ExtraError: tensorboard is not installed.
    """

    def __init__(self, writer: Any, **options: Any) -> None:
        self._given = None if isinstance(writer, (str, Path)) else writer
        self._open: Any = None if self._given is not None else imported("torch.utils.tensorboard", "tensorboard")
        self._folder, self._options = writer, options

    @cached_property
    def writer(self) -> Any:
        """The ``SummaryWriter``."""
        return self._given or self._open.SummaryWriter(str(self._folder), **self._options)

    def open(self) -> None:
        """Make the folder."""
        self.writer  # noqa: B018 - made when it is asked for

    def scalar(self, name: str, value: float, step: int) -> None:
        """As `precc.tracking.sink.Sink`."""
        self.writer.add_scalar(safe_name(name), value, step)

    def histogram(self, name: str, edges: Sequence[float], counts: Sequence[int], step: int) -> None:
        """As `precc.tracking.sink.Sink`; sums are those of the middles between the edges."""
        ends = np.asarray(edges, np.float64)
        weights, middles = np.asarray(counts, np.float64), (ends[1:] + ends[:-1]) / 2
        self.writer.add_histogram_raw(
            safe_name(name),
            min=float(ends[0]),
            max=float(ends[-1]),
            num=float(weights.sum()),
            sum=float(weights @ middles),
            sum_squares=float(weights @ middles**2),
            bucket_limits=ends[1:].tolist(),
            bucket_counts=weights.tolist(),
            global_step=step,
        )

    def image(self, name: str, pixels: Pixels, step: int) -> None:
        """As `precc.tracking.sink.Sink`."""
        self.writer.add_image(safe_name(name), pixels, step, dataformats="HWC")

    def text(self, name: str, markdown: str, step: int) -> None:
        """As `precc.tracking.sink.Sink`."""
        self.writer.add_text(safe_name(name), markdown, step)

    def flush(self) -> None:
        """The writer does it by itself, every two minutes."""

    def close(self, *, failed: bool = False) -> None:
        """Write the rest; a writer that was given stays open."""
        self.writer.flush()
        if self._given is None:
            self.writer.close()
