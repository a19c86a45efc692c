"""What a verification finds on its way, slot by slot."""

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from precc.backends.onnx.document import SlotPlace
from precc.backends.onnx.runtimes import Arrays, Run
from precc.backends.onnx.slot_values import says
from precc.backends.onnx.verification import SlotCheck, compared
from precc.errors import BackendError

__all__ = ["Findings", "Runtime"]


class Findings:
    """Rows by slot and runtime, problems, notes."""

    def __init__(self, places: Iterable[SlotPlace], runtimes: Iterable[str]) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
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
    """A runtime whose errors are problems of the file."""

    def __init__(self, name: str, run: Run, findings: Findings) -> None:
        self.name = name
        self._run = run
        self._findings = findings

    def run(self, model: Any, feeds: Arrays, what: str) -> Arrays | None:
        """The outputs by name; None, and a problem, where the runtime cannot run it."""
        try:
            return self._run(model, feeds)
        except BackendError:
            raise
        except Exception as error:  # each runtime has its own classes of errors, and their base is this
            reason = str(error).strip().replace("\n", " ")
            self._findings.problem(f"{self.name} cannot run {what}: {type(error).__name__}: {reason:.300}")
            return None
