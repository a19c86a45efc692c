"""What a verification finds on its way, slot by slot."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy.typing as npt

from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.verification.runtimes import EVALUATOR, Arrays, Prepare
from precc.backends.onnx.verification.slot_values import says
from precc.backends.onnx.verification.verification import SlotCheck, compared

__all__ = ["Findings", "Runtime"]

_Result = TypeVar("_Result")


class Findings:
    """Rows by slot and runtime, problems, notes."""

    def __init__(self, places: Iterable[SlotPlace], runtimes: Iterable[str]) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._limits: dict[str, str] = {}
        self._excused: set[str] = set()
        self._rows = {
            (place.rounding.slot, runtime): SlotCheck(place.rounding.slot, says(place), runtime, 0, 0)
            for place in places
            for runtime in runtimes
        }

    @property
    def rows(self) -> tuple[SlotCheck, ...]:
        """By slot, each with its runtimes."""
        return tuple(self._rows.values())

    def problem(self, text: str) -> None:
        """Add a problem, once."""
        if text not in self.problems:
            self.problems.append(text)

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def excuse(self, slot: str, reason: str) -> None:
        """Note why no value of a slot may be compared."""
        self._excused.add(slot)
        self.note(f"{slot}: {reason}")

    def limit(self, runtime: str, text: str) -> None:
        """Add what a runtime may be unable to do with a sound file."""
        self._limits.setdefault(runtime, text)

    def close(self) -> None:
        """Judge what was not compared: a problem, unless another runtime could, or there was nothing to compare."""
        able = {row.runtime for row in self.rows if row.compared} - set(self._limits)
        for text in self._limits.values():
            if able:
                self.note(f"{text}; {' and '.join(sorted(able))} can, and is compared")
            else:
                self.problem(text)
        open_rows = [row for row in self.rows if not row.compared and row.runtime not in self._limits]
        told = [row for row in open_rows if row.slot not in self._excused]
        if self.problems:
            return
        for row in told:
            self.problem(f"{row.slot}: no value was compared on {row.runtime}")
        if self.rows and not any(row.compared for row in self.rows):
            self.problem("no value was compared at all: give inputs that are not empty")

    def is_wrong(self, slot: str, runtime: str) -> bool:
        """Whether values of a slot are known to be wrong."""
        return self._rows[slot, runtime].wrong > 0

    def compare(
        self,
        slot: str,
        runtime: str,
        expected: npt.NDArray[Any],
        found: npt.NDArray[Any],
        where: str,
        *,
        zeros: bool = True,
    ) -> None:
        """Compare values of a slot; see `compared`."""
        key = slot, runtime
        self._rows[key] = compared(self._rows[key], expected, found, where, zeros=zeros)


class Runtime:
    """A runtime whose errors are problems of the file; onnx's evaluator is known to lack forms of operators."""

    def __init__(self, name: str, prepare: Prepare, findings: Findings) -> None:
        self.name = name
        self._prepare = prepare
        self._findings = findings

    def prepare(self, model: Any, what: str) -> Callable[[Arrays], Arrays | None]:
        """What runs a model; its results are None, and there is a problem, where the runtime cannot run it."""
        run = self._tried(lambda: self._prepare(model), what)
        return lambda feeds: None if run is None else self._tried(lambda: run(feeds), what)

    def run(self, model: Any, feeds: Arrays, what: str) -> Arrays | None:
        """The outputs by name, once."""
        return self.prepare(model, what)(feeds)

    def _tried(self, act: Callable[[], _Result], what: str) -> _Result | None:
        try:
            return act()
        except Exception as error:  # each runtime has its own classes of errors, and their base is this
            reason = str(error).strip().replace("\n", " ")
            text = f"{self.name} cannot run {what}: {type(error).__name__}: {reason:.300}"
            if self.name == EVALUATOR:
                self._findings.limit(self.name, text)
            else:
                self._findings.problem(text)
            return None
