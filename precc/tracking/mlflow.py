"""MLflow as a sink."""

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from precc.extras import imported
from precc.tracking.names import safe_name, shortened
from precc.tracking.sink import Pixels

__all__ = ["MLflow"]

_LONGEST = 250  # characters of a name
_AT_ONCE = 1000  # numbers in one request


class MLflow:
    """A run of MLflow, at the tracking URI that ``mlflow`` has.

    NaN is kept; infinite scalars are what the store makes of them, in a database plus or minus 1.8e308.
    Histograms, which MLflow lacks, are JSON files, one a step: ``precc/histograms/<step>.json``;
    texts are ``<name>/<step>.md``.
    Names are those of `precc.tracking.names.safe_name`, where they are longer than 250 with a digest at the end.

    Args:
        run_id: of the run that is written to and goes on, or None: the active one, which goes on as well, or else
            ``mlflow.start_run(**start)``, which ends with the log.
        seconds: between two requests; 0: each row is sent at once. What waits is lost if the process is killed.
        start: of ``mlflow.start_run``, such as ``run_name="first"``.

    Raises:
        ExtraError: mlflow is not installed.
    """

    def __init__(self, run_id: str | None = None, *, seconds: float = 2.0, **start: Any) -> None:
        self._mlflow = imported("mlflow", "mlflow")
        self._given, self._seconds, self._start = run_id, seconds, start
        self._started = False
        self._sent = 0.0  # when
        self._metrics: list[Any] = []
        self._histograms: dict[int, dict[str, Any]] = {}

    @cached_property
    def run_id(self) -> str:
        """Of the run."""
        if self._given is not None:
            return str(self._client.get_run(self._given).info.run_id)
        active = self._mlflow.active_run()
        self._started = active is None
        return str((active or self._mlflow.start_run(**self._start)).info.run_id)

    @cached_property
    def _client(self) -> Any:
        return self._mlflow.MlflowClient()

    def open(self) -> None:
        """Begin the run, or see that there is one."""
        self.run_id  # noqa: B018 - made when it is asked for

    def scalar(self, name: str, value: float, step: int) -> None:
        """As `precc.tracking.sink.Sink`."""
        own = self._mlflow.entities.Metric(_key(name), value, int(1000 * time.time()), step)
        self._metrics.append(own)

    def histogram(self, name: str, edges: Sequence[float], counts: Sequence[int], step: int) -> None:
        """As `precc.tracking.sink.Sink`."""
        self._histograms.setdefault(step, {})[name] = {"edges": list(edges), "counts": list(counts)}

    def image(self, name: str, pixels: Pixels, step: int) -> None:
        """As `precc.tracking.sink.Sink`."""
        self._client.log_image(self.run_id, pixels, key=_key(name), step=step)

    def text(self, name: str, markdown: str, step: int) -> None:
        """As `precc.tracking.sink.Sink`."""
        self._client.log_text(self.run_id, markdown, f"{_key(name)}/{step:08d}.md")

    def flush(self) -> None:
        """Send what was given, unless the last time was a moment ago."""
        if time.monotonic() - self._sent >= self._seconds:
            self._send()

    def close(self, *, failed: bool = False) -> None:
        """Send the rest; a run that was there before goes on."""
        self._send()
        if not self._started:
            return
        status = "FAILED" if failed else "FINISHED"
        active = self._mlflow.active_run()
        if active is not None and active.info.run_id == self.run_id:
            self._mlflow.end_run(status)
        else:
            self._client.set_terminated(self.run_id, status)

    def _send(self) -> None:
        """What cannot be sent is kept for the next time."""
        while self._metrics:
            self._client.log_batch(self.run_id, metrics=self._metrics[:_AT_ONCE])
            del self._metrics[:_AT_ONCE]
        for step in list(self._histograms):
            self._client.log_dict(self.run_id, self._histograms[step], f"precc/histograms/{step:08d}.json")
            del self._histograms[step]
        self._sent = time.monotonic()


def _key(name: str) -> str:
    return shortened(safe_name(name), _LONGEST)
