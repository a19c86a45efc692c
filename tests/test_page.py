"""The page of a report as text: what it holds, what it lets run, and names with anything in them."""

import base64
import json
import re
import sys
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import precc
from precc.errors import ExtraError
from precc.history import History
from precc.plan import PrecisionPlan
from precc.plan_json import precision_from_json
from precc.report.error_figures import ErrorFigures
from precc.report.film_strip import FilmStrip
from precc.report.layer_row import LayerRow
from precc.report.page.choice_payload import choice_payload, plan_payload
from precc.report.page.colours import colour_of
from precc.report.page.film_payload import film_payload
from precc.report.page.format_list import FormatList
from precc.report.page.packed import figure, packed, script_json
from precc.report.page.page_of import page_of
from precc.report.page.payload import payload_of
from precc.report.precision_report import PrecisionReport
from precc.report.short_names import short_formats
from precc.slots import Slot
from tests.page_reports import LABELS, LEAVES, hostile_name, made_up, without_parts


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", {}))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script":
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(replace(made_up(3), against=made_up(3, seed=1)))


def unpacked(array: dict[str, str]) -> np.ndarray[Any, Any]:
    ((kind, text),) = array.items()
    return np.frombuffer(base64.b64decode(text), f"<{kind}")


def test_a_page_is_one_file_that_fetches_nothing(page: str) -> None:
    elements = Elements(page).found
    assert not {tag for tag, _ in elements} & {
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "video",
        "audio",
    }
    named = [value for _, own in elements for name, value in own.items() if name in ("src", "href", "srcset", "action")]
    assert named == ["#content"]


def test_the_policy_allows_the_scripts_of_the_page_alone(page: str) -> None:
    elements = Elements(page)
    kinds = [own.get("type") for tag, own in elements.found if tag == "script"]
    assert kinds == ["application/json", "text/plain", None]
    policy = next(own["content"] for tag, own in elements.found if own.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src" not in policy
    hashes = [base64.b64encode(sha256(own.encode()).digest()).decode() for own in elements.scripts[1:]]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert not re.search(r"script-src[^;]*unsafe", policy)


def test_no_handlers_stand_in_the_page(page: str) -> None:
    assert not [own for _, own in Elements(page).found if any(name.startswith("on") for name in own)]


@pytest.mark.parametrize("name", [hostile_name(k) for k in range(6)])
def test_names_are_never_markup(name: str) -> None:
    report = replace(
        made_up(1, 3, 1, title=name),
        notes=(name,),
        missing=(name,),
        rows=(LayerRow(name, "product", (name, "-", "-"), 1, 1.0, why=name),),
    )
    text = page_of(report)
    assert text.encode()
    elements = Elements(text)
    plain = Elements(page_of(made_up(1, 3, 1)))
    assert [tag for tag, _ in elements.found] == [tag for tag, _ in plain.found]
    assert json.loads(elements.scripts[0])["notes"] == [name]
    assert "\u2028" not in elements.scripts[0]


def test_what_stands_in_names_of_places_stays_there() -> None:
    text = page_of(made_up(1, 3, 1, title="{{script}} {{payload}} {{unknown}}"))
    assert text.count("{{script}} {{payload}}") == 2  # the title of the document, and the payload


def test_the_payload_has_the_slots() -> None:
    report = made_up(2)
    own = json.loads(script_json(payload_of(report)))
    slots = own["slots"]
    for k, row in enumerate(report.slots):
        assert f"{own['ops']['names'][slots['ops'][k]]}/{slots['leaves'][k]}" == row.name
        assert slots["texts"][slots["precisions"][k]] == row.precision
        assert own["formats"][slots["formats"][k]]["name"] == row.format
        assert row.values is not None
        part = slice(0 if k == 0 else slots["ends"][k - 1], slots["ends"][k])
        found = zip(unpacked(slots["exponents"])[part], unpacked(slots["counts"])[part], strict=True)
        assert tuple(found) == row.values.histogram
    assert own["map"][slots["cells"][0]] == "fprop A"
    assert [own["map"][cell] for cell in slots["cells"][:6]] == [
        f"{role} {part}" for role in ("fprop", "dgrad", "wgrad") for part in "AB"
    ]


def test_operands_are_numbered_in_each_product() -> None:
    names = (
        "fprop.a",
        "fprop.b",
        "dgrad_a.grad_output",
        "dgrad_a.b",
        "dgrad_b.a",
        "fprop.accumulator",
        "dgrad_b.result",
    )
    row = made_up(1).slots[0]
    rows = tuple(replace(row, slot=Slot.parse(f"attn/product#1/{name}")) for name in names)
    own = payload_of(replace(made_up(1), slots=rows, history=History()))
    cells = ["fprop A", "fprop B", "dgrad A", "dgrad B", "wgrad A", "fprop sum", "wgrad result"]
    assert [own["map"][cell] for cell in own["slots"]["cells"]] == cells
    assert own["film"]["columns"] == list(names[:5])


def test_the_payload_has_the_film() -> None:
    report = made_up(2, 12, 3)
    own = payload_of(report)
    film = own["film"]
    plans = unpacked(film["plans"]).reshape(-1, len(film["columns"]), len(film["ops"]))
    assert len(film["frames"]) == 12
    for row, frame in zip(report.history, film["frames"], strict=True):
        plan = report.history.plans[row.plan or ""]
        for (column, op), number in np.ndenumerate(plans[frame]):
            wanted = plan.precision(f"{film['ops'][op]}/{film['columns'][column]}").format.name
            assert own["formats"][number]["name"] == wanted


def test_where_a_plan_rounds_nothing_the_film_has_the_format_of_the_tensors() -> None:
    report = made_up(1)
    rows = tuple(replace(row, format="bfloat16", rounded=False) for row in report.slots)
    history = History()
    history.note(step=0, controller="A", event="b", plan=PrecisionPlan("float64"))
    own = payload_of(replace(report, slots=rows, history=history))
    names = {own["formats"][number]["name"] for number in unpacked(own["film"]["plans"])}
    assert names == {"bfloat16"}


def test_what_is_no_number_stays_told_apart() -> None:
    assert [figure(own) for own in (None, float("nan"), float("inf"), -float("inf"), 3, 0.1)] == [
        None,
        "NaN",
        "Infinity",
        "-Infinity",
        3,
        0.1,
    ]
    report = made_up(1)
    broken = replace(report.rows[0], amax=float("nan"), condition=float("inf"), amin=None)
    own = json.loads(script_json(payload_of(replace(report, rows=(broken,)))))
    assert (own["ops"]["amax"], own["ops"]["condition"], own["ops"]["amin"]) == (["NaN"], ["Infinity"], [None])


def test_choices_are_exact_and_can_be_written() -> None:
    report = made_up(2)
    assert report.choices is not None
    own = choice_payload(report.choices, report.plan, FormatList([report]))
    costs = unpacked(own["costs"]).reshape(len(report.choices.groups), -1)
    assert [tuple(row) for row in costs] == [group.costs for group in report.choices.groups]
    for label, arguments, document in zip(LABELS, own["rules"], own["json"], strict=True):
        rule = eval(f"precc.Rule('conv1', {arguments})", {"precc": precc})
        assert str(rule.precision) == label
        assert precision_from_json(document) == rule.precision


def test_the_plan_of_a_page_is_the_plan() -> None:
    plan = made_up(2).plan
    again = PrecisionPlan.from_json(json.dumps(plan_payload(plan)))
    assert again == plan
    assert again.average_bits == plan.average_bits
    large = PrecisionPlan("e4m3", multiply_adds={"a/product/fprop.input": 2**53 + 1, "b/product/fprop.input": 2**53})
    assert plan_payload(large)["multiply_adds"] == {"b/product/fprop.input": 2**53}


def test_a_format_of_ones_own_has_no_text() -> None:
    assert made_up(1).choices is not None
    table = replace(made_up(1).choices, labels=("mine", *LABELS[1:]))
    own = choice_payload(table, PrecisionPlan("e4m3"), FormatList([replace(made_up(1), choices=table)]))
    assert own["rules"][0] is own["json"][0] is None
    assert None not in own["rules"][1:]


def test_formats_are_ordered_and_coloured_by_bits() -> None:
    names = ["float4_e2m1fn", "float32", "e4m5", "bfloat16", "strange"]
    own = FormatList([], names).payload()
    assert [entry["name"] for entry in own] == ["float32", "bfloat16", "e4m5", "float4_e2m1fn", "strange"]
    assert [entry["short"] for entry in own[:2]] == ["fp32", "bf16"]
    again = FormatList([made_up(1)], names).payload()
    assert {entry["name"]: entry["colour"] for entry in own}.items() <= {
        entry["name"]: entry["colour"] for entry in again
    }.items()


def test_named_formats_have_colours_of_their_own() -> None:
    colours = {name: colour_of(name, fmt.bits) for name, fmt in precc.FORMATS.items()}
    assert len(set(colours.values())) == len(colours)
    assert all(re.fullmatch("#[0-9a-f]{6}", own) for own in colours.values())
    assert all(re.fullmatch("#[0-9a-f]{6}", colour_of(f"own{bits}", bits)) for bits in (0, 1, 4.25, 9, 33, 128))
    assert len({short_formats(name) for name in precc.FORMATS}) == len(precc.FORMATS)


def test_a_report_of_nothing_is_a_page() -> None:
    empty = PrecisionReport("Net", (), (), PrecisionPlan("e4m3"))
    for report in (empty, without_parts(made_up(1))):
        assert Elements(page_of(report)).scripts


def test_the_overview_is_the_summary_that_is_printed() -> None:
    report = made_up(8)
    lines = [f"  {name:<9}  {text}" for name, text in payload_of(report)["summary"]]
    assert lines == report.text(100_000).splitlines()[1 : len(lines) + 1]
    worst, best = (set(re.findall(r"blocks[.\w]+", line)) for line in lines if line.startswith(("  worst", "  best")))
    assert len(worst) == len(best) == 3
    assert not worst & best


def test_errors_of_the_loss_have_their_mean_and_those_of_gradients_their_doubts() -> None:
    report = made_up(2)
    sure, unsure = ErrorFigures(3.0, 4.0, 0.2, standard_error=0.01), ErrorFigures(0.0, 1.0, 0.3, lost=1.0)
    rows = (replace(report.rows[0], predicted=sure), replace(report.rows[1], predicted=unsure, measured=None))
    own = payload_of(replace(report, rows=rows))["ops"]
    assert own["predicted_loss"] == [5.0, 1.0]
    assert own["predicted_within"] == [0.01, None]
    assert own["predicted_doubt"] == ["", "a slot loses 100%"]
    assert own["measured_doubt"][1] == ""


def test_formats_are_short_beside_their_whole_names() -> None:
    report = made_up(1)
    formats = ("float8_e4m3fn/tensor:float32", "input float6_e2m3fn x weight bfloat16", "-")
    own = payload_of(replace(report, rows=(replace(report.rows[0], formats=formats),)))["ops"]
    assert own["formats"] == [list(formats)]
    assert own["short"] == [["e4m3*", "input e2m3 x weight bf16", "-"]]
    assert own["stars"] == ["* is /tensor:fp32"]


def test_the_legend_has_the_formats_that_are_used() -> None:
    report = made_up(1, decisions=0)
    rows = tuple(replace(row, format="float32") for row in report.slots)
    used = [own["name"] for own in payload_of(replace(report, slots=rows))["formats"] if own["used"]]
    assert used == ["float32"]


def test_columns_of_the_map_are_called_as_the_operands() -> None:
    own = payload_of(made_up(1))
    names = [own["columns"][cell] for cell in own["slots"]["cells"]]
    assert names == list(LEAVES)


def test_the_difference_of_two_plans_is_in_the_payload() -> None:
    own = payload_of(replace(made_up(2), against=made_up(2, seed=1)))["against"]
    assert own["changes"] == [str(change) for change in made_up(2, seed=1).plan.diff(made_up(2).plan)]
    assert len(own["slots"]) == 12


def test_without_plotly_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ExtraError, match=r"pip install 'precc\[report\]'"):
        page_of(made_up(1))


def test_paths_of_the_machine_are_not_in_the_page() -> None:
    report = made_up(1)
    listing = replace(report.source[0], file="/home/somebody/secret/net.py")
    assert "somebody" not in page_of(replace(report, source=(listing,)))


def test_a_thousand_plans_of_a_thousand_layers_are_some_megabytes() -> None:
    """The worst film: another plan at each of 1,000 decisions."""
    draw = np.random.default_rng(0)
    plan = [tuple(map(tuple, draw.integers(0, 2, (6, 1000)).tolist())) for _ in range(10)]
    ops, columns = tuple(f"layers.{k}/product" for k in range(1000)), tuple(f"fprop.{k}" for k in range(6))
    rows = made_up(1, 1000, 1).history
    film = FilmStrip(ops, columns, ("float32", "bfloat16"), tuple(plan * 100), tuple(range(1000)), tuple(rows))
    text = script_json(film_payload(film, FormatList([], film.formats)))
    assert len(text) < 9e6


def test_arrays_are_little_endian() -> None:
    assert base64.b64decode(packed([1, -2], "i2")["i2"]) == b"\x01\x00\xfe\xff"
