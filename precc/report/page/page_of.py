"""One HTML file that shows a report, and needs nothing else: no network, no other file."""

import base64
import html
import re
from hashlib import sha256
from importlib.resources import files

from precc.extras import imported
from precc.report.page.packed import script_json
from precc.report.page.payload import payload_of
from precc.report.precision_report import PrecisionReport

__all__ = ["page_of"]

#: The scripts, in the order in which they stand in the page.
_SCRIPTS = (
    *("data", "theme", "frame", "axes", "slot_map", "map", "film", "ridges", "bars", "budget", "calibration"),
    *("knapsack", "copies", "front", "cost", "diff", "table", "source", "search", "start"),
)

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def page_of(report: PrecisionReport) -> str:
    """The HTML of a report.

    Args:
        report: of a net; beside the one that it is against, if there is one.

    Raises:
        ExtraError: plotly is not installed.
    """
    plotly = _ending_nowhere(imported("plotly.offline", "report").get_plotlyjs())
    script = "(() => {\n" + "\n".join(_asset(f"{name}.js") for name in _SCRIPTS) + "\n})();\n"
    title = report.title.encode("utf-8", "replace").decode()
    parts = {
        "policy": _policy(plotly, script),
        "title": html.escape(title),
        "style": _asset("page.css"),
        "payload": script_json(payload_of(report)),
        "plotly": plotly,
        "script": script,
    }
    return _PLACE.sub(lambda place: parts[place[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return files("precc.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Only these scripts run, and nothing is fetched; charts style their elements, and draw to images."""
    allowed = " ".join(f"'sha256-{base64.b64encode(sha256(own.encode()).digest()).decode()}'" for own in scripts)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


def _ending_nowhere(script: str) -> str:
    """A script whose strings do not end its element, with the line ends that HTML makes of all of them."""
    lines = script.replace("\r\n", "\n").replace("\r", "\n")
    return lines.replace("</script", "<\\/script").replace("<!--", "<\\!--")
