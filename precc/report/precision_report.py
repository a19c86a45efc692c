"""The precision report of a net, as a value: to print, to save, to sort, to look at."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from precc.cost.plan_cost import PlanCost
from precc.errors import PlanError, expected_one_of
from precc.files import require_place, write_whole
from precc.history import History
from precc.plan import PrecisionPlan
from precc.report.analysed_step import AnalysedStep
from precc.report.annotated_source import annotated_source
from precc.report.choice_table import ChoiceTable
from precc.report.extremes import root_of_squares
from precc.report.layer_row import LayerRow
from precc.report.lines import plain, rich_text
from precc.report.report_frame import csv_of, frame_of
from precc.report.report_json import arguments_of, text_of
from precc.report.report_markup import html_of, markdown_of
from precc.report.report_part import ReportPart
from precc.report.report_text import ROWS, report_lines
from precc.report.row_order import kept_rows, sorted_rows
from precc.report.slot_row import SlotRow
from precc.report.source_listing import SourceListing
from precc.report.summary import WIDTH, summary_lines

__all__ = ["PrecisionReport"]


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """What each layer computes in, and what that does to the step; what was compiled, and what was not rounded.

    Made by ``net.report()``. As text it is a summary, a table, notes, and rules to paste.

    Args:
        title: name of the net.
        rows: of its ops.
        notes: what was compiled, decided, and not rounded, in sentences.
        plan: in force.
        slots: of operands, and of the sums and results that the plan rounds.
        history: of the training.
        step: that was analysed; None: nothing is known of errors.
        cost: of the step under the plan.
        choices: what other formats would cost and do; None where they are not known.
        source: of the functions of the model that compute ops.
        missing: what is not known, and how to have it, in sentences.
        rules_block: Python that gives the worst three ops a finer format; empty where that is not known, or no help.
        against: another report, to be seen beside this one.
        part: of what these rows are some; None: they are all.
    """

    title: str
    rows: tuple[LayerRow, ...]
    notes: tuple[str, ...]
    plan: PrecisionPlan
    slots: tuple[SlotRow, ...] = ()
    history: History = field(default_factory=History)
    step: AnalysedStep | None = None
    cost: PlanCost | None = None
    choices: ChoiceTable | None = None
    source: tuple[SourceListing, ...] = ()
    missing: tuple[str, ...] = ()
    rules_block: str = ""
    against: "PrecisionReport | None" = None
    part: ReportPart | None = None

    @property
    def summary(self) -> str:
        """At most ten lines: errors, the worst and the best ops, cost, and how far predictions are to be trusted."""
        return "\n".join(summary_lines(self))

    def text(self, width: int = WIDTH, *, rows: int | None = ROWS) -> str:
        """As plain text, in lines of at most so many characters.

        What does not fit is left out or shortened, and a line says so. Names that cannot be broken may be longer.

        Args:
            width: of a line, at least 20.
            rows: of the table; None: all.

        Raises:
            PlanError: numbers that are too small.
        """
        return plain(report_lines(self, _at_least(width, 20, "width"), _rows(rows)))

    def __str__(self) -> str:
        return self.text()

    def print(self, console: Console | None = None, *, rows: int | None = ROWS) -> None:
        """On a terminal, in its colours and as wide as it is; ``NO_COLOR`` in the environment leaves colours out."""
        own = console or Console()
        width = own.width if console or own.is_terminal else WIDTH
        own.print(rich_text(report_lines(self, max(width, 20), _rows(rows))), soft_wrap=True)

    def annotated_source(self, width: int = WIDTH) -> str:
        """The model's own lines that compute ops, with the formats beside them."""
        return annotated_source(self, _at_least(width, 40, "width"))

    def to_markdown(self) -> str:
        """Summary, table with all columns and rows, notes and rules."""
        return markdown_of(self)

    def _repr_html_(self) -> str:
        """The same for notebooks; ``report.save("report.html")`` has the pictures."""
        return html_of(self)

    def to_json(self) -> str:
        """All of it, as strict JSON."""
        return text_of(self)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row an op; needs the extra ``tables``, or raises ExtraError."""
        return frame_of(self)

    @classmethod
    def from_json(cls, text: str) -> "PrecisionReport":
        """The report that `to_json` wrote; equal to it, unless a number in it is NaN, which equals nothing.

        Raises:
            DataError: it is none.
        """
        return cls(**arguments_of(text, cls))

    @classmethod
    def load(cls, path: str | Path) -> "PrecisionReport":
        """The report that `save` wrote as JSON.

        Raises:
            DataError: the file holds none.
            OSError: it cannot be read.
        """
        return cls(**arguments_of(Path(path).read_bytes(), cls, where=str(path)))

    def save(self, path: str | Path) -> None:
        """Write a file, whole or not at all: .html (a page with pictures), .json (`load` reads it), .md, .txt, .csv.

        Raises:
            ExtraError: the page needs an extra.
            OSError: the file cannot be written.
            PlanError: another suffix.
        """
        place = Path(path)
        writer = _WRITERS.get(place.suffix.lower())
        if writer is None:
            known = expected_one_of(_WRITERS)
            raise PlanError(f"a report is saved in the form that the suffix of its file says, {place.name!r}: {known}")
        require_place(place)
        write_whole(place, writer(self).encode("utf-8", "backslashreplace"))

    def sorted_by(self, column: str) -> "PrecisionReport":
        """With ops and slots in the order of a column: numbers from the largest, names from A, what is not known last.

        Args:
            column: ``"predicted"`` or ``"measured"`` error of the gradient, ``"cost"``, ``"share"``, ``"condition"``,
                ``"amax"``, ``"multiply_adds"``, ``"layer"`` or ``"op"``.

        Raises:
            PlanError: another one.
        """
        rows, slots = sorted_rows(self.rows, self.slots, column)
        return replace(self, rows=rows, slots=slots)

    def where(self, *, layer: str | None = None, op: str | None = None, format: str | None = None) -> "PrecisionReport":
        """With some ops, and their slots; shares, and the errors and the cost of the step, stay those of the whole.

        Args:
            layer: pattern of module paths, as of `precc.Rule`, ``"conv*"``.
            op: pattern of ops, ``"product*"``.
            format: one of which a slot of the op has, or its name.

        Raises:
            FormatError: an unknown format.
        """
        rows, slots = kept_rows(self.rows, self.slots, layer, op, format)
        if self.part is not None:
            return replace(self, rows=rows, slots=slots)
        error = root_of_squares(row.predicted.gradient for row in self.rows if row.predicted is not None)
        block = f"# of the whole net:\n{self.rules_block}" if self.rules_block else ""
        whole = ReportPart(len({row.name for row in self.rows}), error)
        return replace(self, rows=rows, slots=slots, rules_block=block, part=whole)


def _page(report: PrecisionReport) -> str:
    from precc.report.page.page_of import page_of  # needs the extra

    page: str = page_of(report)
    return page


_WRITERS: dict[str, Callable[[PrecisionReport], str]] = {
    ".html": _page,
    ".json": PrecisionReport.to_json,
    ".md": PrecisionReport.to_markdown,
    ".txt": lambda report: report.text(rows=None) + "\n",
    ".csv": lambda report: csv_of(report),
}


def _rows(rows: int | None) -> int | None:
    return None if rows is None else _at_least(rows, 1, "rows")


def _at_least(value: int, least: int, name: str) -> int:
    if type(value) is not int or value < least:
        raise PlanError(f"{name} is a whole number of at least {least}, not {value!r}")
    return value
