"""Reports in files: what is saved is loaded, and what is damaged is refused by name."""

import csv
import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import precc
from precc.analysis.analysis_options import AnalysisOptions
from precc.errors import DataError, PlanError
from precc.models.mlp import MLP
from precc.report.error_figures import ErrorFigures
from precc.report.page.payload import payload_of
from precc.report.precision_report import PrecisionReport


@pytest.fixture(scope="module")
def report() -> PrecisionReport:
    torch.manual_seed(0)
    net: Any = precc.compile(MLP(), policy=precc.Uniform("e4m3", scaling="tensor"), backend="reference")
    x, y = torch.randn(8, 1, 28, 28), torch.arange(8)
    F.cross_entropy(net(x), y).backward()
    analysis = net.analyze(
        x, loss=lambda output: F.cross_entropy(output, y), options=AnalysisOptions(probes=2, samples=256)
    )
    net.history.note(step=0, controller="TrustRegion", event="accept", reason="ratio 1", plan=net.plan, loss=math.inf)
    net.history.note(step=1, controller="TrustRegion", event="reject", level=2)
    before: PrecisionReport = net.report(analysis, choices=False)
    found: PrecisionReport = net.report(analysis, measure=2, against=before)
    return found


def test_a_saved_report_is_loaded(report: PrecisionReport, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    loaded = PrecisionReport.load(tmp_path / "report.json")
    assert loaded == report
    assert loaded.history == report.history
    assert len(loaded.history) == 2
    assert loaded.plan.provenance == report.plan.provenance
    assert loaded.to_json() == report.to_json()
    assert str(loaded) == str(report)
    assert PrecisionReport.from_json(report.to_json()) == report


def test_the_report_does_not_grow_with_the_history() -> None:
    net: Any = precc.compile(MLP(), backend="reference")
    report = net.report()
    net.history.note(step=0, controller="A", event="b")
    assert (len(report.history), len(net.report().history)) == (0, 1)


def test_json_is_strict(report: PrecisionReport) -> None:
    odd = replace(report, rows=(replace(report.rows[0], predicted=ErrorFigures(math.nan, math.inf, -math.inf)),))
    text = odd.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    figures = json.loads(text)["rows"][0]["predicted"]
    assert (figures["loss_mean"], figures["loss"], figures["gradient"]) == ("NaN", "Infinity", "-Infinity")
    loaded = PrecisionReport.from_json(text).rows[0].predicted
    assert loaded is not None
    assert math.isnan(loaded.loss_mean)
    assert (loaded.loss, loaded.gradient) == (math.inf, -math.inf)
    assert PrecisionReport.from_json(text).to_json() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.pop("precc_report"), "no 'precc_report' version"),
        (lambda own: own.update(precc_report=2), "version 2"),
        (lambda own: own.pop("rows"), "no entry 'rows'"),
        (lambda own: own.update(more=1), "unknown entry 'more'"),
        (lambda own: own["rows"][0].update(share="half"), r"rows\[0\].share is 'half'"),
        (lambda own: own["rows"][0].update(formats=["e4m3"]), r"rows\[0\].formats is .* a list of 3"),
        (lambda own: own["slots"][0].update(slot="nowhere"), r"slots\[0\].slot"),
        (lambda own: own.update(plan={}), "plan"),
        (lambda own: own.update(history=[]), "history"),
        (lambda own: own["history"].update(rows=[{"step": "x"}]), "history"),
        (lambda own: own.update(title=3), "title is 3"),
        (lambda own: own["rows"][0].update(share=[1]), r"rows\[0\].share is \[1\]"),
        (lambda own: own["rows"][0].update(share={}), r"rows\[0\].share is \{\}"),
        (lambda own: own["rows"][0].update(share=True), r"rows\[0\].share is True"),
        (lambda own: own["rows"][0].update(share=10**400), r"rows\[0\].share is 1000"),
        (lambda own: own["rows"][0].update(multiply_adds=10**400), r"rows\[0\].multiply_adds is 1000"),
        (lambda own: own["rows"][0].update(predicted={"gradient": []}), r"no entry 'loss_mean'"),
        (lambda own: own["history"]["rows"][0].update(loss=10**400), "history"),
        (lambda own: own["history"]["rows"][0].update(loss=[]), "history"),
        (lambda own: own["history"].update(rows={"a": 1}), "history"),
        (lambda own: own["slots"][0].update(slot=[]), r"slots\[0\].slot"),
        (lambda own: own["plan"].update(default=[]), "plan"),
        (lambda own: own.update(part=[]), "part is"),
        (lambda own: own.update(step=5), "step is 5"),
    ],
)
def test_what_is_no_report_is_refused(report: PrecisionReport, change: Any, message: str) -> None:
    document = json.loads(report.to_json())
    change(document)
    with pytest.raises(DataError, match=message):
        PrecisionReport.from_json(json.dumps(document))


def test_the_largest_numbers_do_not_hurt(report: PrecisionReport) -> None:
    largest = ErrorFigures(1e308, 1e308, 1e308, standard_error=1e308)
    rows = tuple(replace(row, predicted=largest, measured=largest) for row in report.rows)
    loaded = PrecisionReport.from_json(replace(report, rows=rows).to_json())
    for own in (loaded, loaded.where(layer="*"), loaded.sorted_by("predicted")):
        assert str(own)
        assert own.to_markdown()
        assert own._repr_html_()
    payload_of(loaded)
    one = replace(report, rows=(replace(report.rows[0], predicted=ErrorFigures(0.0, 1.0, 3e200)),))
    assert "100% of the squares" in one.summary


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"a": 1, "a": 2}'])
def test_what_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(DataError, match="report.json"):
        PrecisionReport.load(tmp_path / "report.json")


def test_reports_are_saved_by_suffix(report: PrecisionReport, tmp_path: Path) -> None:
    for name, start in (("r.md", "## precision of MLP"), ("r.TXT", "precision of MLP"), ("r.csv", "layer,op,fprop")):
        report.save(tmp_path / name)
        assert (tmp_path / name).read_text().startswith(start)
    with pytest.raises(PlanError, match="'.html', '.json', '.md', '.txt', '.csv'"):
        report.save(tmp_path / "report.pdf")
    with pytest.raises(PlanError, match="'report'"):
        report.save(tmp_path / "report")


def test_places_that_cannot_be_written(report: PrecisionReport, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        report.save(tmp_path / "nowhere" / "report.json")
    with pytest.raises(FileNotFoundError):
        PrecisionReport.load(tmp_path / "nowhere.json")
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError):
            report.save(tmp_path / "report.json")


def test_another_report_is_read_from_its_file(report: PrecisionReport, tmp_path: Path) -> None:
    report.save(tmp_path / "before.json")
    net: Any = precc.compile(MLP(), policy="bf16", backend="reference")
    assert net.report(against=tmp_path / "before.json").against == report
    with pytest.raises(FileNotFoundError):
        net.report(against=str(tmp_path / "gone.json"))


def test_tables_have_a_row_an_op(report: PrecisionReport, tmp_path: Path) -> None:
    report.save(tmp_path / "report.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    assert [row["layer"] for row in rows] == [row.layer for row in report.rows]
    assert [float(row["share"]) for row in rows] == [row.share for row in report.rows]
    pandas = pytest.importorskip("pandas")
    frame = report.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["predicted_gradient"]) == [row.predicted.gradient for row in report.rows if row.predicted]
    assert frame["multiply_adds"].sum() == sum(row.multiply_adds for row in report.rows)
    assert list(precc.compile(MLP(), backend="reference").report().to_pandas().columns) == list(frame.columns)
