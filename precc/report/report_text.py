"""A report as text: a summary, the table, notes, what is missing, and rules to paste."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from precc.report.layer_row import LayerRow
from precc.report.layer_rows import ROLES
from precc.report.lines import Line, printable, wrapped
from precc.report.report_table import table_text
from precc.report.slot_row import SlotRow
from precc.report.summary import indent_of, summary_lines
from precc.report.worst_notes import measured_slots, worst_reasons

if TYPE_CHECKING:
    from precc.report.precision_report import PrecisionReport

__all__ = ["ROWS", "report_lines"]

#: Of the table of a text that nobody gave a number for.
ROWS = 150

#: Characters of a note that are shown.
_MOST = 1000

#: Colours by bits of the narrowest operand, up to which they are.
_COLOURS = ((4.99, "red"), (6.99, "magenta"), (11.99, "yellow"), (16.99, "cyan"))


def report_lines(report: "PrecisionReport", width: int, rows: int | None) -> list[Line]:
    """Within a width, with so many rows of the table; None: all."""
    first, *rest = summary_lines(report, width)
    lines = wrapped(first, width, "bold")
    lines += [part for line in rest for part in _summed(line, width)]
    shown = report.rows if rows is None else report.rows[:rows]
    if shown:
        table = table_text(shown, _styles(shown, report.slots), width)
        lines += table.lines
        lines += _listed(table.notes, width, "dim")
        lines += _listed([] if table.reasons else worst_reasons(report, width), width)
    lines += _listed(measured_slots(report), width)
    if len(shown) < len(report.rows):
        more = f"{len(report.rows) - len(shown):,} more rows: report.print(rows=None) or report.save('report.txt')"
        lines += wrapped(f"{more} have all, report.sorted_by('predicted') has the worst first", width, "dim")
    lines += _listed(map(_clipped, report.notes), width)
    lines += _listed((f"missing: {own}" for own in map(_clipped, report.missing)), width, "dim")
    return lines + [((printable(line), ""),) for line in report.rules_block.splitlines()]


def _summed(line: str, width: int) -> list[Line]:
    """A line of the summary, whose first word is a heading."""
    return wrapped(line, width, indent=indent_of(width))


def _listed(notes: Iterable[str], width: int, style: str = "") -> list[Line]:
    return [line for note in notes for line in wrapped(note, width, style)]


def _clipped(note: str) -> str:
    """A note that lists a thousand names says where they are."""
    if len(note) <= _MOST:
        return note
    return f"{note[:_MOST].rpartition(' ')[0]} … ({len(note) - _MOST:,} characters more in report.notes)"


def _styles(rows: Sequence[LayerRow], slots: Sequence[SlotRow]) -> list[tuple[str, ...]]:
    """Of the three columns of formats, by the narrowest operand."""
    column_of = {role: number for number, column in enumerate(ROLES) for role in column}
    bits: dict[tuple[str, int], float] = {}
    for row in slots:
        key = (row.slot.op, column_of.get(row.slot.role, 0))
        bits[key] = min(bits.get(key, row.bits), row.bits)
    return [tuple(_colour(bits.get((row.name, column))) for column in range(len(ROLES))) for row in rows]


def _colour(bits: float | None) -> str:
    return "" if bits is None else next((colour for most, colour in _COLOURS if bits <= most), "")
