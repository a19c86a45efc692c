"""A report in the files that runs leave."""

from pathlib import Path

from precc.commands.output import note
from precc.errors import ExtraError
from precc.report.precision_report import PrecisionReport

__all__ = ["save_reports"]


def save_reports(report: PrecisionReport, folder: Path) -> list[str]:
    """Write ``report.json`` and, where its extra is installed, ``report.html``; their names.

    Where the extra is not there, stderr says so.

    Raises:
        OSError: a file cannot be written.
    """
    report.save(folder / "report.json")
    try:
        report.save(folder / "report.html")
    except ExtraError as error:
        note(f"no report.html is written: {error}")
        return ["report.json"]
    return ["report.json", "report.html"]
