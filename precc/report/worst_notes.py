"""What is said under a table of the worst ops and slots: reasons that the table has no room for, measured slots."""

from typing import TYPE_CHECKING

from precc.report.error_figures import percent
from precc.report.extremes import extremes_of, op_names
from precc.report.lines import printable

if TYPE_CHECKING:
    from precc.report.precision_report import PrecisionReport

__all__ = ["measured_slots", "worst_reasons"]

#: Slots that are named.
_SLOTS = 5

#: Columns beside a name.
_MARGIN = 4


def worst_reasons(report: "PrecisionReport", width: int) -> list[str]:
    """Why the worst ops have their formats, those of one reason together; with names that fit in a line."""
    names = op_names(report.rows, max(width - _MARGIN, 8))
    found: dict[str, list[str]] = {}
    for row in extremes_of(report)[0].rows:
        if row.why:
            found.setdefault(row.why, []).append(names[row.name])
    return [f"why {', '.join(ops)}: {why}" for why, ops in found.items()]


def measured_slots(report: "PrecisionReport") -> list[str]:
    """The slots that were measured by themselves, the worst of them, and where the others are."""
    known = [row for row in report.slots if row.measured is not None]
    if not known:
        return []
    errors = {row.name: row.measured.gradient for row in known if row.measured is not None}
    ordered = sorted(known, key=lambda row: -errors[row.name] if errors[row.name] == errors[row.name] else 0.0)
    said = [
        f"{printable(row.name)} {percent(row.measured)}"
        + (f" (predicted {percent(row.predicted)})" if row.predicted is not None else "")
        for row in ordered[:_SLOTS]
    ]
    more = "; report.slots has all" if len(known) > _SLOTS else ""
    return [f"measured alone, the worst of {len(known):,} slots: {', '.join(said)}{more}"]
