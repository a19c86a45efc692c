"""The film strip of a report, as a page reads it."""

from typing import Any

import numpy as np

from precc.plan import PrecisionPlan
from precc.precision import AS_STORED
from precc.report.film_strip import FilmStrip
from precc.report.page.format_list import FormatList
from precc.report.page.packed import figures, packed
from precc.report.precision_report import PrecisionReport
from precc.slots import ACCUMULATOR, RESULT, UPDATES

__all__ = ["film_of", "film_payload"]


def film_of(report: PrecisionReport) -> FilmStrip:
    """The film of a report's history; where a plan rounds nothing, values have the format that they have now."""
    others = (ACCUMULATOR, RESULT, *UPDATES)
    rows = [row for row in report.slots if row.slot.operand not in others]
    stored = {row.name: row.format for row in rows if not row.rounded}

    def format_of(plan: PrecisionPlan, slot: str) -> str:
        own = plan.precision(slot)
        return stored.get(slot, own.format.name) if own == AS_STORED else own.format.name

    return FilmStrip.of(report.history, [row.name for row in rows], format_of)


def film_payload(film: FilmStrip, formats: FormatList) -> dict[str, Any]:
    """Plans as one array [plans, columns, ops] of numbers of formats, and what each row of the history says."""
    kind = "i1" if len(formats.names) < 128 else "i2"
    numbers = np.array([*(formats.number(name) for name in film.formats), -1], f"<{kind}")
    return {
        "ops": list(film.ops),
        "columns": list(film.columns),
        "plans": packed(numbers[np.array(film.plans, np.intp)] if film.plans and film.ops else (), kind),
        "frames": list(film.frames),
        "steps": [row.step for row in film.rows],
        "events": _interned([row.event for row in film.rows]),
        "controllers": _interned([row.controller for row in film.rows]),
        "reasons": [row.reason for row in film.rows],
        "loss": figures(row.loss for row in film.rows),
        "bits": figures(row.average_bits for row in film.rows),
    }


def _interned(texts: list[str]) -> dict[str, Any]:
    names = list(dict.fromkeys(texts))
    numbers = {name: number for number, name in enumerate(names)}
    return {"names": names, "numbers": [numbers[text] for text in texts]}
