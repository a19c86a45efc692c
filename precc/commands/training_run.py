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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from precc.checkpoint import load_checkpoint, save_checkpoint
from precc.commands.before import Before
from precc.commands.output import Bar, note
from precc.commands.report_files import save_reports
from precc.commands.steps import analysed_if_it_can_be
from precc.commands.train_settings import TrainSettings
from precc.commands.trainers import CLOSURES, Trainer
from precc.commands.users_errors import of_users
from precc.errors import CaptureError, PreccError
from precc.files import write_whole
from precc.report.precision_report import PrecisionReport
from precc.task import Batch

__all__ = ["CHECKPOINT", "SETTINGS", "Stop", "TrainingRun", "stopping"]

SETTINGS, CHECKPOINT = "settings.json", "checkpoint.pt"

#: Seconds after which the checkpoint is written again.
_KEEP = 60.0

#: In the place of a controller, of rows that have the loss of a step.
_NAME = "train"

#: Rows of losses that a history has, about: of longer trainings not each step has one.
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
        self._before: Before | None = None
        self._total: int | None = None

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
        count = None if own.epochs is None else _length(self.trainer.task.epoch(self.epoch))
        by_epochs = None if own.epochs is None or count is None else own.epochs * count
        return min((each for each in (by_epochs, own.steps) if each is not None), default=None)

    def go(self, bar: Bar, stop: Stop) -> None:
        """Make steps until all are made, or the end is asked for; the checkpoint is then of the last whole step."""
        self._total = self.total
        if not self.step and self._tells:
            self._note("start")
        try:
            self._go(bar, stop)
        except PreccError:
            self._rescue()
            raise
        self.keep()

    def _go(self, bar: Bar, stop: Stop) -> None:
        while not (self.ended or stop.asked):
            count = 0
            for batch in self._batches():
                self._learn(batch)
                count += 1
                bar.advance(self.told)
                if self.ended or stop.asked:
                    break
                if time.monotonic() - self._kept > _KEEP:
                    self.keep()
            else:
                self._end_epoch(count)

    def _rescue(self) -> None:
        """After an error keep the steps that were made, unless one is half made."""
        known = self._before is not None or not self.position
        if not (known and self.trainer.whole and self.step):
            return
        if self._before is not None:
            self._before.restore(self.trainer.net)
        self.keep()
        note(f"{self.step} steps are kept: precc train --resume {self.folder} goes on after them")

    def _end_epoch(self, count: int) -> None:
        if not count and not self.position:
            raise CaptureError(f"epoch {self.epoch} has no batches")
        print(f"epoch {self.epoch + 1}: step {self.step}, {self.told}", file=sys.stderr)
        self.epoch, self.position = self.epoch + 1, 0

    def _learn(self, batch: Batch) -> None:
        loss = self.trainer.step(batch)
        self.losses.append(loss)
        self.step, self.position = self.step + 1, self.position + 1
        if self._tells and self.step % self._every == 0:
            self._note("step", loss=loss)

    @property
    def _tells(self) -> bool:
        """Whether rows of steps are noted here: controllers that are optimizers note each of theirs."""
        return self.settings.controller not in CLOSURES

    @property
    def _every(self) -> int:
        """Steps between two rows, fewer and fewer where nobody knows the end."""
        if self._total is None:
            return 1 << (self.step // _ROWS).bit_length()
        return max(1, -(-self._total // _ROWS))

    def _note(self, event: str, **own: Any) -> None:
        net = self.trainer.net
        net.history.note(step=self.step, controller=_NAME, event=event, plan=net.plan, **own)

    def _batches(self) -> Iterator[Batch]:
        """Those of the present epoch that are left; generators are then where the last step left them."""
        _seed(self.settings.seed, self.epoch)
        skipped = self.position
        with of_users(f"making the batches of epoch {self.epoch}"):
            batches = iter(self.trainer.task.epoch(self.epoch))
            for _ in range(skipped):
                next(batches, None)
        if skipped:
            load_checkpoint(self.folder / CHECKPOINT, **self.trainer.parts)
        while True:
            self._before = Before.of(self.trainer.net)
            with of_users(f"a batch of epoch {self.epoch}"):
                own = next(batches, None)
            if own is None:
                return
            yield Batch.of(own)
            self._before = None

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

    def write(self, *, analyse: bool, measure: int = 0) -> list[str]:
        """Write plan, history and reports; the names of all files.

        Args:
            analyse: whether the example is analysed, for the reports.
            measure: draws in which errors are measured then.
        """
        net = self.trainer.net
        if self._tells and self.step and self._last_noted() < self.step:
            self._note("step", loss=self.losses[-1])  # the checkpoint is without it
        net.plan.save(self.folder / "plan.json")
        write_whole(self.folder / "history.json", (json.dumps(net.history.to_json()) + "\n").encode())
        report = self._report(measure) if analyse else net.report()
        write_whole(self.folder / "report.txt", f"{report}\n".encode())
        return [SETTINGS, CHECKPOINT, "plan.json", "history.json", "report.txt", *save_reports(report, self.folder)]

    def _last_noted(self) -> int:
        """The last step that has a row of its loss."""
        rows = reversed(self.trainer.net.history)
        return next((row.step for row in rows if row.controller == _NAME), -1)

    def _report(self, measure: int) -> PrecisionReport:
        net = self.trainer.net
        analysis, why = analysed_if_it_can_be(self.trainer.given, net, [net.plan])
        report = net.report(analysis, measure=0 if analysis is None else measure)
        return replace(report, missing=(*report.missing, why)) if why else report

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
