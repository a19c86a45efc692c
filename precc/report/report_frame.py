"""The ops of a report as a table of plain values."""

import csv
import io
from typing import TYPE_CHECKING, Any

from precc.extras import imported
from precc.report.error_figures import ErrorFigures
from precc.report.layer_row import LayerRow

if TYPE_CHECKING:
    from precc.report.precision_report import PrecisionReport

__all__ = ["COLUMNS", "csv_of", "frame_of"]

_FIGURES = ("loss_mean", "loss", "gradient", "standard_error", "lost")

#: Columns and what they hold, as pandas names it.
COLUMNS = {
    **dict.fromkeys(("layer", "op", "fprop", "dgrad", "wgrad"), "string"),
    "multiply_adds": "Int64",
    **dict.fromkeys(("share", "amin", "amax", "condition"), "Float64"),
    **{f"{what}_{name}": "Float64" for what in ("predicted", "measured") for name in _FIGURES},
    "cost": "Float64",
    **dict.fromkeys(("why", "file"), "string"),
    "line": "Int64",
}


def frame_of(report: "PrecisionReport") -> Any:
    """A ``pandas.DataFrame`` with a row an op, what is not known missing.

    Raises:
        ExtraError: pandas is not installed.
    """
    pandas = imported("pandas", "tables")
    frame = pandas.DataFrame([_values(row) for row in report.rows], columns=list(COLUMNS))
    return frame.astype(COLUMNS)


def csv_of(report: "PrecisionReport") -> str:
    """The same as comma-separated values with a heading."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([["" if own is None else own for own in _values(row)] for row in report.rows])
    return text.getvalue()


def _values(row: LayerRow) -> list[Any]:
    place = (None, None) if row.place is None else (row.place.file, row.place.line)
    return [
        row.layer,
        row.op,
        *row.formats,
        row.multiply_adds,
        row.share,
        row.amin,
        row.amax,
        row.condition,
        *_figures(row.predicted),
        *_figures(row.measured),
        row.cost,
        row.why,
        *place,
    ]


def _figures(own: ErrorFigures | None) -> tuple[float | None, ...]:
    return tuple(None if own is None else getattr(own, name) for name in _FIGURES)
