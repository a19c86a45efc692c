"""A report in Markdown and in HTML: the summary, the table with all columns, notes and rules."""

import re
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from precc.report.error_figures import DOUBT_NOTE, percent
from precc.report.layer_row import LayerRow
from precc.report.lines import printable
from precc.report.summary import summary_lines
from precc.report.worst_notes import measured_slots

if TYPE_CHECKING:
    from precc.report.precision_report import PrecisionReport

__all__ = ["html_of", "markdown_of"]

_HEADINGS = (
    "layer",
    "op",
    "fprop",
    "dgrad",
    "wgrad",
    "multiply-adds",
    "range",
    "condition",
    "predicted error",
    "measured error",
    "share of cost",
    "why",
)

#: The first and the last column that hold numbers.
_NUMBERS = range(5, 11)

#: Characters that mean something in Markdown, or in the HTML that may stand in it.
_SPECIAL = re.compile(r"([\\`*_{}\[\]|~]|^[-+#>])")

#: Rows that a notebook shows.
_MOST = 500


def markdown_of(report: "PrecisionReport") -> str:
    """For issues and READMEs."""
    first, *rest = summary_lines(report)
    lines = [f"## {_marked(first)}", "", *(f"- {_marked(line.strip())}" for line in rest), ""]
    lines += [_row(_HEADINGS), _row(["---:" if k in _NUMBERS else "---" for k in range(len(_HEADINGS))])]
    lines += [_row(map(_marked, _cells(row))) for row in report.rows]
    lines += ["", *(f"- {_marked(note)}" for note in _notes(report))]
    if report.rules_block:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report.rules_block)), default=0))
        lines += ["", f"{fence}python", *map(printable, report.rules_block.splitlines()), fence]
    return "\n".join(lines) + "\n"


def html_of(report: "PrecisionReport") -> str:
    """For notebooks: no style of its own, nothing that runs."""
    first, *rest = summary_lines(report)
    heading = "".join(f"<th>{_escaped(name)}</th>" for name in _HEADINGS)
    rows = "".join(f"<tr>{''.join(map(_cell, _cells(row)))}</tr>" for row in report.rows[:_MOST])
    more = len(report.rows) - _MOST
    notes = _notes(report)
    notes += [f"{more:,} more rows: report.save('report.html')"] * (more > 0)
    parts = [
        f"<h4>{_escaped(first)}</h4>",
        f"<pre>{_escaped(chr(10).join(rest))}</pre>",
        f"<table><thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table>",
        f"<ul>{''.join(f'<li>{_escaped(note)}</li>' for note in notes)}</ul>",
        f"<pre>{_escaped(report.rules_block)}</pre>" * bool(report.rules_block),
    ]
    return f"<div>{''.join(parts)}</div>"


def _notes(report: "PrecisionReport") -> list[str]:
    """Under the table."""
    doubts = (own.doubt for row in report.rows for own in (row.predicted, row.measured) if own is not None)
    found = [*[DOUBT_NOTE] * any(doubts), *measured_slots(report), *report.notes]
    return [*found, *(f"missing: {own}" for own in report.missing)]


def _cell(text: str) -> str:
    return f"<td>{_escaped(text)}</td>"


def _escaped(text: str) -> str:
    """With its line ends, and nothing else that a browser would obey."""
    return "\n".join(escape(printable(line)) for line in text.splitlines())


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(text: str) -> str:
    """As it is, in Markdown: in one line, with nothing in it that means something."""
    flat = printable(" ".join(text.split()))
    return _SPECIAL.sub(r"\\\1", flat.replace("&", "&amp;").replace("<", "&lt;"))


def _cells(row: LayerRow) -> list[str]:
    """Whole, as text."""
    ends = "" if row.amin is None or row.amax is None else f"{row.amin:.1e} to {row.amax:.1e}"
    return [
        row.layer or "(root)",
        row.op,
        *row.formats,
        f"{row.multiply_adds:,} ({row.share:.1%})",
        ends,
        "" if row.condition is None else f"{row.condition:.3g}",
        percent(row.predicted),
        percent(row.measured),
        "" if row.cost is None else f"{row.cost:.1%}",
        row.why,
    ]
