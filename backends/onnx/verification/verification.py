"""What a verification of an exported file found."""

import io
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

__all__ = ["OnnxVerification", "SlotCheck", "compared"]

_WIDEST = 10_000  # a line is as long as its names: a table that is made to fit leaves out columns


@dataclass(frozen=True, slots=True)
class SlotCheck:
    """The rounding of one slot on one runtime.

    Args:
        slot: its name.
        precision: what the file says that it is; of a slot that the file does not round ``"-"``.
        runtime: what computed it.
        compared: how many values were compared bit for bit.
        wrong: how many of them differ.
        first: the first of these: where it was found, what was expected, what was found.
    """

    slot: str
    precision: str
    runtime: str
    compared: int
    wrong: int
    first: str = ""

    def and_also(self, other: "SlotCheck") -> "SlotCheck":
        """Both together."""
        first = self.first or other.first
        return replace(self, compared=self.compared + other.compared, wrong=self.wrong + other.wrong, first=first)


@dataclass(frozen=True, slots=True)
class OnnxVerification:
    """Of one file. `str` gives a table.

    Args:
        path: of the file.
        rows: one for each slot and runtime, in the order of the graph.
        problems: what is wrong beside values: what is missing, of another net, or cannot be run.
        notes: what else was measured.
    """

    path: str
    rows: tuple[SlotCheck, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def wrong(self) -> tuple[SlotCheck, ...]:
        """The rows with wrong values."""
        return tuple(row for row in self.rows if row.wrong)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not self.wrong

    def __str__(self) -> str:
        table = Table("slot", "precision", "runtime", "values", "wrong", "first wrong value", box=None)
        for row in self.rows:
            table.add_row(row.slot, row.precision, row.runtime, f"{row.compared:,}", f"{row.wrong:,}", row.first)
        text = io.StringIO()
        Console(file=text, width=_WIDEST, color_system=None, highlight=False, markup=False).print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        said = (
            "sound"
            if self.ok
            else f"not sound: problems {len(self.problems)}, slots with wrong values {len(self.wrong)}"
        )
        return "\n".join([f"{self.path}: {said}", *lines, *self.notes, *(f"problem: {own}" for own in self.problems)])


def compared(
    check: SlotCheck, expected: npt.NDArray[Any], found: npt.NDArray[Any], where: str, *, zeros: bool = True
) -> SlotCheck:
    """A check with more values compared.

    Args:
        check: so far.
        expected: values; NaN equals NaN.
        found: in the same order.
        where: what they are values of.
        zeros: whether -0 and 0 differ.
    """
    if expected.shape != found.shape:
        shapes = f"expected shape {list(expected.shape)}, found {list(found.shape)}"
        return check.and_also(replace(check, compared=1, wrong=1, first=f"{where}: {shapes}"))
    expected, found = (value.astype(np.float64).ravel() for value in (expected, found))
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))
    if zeros:
        same &= np.isnan(expected) | (np.signbit(expected) == np.signbit(found))
    wrong = np.flatnonzero(~same)
    first = ""
    if len(wrong):
        pair = (_digits(float(value[wrong[0]])) for value in (expected, found))
        first = "{}: expected {}, found {}".format(where, *pair)
    return check.and_also(replace(check, compared=len(same), wrong=len(wrong), first=first))


def _digits(value: float) -> str:
    return f"{value:.9g}" if math.isfinite(value) else str(value)
