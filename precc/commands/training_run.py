"""A training on the command line: its loop, what it leaves in its folder, and how it goes on after Ctrl-C."""

import json
import math
import random
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from precc.checkpoint import load_checkpoint, save_checkpoint
from precc.commands.output import Bar, note
from precc.commands.report_files import save_reports
from precc.commands.steps import analysed
from precc.commands.train_settings import TrainSettings
from precc.commands.trainers import Trainer
from precc.commands.users_errors import of_users
from precc.errors import AnalysisError, CaptureError, UnsupportedError
from precc.files import write_whole
from precc.report.precision_report import PrecisionReport
from precc.task import Batch

__all__ = ["CHECKPOINT", "SETTINGS", "Stop", "TrainingRun", "stopping"]

SETTINGS, CHECKPOINT = "settings.json", "checkpoint.pt"

#: Seconds after which the checkpoint is written again.
_KEEP = 60.0

#: Rows of losses that a history has where no controller writes any.
_ROWS = 1000


class Stop:
    """Whether Ctrl-C asked for the end."""

    asked = False


@contextmanager
def stopping() -> Iterator[Stop]:
    """The first Ctrl-C asks for the end after the present step, the second one ends at once."""
    stop = Stop()

    def ask(*_: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        note("stopping after this step; Ctrl-C again stops at once, without it")

    if threading.current_thread() is not threading.main_thread():
        yield stop  # which signals do not reach
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class TrainingRun:
    """A training in its folder.

    Each epoch begins with generators seeded by the seed and its number, so that a training that is resumed within one
    has the batches that it would have had.

    Args:
        folder: of its files.
        settings: of it.
        trainer: of its net.
    """

    def __init__(self, folder: Path, settings: TrainSettings, trainer: Trainer) -> None:
        self.folder, self.settings, self.trainer = folder, settings, trainer
        self.epoch = self.position = self.step = 0
        self.losses: list[float] = []
        self._kept = time.monotonic()

    def resume(self) -> None:
        """Go on where the checkpoint is, if there is one.

        Raises:
            DataError: it is damaged, or of another training.
        """
        path = self.folder / CHECKPOINT
        if path.exists():
            found = load_checkpoint(path, **self.trainer.parts)
            self.epoch, self.position, self.step = (found[name] for name in ("epoch", "position", "step"))
            self.losses = list(found["losses"])

    @property
    def ended(self) -> bool:
        """Whether all its steps are made."""
        own = self.settings
        by_epochs = own.epochs is not None and self.epoch >= own.epochs
        return by_epochs or (own.steps is not None and self.step >= own.steps)

    @property
    def total(self) -> int | None:
        """Steps of the whole; None where nobody knows."""
        own = self.settings
        count = _length(self.trainer.task.epoch(self.epoch)) if own.epochs is not None else None
        by_epochs = None if count is None or own.epochs is None else own.epochs * count
        known = [each for each in (by_epochs, own.steps) if each is not None]
        return min(known) if known and (count is not None or own.steps is not None) else None

    def go(self, bar: Bar, stop: Stop) -> None:
        """Make steps until all are made, or the end is asked for; the checkpoint is then of the last whole step."""
        every = max(1, -(-(self.total or 1) // _ROWS))
        while not (self.ended or stop.asked):
            count = 0
            for batch in self._batches():
                self._learn(batch, every)
                count += 1
                bar.advance(self.told)
                if self.ended or stop.asked:
                    break
                if time.monotonic() - self._kept > _KEEP:
                    self.keep()
            else:
                self._end_epoch(count)
        self.keep()

    def _end_epoch(self, count: int) -> None:
        if not count and not self.position:
            raise CaptureError(f"epoch {self.epoch} has no batches")
        print(f"epoch {self.epoch + 1}: step {self.step}, {self.told}", file=sys.stderr)
        self.epoch, self.position = self.epoch + 1, 0

    def _learn(self, batch: Batch, every: int) -> None:
        loss = self.trainer.step(batch)
        self.losses.append(loss)
        history = self.trainer.net.history
        if self.trainer.controller is None and self.settings.controller is None and self.step % every == 0:
            history.note(step=self.step, controller="train", event="step", plan=self.trainer.net.plan, loss=loss)
        self.step, self.position = self.step + 1, self.position + 1

    def _batches(self) -> Iterator[Batch]:
        """Those of the present epoch that are left; generators are then where the last step left them."""
        _seed(self.settings.seed, self.epoch)
        skipped = self.position
        with of_users(f"the batches of epoch {self.epoch}"):
            batches = iter(self.trainer.task.epoch(self.epoch))
            for _ in range(skipped):
                next(batches, None)
        if skipped:
            load_checkpoint(self.folder / CHECKPOINT, **self.trainer.parts)
        while True:
            with of_users(f"a batch of epoch {self.epoch}"):
                own = next(batches, None)
            if own is None:
                return
            yield Batch.of(own)

    @property
    def told(self) -> str:
        """The last loss, and in what it was computed."""
        rows = [row.average_bits for row in self.trainer.net.history[-1:] if row.average_bits is not None]
        bits = "".join(f", {own:.3g} bits" for own in rows)
        return f"loss {self.losses[-1]:.4g}{bits}" if self.losses else ""

    def keep(self) -> None:
        """Write the checkpoint."""
        place = {"epoch": self.epoch, "position": self.position, "step": self.step, "losses": self.losses}
        save_checkpoint(self.folder / CHECKPOINT, **self.trainer.parts, **place)
        self._kept = time.monotonic()

    def write(self, *, analyse: bool) -> list[str]:
        """Write plan, history and reports; the names of all files.

        Args:
            analyse: whether the example is analysed, for the reports.
        """
        net = self.trainer.net
        net.plan.save(self.folder / "plan.json")
        write_whole(self.folder / "history.json", (json.dumps(net.history.to_json()) + "\n").encode())
        report = self._report() if analyse else net.report()
        write_whole(self.folder / "report.txt", f"{report}\n".encode())
        return [SETTINGS, CHECKPOINT, "plan.json", "history.json", "report.txt", *save_reports(report, self.folder)]

    def _report(self) -> PrecisionReport:
        net = self.trainer.net
        try:
            return net.report(analysed(self.trainer.task, net, [net.plan]))
        except (AnalysisError, UnsupportedError, CaptureError) as error:
            note(f"the report has no errors: {error}")
            return net.report()

    @property
    def diverged(self) -> bool:
        """Whether the last loss is no number."""
        return bool(self.losses) and not math.isfinite(self.losses[-1])


def _length(batches: Iterable[Any]) -> int | None:
    return len(batches) if isinstance(batches, Sized) else None


def _seed(seed: int, epoch: int) -> None:
    own = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    torch.manual_seed(own)
    np.random.seed(own)
    random.seed(own)
