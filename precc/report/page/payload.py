"""All that a page shows, as plain data."""

from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from precc.report.analysed_step import AnalysedStep
from precc.report.error_figures import ErrorFigures
from precc.report.page.choice_payload import choice_payload, plan_payload
from precc.report.page.film_payload import film_of, film_payload
from precc.report.page.format_list import FormatList
from precc.report.page.packed import figure
from precc.report.page.slot_payload import MAP_COLUMNS, column_names, op_payload, slot_payload
from precc.report.precision_report import PrecisionReport
from precc.report.summary import summary_of

__all__ = ["payload_of"]

#: Characters of a line of the summary: the page wraps them, and has room for whole names.
_WIDE = 10**6


def payload_of(report: PrecisionReport) -> dict[str, Any]:
    """What the page of a report shows, ready for JSON.

    Args:
        report: of a net, and the one that it is compared with, of the net or of another.
    """
    against = report.against
    film = film_of(report)
    used = {*film.formats, *(row.format for own in (report, against) if own is not None for row in own.slots)}
    formats = FormatList([report, *([] if against is None else [against])], film.formats)
    return {
        "title": report.title,
        "summary": [list(entry) for entry in summary_of(report, _WIDE).entries],
        "notes": list(report.notes),
        "missing": list(report.missing),
        "formats": [{**own, "used": own["name"] in used} for own in formats.payload()],
        "map": list(MAP_COLUMNS),
        "columns": column_names(report),
        "ops": op_payload(report),
        "slots": slot_payload(report, formats),
        "film": film_payload(film, formats),
        **_totals(report),
        "choices": None if report.choices is None else choice_payload(report.choices, report.plan, formats),
        "plan": None if report.choices is None else plan_payload(report.plan),
        "source": [_listing(own) for own in map(asdict, report.source)],
        "against": None if against is None else _against(report, against, formats),
    }


def _totals(report: PrecisionReport) -> dict[str, Any]:
    cost = report.cost
    return {
        "step": None if report.step is None else _step(report.step),
        "cost": None if cost is None else {**asdict(cost), "value": figure(cost.value)},
    }


def _step(step: AnalysedStep) -> dict[str, Any]:
    return {
        "loss": figure(step.loss),
        "gradient_norm": figure(step.gradient_norm),
        "batch": step.batch,
        "predicted": _errors(step.predicted),
        "measured": _errors(step.measured),
        "draws": step.draws,
        "rank_correlation": figure(step.rank_correlation),
        "calibration": [_plain(asdict(group)) for group in step.calibration],
    }


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    return {name: own if isinstance(own, str) else figure(own) for name, own in document.items()}


def _errors(own: ErrorFigures | None) -> dict[str, Any] | None:
    if own is None:
        return None
    return {"doubt": own.doubt, **{name: figure(value) for name, value in asdict(own).items()}}


def _listing(document: dict[str, Any]) -> dict[str, Any]:
    name = PurePath(document["file"]).name  # a page is passed on, and says nothing of the machine
    return {
        **document,
        "file": name,
        "lines": [[line["number"], line["text"], list(line["ops"])] for line in document["lines"]],
    }


def _against(report: PrecisionReport, against: PrecisionReport, formats: FormatList) -> dict[str, Any]:
    return {
        "title": against.title,
        **_totals(against),
        "changes": [str(change) for change in against.plan.diff(report.plan)],
        "slots": {row.name: [formats.number(row.format), row.precision] for row in against.slots},
    }
