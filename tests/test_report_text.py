"""Reports as text, in tables, in the source: within their width, and nothing is cut off without a word."""

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import precc
from precc.cost.plan_cost import PlanCost
from precc.errors import FormatError, PlanError
from precc.formats import ALIASES
from precc.models.lenet5 import LeNet5
from precc.module import session_of
from precc.plan import PrecisionPlan
from precc.report.analysed_step import AnalysedStep, GroupCalibration
from precc.report.error_figures import ErrorFigures
from precc.report.layer_row import LayerRow
from precc.report.precision_report import PrecisionReport
from precc.report.short_names import short_formats, short_names
from precc.report.slot_row import SlotRow
from precc.report.source_listings import source_listings
from precc.report.summary import summary_of
from precc.slots import Slot
from precc.source_places import Place
from tests.golden import check_golden

FORMATS = ("float8_e4m3fn/tensor:float32", "float8_e5m2/tensor:float32", "float8_e4m3fn/tensor:float32")


def made_up(count: int = 100, names: str = "model.layers.{k}.self_attention.query_projection") -> PrecisionReport:
    """A report of as many ops, each with an error of its own."""
    rows = [
        LayerRow(
            names.format(k=k),
            "product",
            FORMATS if k % 7 else ("input float8_e4m3fn x weight bfloat16", "bfloat16", "float32"),
            multiply_adds=1_048_576 * (k + 1),
            share=1 / count,
            amin=2.0**-30,
            amax=3.0 + k,
            condition=12.3 * (k + 1),
            predicted=ErrorFigures(0.0, 1e-4, 0.001 * (1 + k * 37 % count)),
            measured=ErrorFigures(0.0, 1e-4, 0.001 * (1 + k * 37 % count)),
            cost=1 / count,
            why="policy ErrorBudget, gradient 0.1; range: 3.1% underflow in e4m3 (wgrad.grad_output)",
        )
        for k in range(count)
    ]
    slots = [
        SlotRow(Slot.parse(f"{row.name}/fprop.weight"), FORMATS[0], "float8_e4m3fn", 8.0, True, row.multiply_adds)
        for row in rows
    ]
    whole = ErrorFigures(1e-5, 2e-3, 0.096)
    calibration = (GroupCalibration("fprop.weight", 3, 1.1, 0.9),)
    step = AnalysedStep(2.3, 0.4, "all 64 examples", "0123456789ab", whole, whole, 4, 0.91, calibration)
    notes = ("in no graph so far: " + ", ".join(f"layers.{k}.weight" for k in range(count)),)
    cost = PlanCost(1.2e9, "bit operations", "BitOps(sum_weight=1.0)")
    plan = PrecisionPlan("e4m3")
    return PrecisionReport("Net", tuple(rows), notes, plan, tuple(slots), step=step, cost=cost, missing=("what: how",))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_a_hundred_layers_fit(width: int) -> None:
    text = made_up().text(width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("\n") < 175
    heading = next(line for line in text.splitlines() if "fprop" in line).split()
    assert [own for own in heading if own != "op"][:4] == ["layer", "fprop", "dgrad", "wgrad"]
    assert width < 60 or "predicted" in heading


def test_what_has_no_room_is_named() -> None:
    text = str(made_up())
    assert str(made_up()) == made_up().text(100)
    assert "no room for op, multiply-adds, range, why: report.text(200)" in text
    assert "* is /tensor:fp32" in text
    assert "[1] input e4m3 x weight bf16" in text
    assert "… stands for the middle of a name" in text
    assert "no room" not in made_up(3, "fc{k}").text(400)
    assert "float8_e4m3fn/tensor:float32" in made_up(3, "fc{k}").text(400)


def test_reasons_without_room_stand_below() -> None:
    """Those of the worst three ops; above where the table has them whole."""
    lines = str(made_up()).splitlines()
    assert "no room for op, multiply-adds, range, why" in str(made_up())
    start = next(k for k, line in enumerate(lines) if line.startswith("why "))
    said = " ".join(" ".join(lines[start : start + 4]).split())
    worst = [row.layer for row in made_up().sorted_by("predicted").rows[:3]]
    assert said.startswith(f"why {', '.join(worst)}: policy ErrorBudget, gradient 0.1; range: 3.1% underflow")
    assert "\nwhy " not in made_up(3, "fc{k}").text(400)


def test_ranges_are_exponents() -> None:
    """Of 2^-30 to 3, 4, 5: rounded down."""
    lines = made_up(3, "fc{k}").text(400).splitlines()
    column = next(line.split().index("range") for line in lines if "fprop" in line)
    assert column > 0
    assert [own for line in lines for own in line.split() if own.startswith("2^")] == [
        "2^-30..1",
        "2^-30..2",
        "2^-30..2",
    ]


def test_slots_that_were_measured_are_named() -> None:
    """The worst five, in the text and in Markdown."""
    report = made_up(7, "fc{k}")
    assert "measured alone" not in str(report)
    errors = [0.1, 0.5, math.nan, 0.3, 0.2, 0.7]
    slots = [replace(row, measured=ErrorFigures(0.0, 0.1, own)) for row, own in zip(report.slots, errors, strict=False)]
    slots[5] = replace(slots[5], predicted=ErrorFigures(0.0, 0.1, 0.02, lost=1.0))
    text = replace(report, slots=(*slots, report.slots[6])).text(400)
    assert "measured alone, the worst of 6 slots: fc5/product/fprop.weight 70.00% (predicted 2.00%?), fc1/" in text
    assert "fc4/product/fprop.weight 20.00%, fc0/product/fprop.weight 10.00%; report.slots has all" in text
    assert "measured alone, the worst of 6 slots" in replace(report, slots=tuple(slots)).to_markdown()


def test_the_text_is_as_it_was() -> None:
    check_golden("report_made_up_100.txt", made_up(12).text(100))
    check_golden("report_made_up_40.txt", made_up(5).text(40))


def test_a_thousand_layers_are_cut_off_with_a_word() -> None:
    report = made_up(1000)
    lines = str(report).splitlines()
    assert len(lines) < 250
    assert any(line.startswith("850 more rows: report.print(rows=None)") for line in lines)
    assert any("characters more in report.notes" in line for line in lines)
    assert len(report.text(rows=None).splitlines()) > 1000
    assert "layers.999.weight" in report.notes[0]


def test_the_summary_is_short_and_names_the_worst() -> None:
    lines = made_up().summary.splitlines()
    assert len(lines) <= 10
    ordered = sorted(made_up().rows, key=lambda row: -row.predicted.gradient if row.predicted else 0.0)
    worst = next(line for line in lines if line.startswith("  worst"))
    best = next(line for line in lines if line.startswith("  best"))
    assert [own.split()[-1] for own in worst.partition(";")[0].split(",")] == [
        f"{row.predicted.gradient:.2%}" for row in ordered[:3] if row.predicted
    ]
    assert f"{ordered[-1].predicted.gradient:.2%}" in best.split(",")[0]  # type: ignore[union-attr]
    assert any("calibrated by 3 measurements of 1 group;" in line and "0.91" in line for line in lines)
    assert any("1.2e+09 bit operations by BitOps" in line for line in lines)


def test_names_are_whole_where_there_is_room() -> None:
    """A name is cut in the summary if its line would not fit otherwise."""
    report = made_up(4, "model.layers.{k}.attention")
    worst = next(line for line in report.summary.splitlines() if "worst" in line)
    assert "model.layers.1" in worst
    assert "…" not in worst
    assert "…" in next(line for line in report.text(60).splitlines() if "worst" in line)


def test_ops_of_equal_cost_are_named_together() -> None:
    assert "20% of it in each of fc0, fc1, fc2 and 2 more" in made_up(5, "fc{k}").summary
    one = made_up(3, "fc{k}")
    rows = (replace(one.rows[0], cost=0.2), replace(one.rows[1], cost=0.5), replace(one.rows[2], cost=0.3))
    assert "50% of it fc1" in replace(one, rows=rows).summary


def test_a_part_of_a_report_has_the_shares_of_the_whole() -> None:
    report = replace(made_up(5, "fc{k}"), rules_block="rules = []")
    part = report.where(layer="fc[12]")
    errors = [row.predicted.gradient for row in report.rows if row.predicted]
    chosen = [row.predicted.gradient for row in part.rows if row.predicted]
    share = sum(own**2 for own in chosen) / sum(own**2 for own in errors)
    assert 0 < share < 0.9
    assert f"; {share:.0%} of the squares" in part.summary
    assert "2 of 5 ops shown" in part.summary
    assert "predicted  of the whole net: loss" in part.summary
    assert "bit operations by BitOps of the whole net, 20% of it in each of fc1, fc2" in part.summary
    assert part.rules_block == "# of the whole net:\nrules = []"
    again = part.where(layer="fc1")
    assert "1 of 5 ops shown" in again.summary
    assert again.rules_block == part.rules_block
    assert PrecisionReport.from_json(part.to_json()) == part


def test_the_summary_is_data_too() -> None:
    report = made_up(7, "fc{k}")
    found = summary_of(report)
    assert report.summary.splitlines()[1:] == [f"  {name:<9}  {text}" for name, text in found.entries]
    ordered = [row.name for row in report.sorted_by("predicted").rows]
    assert [row.name for row in found.worst.rows] == ordered[:3]
    assert [row.name for row in found.best.rows] == ordered[:-4:-1]
    few = summary_of(made_up(4, "fc{k}"))
    assert [len(own.rows) for own in (few.worst, few.best)] == [3, 1]
    assert few.worst.share + few.best.share == pytest.approx(1.0)


def test_names_that_are_shortened_stay_apart() -> None:
    names = [f"{a}.{'x' * 30}.{b}" for a in "abc" for b in range(200)]
    for width in (8, 12, 20):
        short = short_names(names, width)
        assert len(set(short.values())) == len(names)
        assert max(map(len, short.values())) <= width
        assert all("…" in own for own in short.values())


def test_formats_have_their_short_names() -> None:
    for alias, name in ALIASES.items():
        assert short_formats(f"{name}/tensor") == f"{alias}/tensor"
    assert short_formats("xfloat32 float32x float32.1") == "xfloat32 float32x float32.1"


def printed(report: PrecisionReport, **options: Any) -> str:
    file = io.StringIO()
    report.print(Console(file=file, **options))
    return file.getvalue()


def test_colours_are_those_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    report = made_up(3, "fc{k}")
    coloured = printed(report, width=100, force_terminal=True, color_system="standard")
    assert "\x1b[33me4m3*\x1b[0m" in coloured  # yellow: 8 bits
    assert "\x1b" not in printed(report, width=100)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = printed(report, width=100, force_terminal=True, color_system="standard")
    assert "\x1b[33m" not in plain
    assert printed(report, width=100).rstrip("\n") == str(report)


def test_a_narrow_terminal_is_not_exceeded() -> None:
    assert max(map(len, printed(made_up(), width=40).splitlines())) <= 40


def test_what_is_no_terminal_has_the_usual_width(capsys: pytest.CaptureFixture[str]) -> None:
    made_up().print()
    assert capsys.readouterr().out.rstrip("\n") == str(made_up())


HOSTILE = "[bold]a|b<script>*x*\x1b[31m_`\x00\u202e"


def test_names_mean_nothing_where_they_are_printed() -> None:
    report = replace(made_up(2, HOSTILE + "{k}"), title=HOSTILE, rules_block="# \x1b\u202e", missing=(HOSTILE,))
    assert "[bold]a|b<script>" in str(report)
    for text in (str(report), report.to_markdown(), report._repr_html_()):
        assert all(own.isprintable() for line in text.splitlines() for own in line)
    assert "[bold]a|b<script>" in printed(report, width=100, force_terminal=True)
    assert "<script>" not in report.to_markdown()
    row = next(line for line in report.to_markdown().splitlines() if "script" in line and line.startswith("|"))
    assert row.replace(r"\|", "").count("|") == 13
    html = report._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_numbers_that_are_none_do_not_hurt() -> None:
    odd = ErrorFigures(math.nan, math.inf, math.nan, standard_error=math.nan, lost=math.nan)
    rows = [replace(row, predicted=odd, amax=math.inf, condition=math.nan, cost=math.nan) for row in made_up(4).rows]
    report = replace(made_up(4), rows=tuple(rows))
    assert report.step is not None
    report = replace(report, step=replace(report.step, predicted=odd))
    assert "(+- nan" not in report.summary
    for own in (report, report.sorted_by("predicted"), report.sorted_by("condition"), report.where(op="*")):
        assert "nan%" in str(own)
        assert own.to_markdown()
        assert own._repr_html_()
    empty = PrecisionReport("Nothing", (), (), PrecisionPlan("e4m3"))
    for text in (str(empty), empty.to_markdown(), empty._repr_html_(), empty.annotated_source()):
        assert text


def test_sorting_and_filtering() -> None:
    report = made_up(20)
    errors = [row.predicted.gradient for row in report.sorted_by("predicted").rows if row.predicted]
    assert errors == sorted(errors, reverse=True)
    assert [row.slot.op for row in report.sorted_by("predicted").slots] == [
        row.name for row in report.sorted_by("predicted").rows
    ]
    names = [row.layer for row in report.sorted_by("layer").rows]
    assert names == sorted(names)
    unknown = replace(report, rows=(replace(report.rows[0], predicted=None), *report.rows[1:]))
    assert unknown.sorted_by("predicted").rows[-1].layer == report.rows[0].layer
    some = report.where(layer="model.layers.1*")
    assert [row.layer.split(".")[2] for row in some.rows] == ["1", *(str(k) for k in range(10, 20))]
    assert {row.slot.op for row in some.slots} == {row.name for row in some.rows}
    assert report.where(op="add").rows == ()
    assert len(report.where(format="e4m3").rows) == 20
    assert report.where(format="bf16").rows == ()
    with pytest.raises(PlanError, match="sorted by 'size'"):
        report.sorted_by("size")
    with pytest.raises(FormatError):
        report.where(format="e99m99")


def test_formats_of_little_work_are_counted_together() -> None:
    """The line of what was executed names those of a thousandth and more."""
    net: Any = precc.compile(nn.Linear(4, 4), policy="e4m3", backend="reference")
    net(torch.ones(2, 4))
    tally = session_of(net).builds.tally.by_format
    tally.clear()
    tally.update({"float32": 10**6, "bfloat16": 2000, "float16": 300, "int8": 1})
    (line,) = [own for own in net.report().notes if own.startswith("executed so far")]
    assert line == "executed so far: 1,002,301 multiply-adds: float32 99.8%, bfloat16 0.2%, 2 others below 0.1%"


@pytest.mark.parametrize(("width", "rows"), [(10, 5), (80, 0), ("80", 5), (80, 1.5)])
def test_widths_and_rows_are_numbers(width: Any, rows: Any) -> None:
    with pytest.raises(PlanError, match="whole number of at least"):
        made_up(2).text(width, rows=rows)


class Mixed(nn.Module):
    """Lines with one op, with several that are alike, with several that differ, and of another function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        for block in self.blocks:
            x = self.inner(block, x)
        x = x + self.a_function_with_a_name_so_long_that_formats_have_no_room_beside_it(x)
        return x

    def inner(self, block: nn.Module, x: Tensor) -> Tensor:
        found: Tensor = block(x).relu()
        return found

    def a_function_with_a_name_so_long_that_formats_have_no_room_beside_it(self, x: Tensor) -> Tensor:
        return self.last(x) @ self.last.weight


@pytest.fixture(scope="module")
def mixed() -> Any:
    torch.manual_seed(0)
    plan = PrecisionPlan("e4m3", {"blocks.1/product/fprop.weight": "bf16", "first/product/wgrad.input": "e5m2"})
    net: Any = precc.compile(Mixed(), plan=plan, backend="reference")
    net(torch.ones(2, 8)).sum().backward()
    return net


def test_the_source_has_formats_beside_its_lines(mixed: Any) -> None:
    report = mixed.report()
    text = report.annotated_source()
    assert max(len(line) for line in text.splitlines() if "#" in line) <= 100
    assert [listing.name for listing in report.source][:2] == ["Mixed.forward", "Mixed.inner"]
    first = next(line for listing in report.source for line in listing.lines if "self.first(x)" in line.text)
    assert first.ops == ("first/product",)
    assert first.text == Path(__file__).read_text().splitlines()[first.number - 1]
    here = min(line.number for listing in report.source for line in listing.lines)
    numbered = [line.replace(__file__, "tests/test_report_text.py") for line in text.splitlines()]
    check_golden("report_source.txt", "\n".join(_renumbered(line, here) for line in numbered))
    assert max(len(line) for line in report.annotated_source(60).splitlines() if line.strip().startswith("#")) <= 60


def _renumbered(line: str, first: int) -> str:
    """Lines counted from the first function, wherever it is in this file."""
    digits, _, rest = line.partition(" ")
    return f"{int(digits) - first + 1:>3} {rest}" if digits.isdigit() else line


def test_a_file_that_has_changed_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text("def forward(x):\n    return x @ x\n")
    place = Place(str(file), 2, "return x @ x")
    (listing,), missing = source_listings({"product": place})
    assert ([line.ops for line in listing.lines], missing) == ([(), ("product",)], [])
    assert source_listings({"product": replace(place, code="return x + x")})[0] == []
    assert "line 9 is not there any more" in source_listings({"product": replace(place, line=9)})[1][0]
    assert source_listings({"product": replace(place, file=str(tmp_path / "gone.py"))})[0] == []


def test_long_functions_are_not_shown_whole(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text("def forward(x):\n" + "    x = x + 1\n" * 60 + "    return x @ x\n")
    listings, _ = source_listings({"0/product": Place(str(file), 62, "return x @ x")})
    report = replace(made_up(1, "0"), source=tuple(listings))
    lines = report.annotated_source().splitlines()
    assert [line.strip() for line in lines[3:6]] == ["1  def forward(x):", "… 57 lines", "59      x = x + 1"]
    assert len(listings[0].lines) == 62


def test_a_cell_that_is_no_python_is_listed_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "cell.py"
    file.write_text("%matplotlib inline\ny = x @ x\n")
    (listing,), _ = source_listings({"product": Place(str(file), 2, "y = x @ x")})
    assert [(line.number, line.text) for line in listing.lines] == [(2, "y = x @ x")]


def test_models_of_torch_alone_have_no_source() -> None:
    net: Any = precc.compile(nn.Sequential(nn.Linear(4, 4)), policy="e4m3", backend="reference")
    net(torch.ones(2, 4)).sum().backward()
    assert net.report().source == ()
    assert "no line of the model is known" in net.report().annotated_source()


def test_places_are_the_users_lines() -> None:
    net: Any = precc.compile(LeNet5(), policy="e4m3", backend="reference")
    net(torch.zeros(1, 1, 28, 28)).sum().backward()
    places = [row.place for row in net.report().rows]
    assert all(
        own is not None and f"self.{row.layer}(" in own.code for own, row in zip(places, net.report().rows, strict=True)
    )
