"""What the pages quote is what the scripts in benchmarks/ measured: each number with its file, and the script of it."""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from tests.pages import DOCS, README, ROOT, pages

RESULTS = ROOT / "benchmarks" / "results"
NUMBERS, ANALYSIS, CHOOSING = DOCS / "numbers.md", DOCS / "guide" / "analysis.md", DOCS / "guide" / "choosing.md"
CONTROLLERS, PLANS, MODELS = (DOCS / "guide" / f"{name}.md" for name in ("controllers", "plans", "models"))


@cache
def result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _error_model(file: str, *keys: str) -> Any:
    found = result(file)["summary"]["all"]
    for key in keys:
        found = found[key]
    return found


def _within(file: str, what: str) -> tuple[float, ...]:
    return tuple(_error_model(file, one, what) for one in ("loss deviation", "gradient"))


def _controller(task: str, name: str) -> tuple[float, float, float, float]:
    """Difference to float32, mean, least and most, in points of accuracy or in nats of loss; average bits."""
    own = result("controllers")["summary"][task][name]
    unit = {"lenet5": 100, "gpt": -1}[task]
    differences = [unit * better for better in own["better_than_float32"]]
    return mean(differences), min(differences), max(differences), own["average_bits"]


def _llama(precision: str) -> float:
    return mean(
        run["validation_loss"] for run in result("tiny_llama_shakespeare")["runs"] if run["precision"] == precision
    )


def _bit_budget(net: str, what: str) -> tuple[float, float]:
    factors = [at["uniform"][what] for at in result("bit_budget")["median_factors"][net].values()]
    return min(factors), max(factors)


def _threshold(rule: str) -> float:
    rows = [
        row
        for row in result("thresholding")["summary"]
        if (row["experiment"], row["activation"]) == ("inference", "tanh")
    ]
    (own,) = [row["accuracy"] for row in rows if row["rule"] == rule and 0.84 < row["low"] < 0.86]
    return float(own)


def _gated() -> tuple[int, int]:
    """Steps that were accepted behind a gate, and those of them that raised the true loss."""
    runs = [
        run for run in result("gate")["runs"] if run["run"] not in ("no gate", "float32", "STORM, float32", "MPSGD")
    ]
    return sum(run["accepted"] for run in runs), sum(run["violations"] for run in runs)


def _onnx(model: str, format: str) -> list[float]:
    rows = [row for row in result("onnx_inference")["rows"] if (row["model"], row["format"]) == (model, format)]
    rows = [row for row in rows if (row["flavor"], row["opset"]) == ("portable", 26)]
    return [row["ratio"] for row in sorted(rows, key=lambda row: row["batch"])]


_STEP = "median_ratio_to_eager"

#: Rows of the table of controllers, and the trainings that they are of.
CONTROLLED = {
    "bf16": "bf16",
    "e4m3, scaled": "e4m3, scaled",
    "e2m3, scaled": "e2m3, scaled",
    "e2m1, scaled: the coarsest plan": "e2m1, scaled",
    "a random plan of NoiseAware's bits": "random plan",
    "**`NoiseAware`**": "NoiseAware",
    "`MPSGD`": "MPSGD",
    "`AdaPT`": "AdaPT",
    "`LateSwitch`, from e2m3": "LateSwitch",
    "`SharpnessGuard`, from e2m3": "SharpnessGuard",
    "`TrustRegion`, float32 alone": "TrustRegion, float32",
    "`TrustRegion`": "TrustRegion",
    '`TrustRegion(gate="difference")`': "TrustRegion, difference",
    '`TrustRegion(levels="budget")`': "TrustRegion, budget",
    "`STORM`": "STORM",
}

#: A page, what it says, and the numbers that stand there.
QUOTES: list[tuple[Path, str, Callable[[], tuple[Any, ...]]]] = [
    (
        README,
        "{:.0%} of the predicted deviations of the loss and {:.0%} of the errors of the gradient",
        lambda: _within("error_model", "within 1.5"),
    ),
    (
        ANALYSIS,
        "{:.0%} of the predicted deviations of the loss and {:.0%} of the errors",
        lambda: _within("error_model", "within 1.5"),
    ),
    (
        ANALYSIS,
        "{:.0%} of the draws of the loss are in",
        lambda: (_error_model("error_model", "draws within the interval of 95%"),),
    ),
    (
        ANALYSIS,
        "Of the {} cases where the *mean*",
        lambda: (_error_model("error_model", "loss mean, where clear", "n"),),
    ),
    (ANALYSIS, "it is {:.0%} and {:.0%} within 1.5", lambda: _within("error_model_results", "within 1.5")),
    (ANALYSIS, "and {:.1%} and {:.1%} within 3", lambda: _within("error_model_results", "within 3")),
    (
        NUMBERS,
        "7 kinds of nets, {:,} cases | {:.0%} |",
        lambda: (_error_model("error_model", "loss deviation", "n"), _within("error_model", "within 1.5")[0]),
    ),
    (
        NUMBERS,
        "error of the gradient, within 1.5; {:,} cases | {:.0%} |",
        lambda: (_error_model("error_model", "gradient", "n"), _within("error_model", "within 1.5")[1]),
    ),
    (
        NUMBERS,
        "predicted interval of 95% | {:.0%} |",
        lambda: (_error_model("error_model", "draws within the interval of 95%"),),
    ),
    (
        NUMBERS,
        "2,000 groups, in seconds | {:.2f} |",
        lambda: tuple(result("assignment")["summary"]["2000_groups"].values())[:1],
    ),
    (NUMBERS, "at bits on average | {:.3f}, {:.1f} |", lambda: _controller("gpt", "NoiseAware")[::3]),
    (
        NUMBERS,
        "LeNet-5 and GPT | {:.1%}, {:.1%} |",
        lambda: tuple(row["overhead"] for row in result("control_overhead")["rows"][:2]),
    ),
    (NUMBERS, "true loss, of {:,} | {} |", _gated),
    (
        NUMBERS,
        "unscaled e4m3 | {:.2f}, {:.2f}, {:.2f}, {:.2f} |",
        lambda: tuple(map(_llama, ("fp32", "bf16", "scaled e4m3/e5m2", "unscaled e4m3"))),
    ),
    (
        NUMBERS,
        "a tiny Llama | {:.2f} |",
        lambda: (next(iter(result("step_overhead")["models"].values()))["median_ratio"]["live slots"],),
    ),
    (NUMBERS, "batch of 1 | {:.1f} |", lambda: tuple(_onnx("LeNet-5", "float8_e4m3fn")[:1])),
    (
        NUMBERS,
        "that store results, {:,} and {:,} cases | {:.0%}, {:.0%} |",
        lambda: (*_within("error_model_results", "n"), *_within("error_model_results", "within 1.5")),
    ),
    (
        NUMBERS,
        "single slots, median | {:.2f} |",
        lambda: (_error_model("error_model", "rank correlation of slots", "gradient", "predicted"),),
    ),
    (
        NUMBERS,
        "that round nothing | {:.0f} |",
        lambda: (result("analysis_cost")["nets"]["lenet5"]["steps"]["analysis"],),
    ),
    (NUMBERS, "random problems | {:.1%} |", lambda: (result("assignment")["summary"]["cost_over_exact"]["largest"],)),
    (
        CHOOSING,
        "it takes {:.1f} s for 2,000 groups, {:.1f} s for their front",
        lambda: tuple(result("assignment")["summary"]["2000_groups"].values()),
    ),
    (CHOOSING, "{:.1f} to {:.1f} times smaller on the GPT", lambda: _bit_budget("gpt", "loss")),
    (CHOOSING, "{:.1f} to {:.1f} times on ResNet-20", lambda: _bit_budget("resnet20", "loss")),
    (CHOOSING, "{:.1f} to {:.1f} times on LeNet-5", lambda: _bit_budget("lenet5", "loss")),
    (
        README,
        "err {:.1f} to {:.1f} times less",
        lambda: (_bit_budget("lenet5", "loss")[0], _bit_budget("gpt", "loss")[1]),
    ),
    (
        NUMBERS,
        "GPT at 8 bits | {:.1f} |",
        lambda: (result("bit_budget")["median_factors"]["gpt"]["8"]["uniform"]["loss"],),
    ),
    (
        CHOOSING,
        "{:.2f} of the bytes on a GPT, {:.2f} on ResNet-20 and {:.2f} on LeNet-5",
        lambda: tuple(
            result("stored_results")["relative to bfloat16"][net]["results chosen"]["bytes"]
            for net in ("gpt", "resnet20", "lenet5")
        ),
    ),
    (
        NUMBERS,
        "over those of bfloat16 | {:.2f} |",
        lambda: (result("stored_results")["relative to bfloat16"]["gpt"]["results chosen"]["bytes"],),
    ),
    (
        NUMBERS,
        r"at 6, 8 and 12 bits \* | {:.2f}, {:.2f}, {:.2f} |",
        lambda: tuple(
            result("modelopt_plans")["summary"][f"{bits} bits"]["modelopt gradient"][
                "loss error over ours in the same space"
            ]["median"]
            for bits in (6, 8, 12)
        ),
    ),
    (
        NUMBERS,
        "int4, random plans | {:.3f}, {:.3f}, {:.3f} |",
        lambda: tuple(
            result("weight_budgets")["medians"]["lenet5"]["4"][own]["loss"] for own in ("hessian", "uniform", "random")
        ),
    ),
    (NUMBERS, "at random (tanh) | {:.1%}, {:.1%} |", lambda: (_threshold("condition"), _threshold("random"))),
    (
        NUMBERS,
        "calibrated with | {:.0%} |",
        lambda: (
            result("roofline_cpu")["summary"]["held_out_modelled_over_measured"]["float32 x float32"]["within_1.5"],
        ),
    ),
    (README, "lost {:.3f} nats", lambda: _controller("gpt", "NoiseAware")[:1]),
    (README, "at {:.1f} bits an operand on average", lambda: _controller("gpt", "NoiseAware")[3:]),
    (
        CONTROLLERS,
        "takes {:.1%} (LeNet-5, batches of 512) and {:.1%} (the GPT)",
        lambda: tuple(row["overhead"] for row in result("control_overhead")["rows"][:2]),
    ),
    (
        NUMBERS,
        "trust region, SGD | {:.1%}, {:.1%} |",
        lambda: tuple(
            result("trust_region_lenet5")["summary"][own]["mean"]
            for own in ("trust region, dynamic", "sgd, momentum 0.0")
        ),
    ),
    (
        MODELS,
        "{:.2f} in fp32",
        lambda: (_llama("fp32"),),
    ),
    (MODELS, "{:.2f} in e4m3 without scales", lambda: (_llama("unscaled e4m3"),)),
    (NUMBERS, "over a copy of it | {:.2f} |", lambda: (result("rounding")["rows"]["e4m3"]["ratio"],)),
    (NUMBERS, "over float32 | {:.1f} |", lambda: (result("accumulate")["ratio_to_float32"]["e5m10 fused"],)),
    (
        NUMBERS,
        "by Inductor | {:.2f}, {:.2f} |",
        lambda: tuple(
            result("train_step")["models"][own][_STEP]["inductor nearest_even"] for own in ("lenet5", "resnet20")
        ),
    ),
    (
        PLANS,
        "{:.2f} of the time on a tiny Llama and {:.2f} on ResNet-20",
        lambda: tuple(own["median_ratio"]["no slots"] for own in result("step_overhead")["models"].values()),
    ),
    (
        PLANS,
        "live slots {:.2f} and {:.2f}",
        lambda: tuple(own["median_ratio"]["live slots"] for own in result("step_overhead")["models"].values()),
    ),
    (PLANS, "before takes {:.3f} ms", lambda: (result("step_overhead")["switch_ms"]["median"],)),
    (
        NUMBERS,
        "48 layers | {:.0%}, {:.0%}, {:.0%} |",
        lambda: tuple(own["passes_over_capture"] for own in result("compile_time")["llama"]),
    ),
    (
        DOCS / "guide" / "onnx.md",
        "e4m3 takes {:.1f}, {:.1f} and {:.1f} times as long on LeNet-5",
        lambda: tuple(_onnx("LeNet-5", "float8_e4m3fn")),
    ),
    (
        NUMBERS,
        "nanoseconds an element | {:.1f} |",
        lambda: (result("onnx_roundings")["rows"]["e4m3, opset 26"]["ns_per_element"],),
    ),
    (NUMBERS, r"320,000 each \* | {:,} |", lambda: (result("peers")["peers"]["gfloat"]["mxfp8_e4m3"]["equal"],)),
]


@pytest.mark.parametrize(("page", "says", "numbers"), QUOTES, ids=[says[:40] for _, says, _ in QUOTES])
def test_a_quoted_number_is_that_of_the_file(page: Path, says: str, numbers: Callable[[], tuple[Any, ...]]) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert says.format(*numbers()) in text


def test_each_number_on_the_page_of_numbers_is_quoted() -> None:
    """And so checked: no row is left out."""
    text = " ".join(NUMBERS.read_text(encoding="utf-8").split())
    rows = [row.split("|")[1:3] for row in NUMBERS.read_text(encoding="utf-8").splitlines() if row.startswith("| ")]
    rows = [row for row in rows if row[0].strip() not in ("what", "---")]
    quoted = [says.format(*numbers()) for page, says, numbers in QUOTES if page == NUMBERS]
    assert len(rows) > 20
    assert [own for own in quoted if own not in text] == []
    for what, number in rows:
        own = " ".join(f"{what}|{number}|".split())
        assert any(quote.strip("| ") in own for quote in quoted), own


def test_the_table_of_controllers_is_that_of_the_file() -> None:
    table = CONTROLLERS.read_text(encoding="utf-8").partition("| training in |")[2].partition("\n\n")[0]
    shown = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    made = [
        [
            name,
            *(cell for task, digits in (("lenet5", 2), ("gpt", 3)) for cell in _cells(_controller(task, own), digits)),
        ]
        for name, own in CONTROLLED.items()
    ]
    assert shown == made
    assert set(CONTROLLED.values()) == set(result("controllers")["summary"]["gpt"]) - {"float32"}


def _cells(numbers: tuple[float, float, float, float], digits: int) -> list[str]:
    *differences, bits = numbers
    average, least, most = (f"{own:+.{digits}f}" for own in differences)
    return [f"{average} ({least} to {most})", f"{bits:.1f}"]


def test_no_step_behind_a_gate_raised_the_loss() -> None:
    accepted, raised = _gated()
    assert raised == 0
    for page in (CONTROLLERS, NUMBERS):
        assert f"{accepted:,}" in page.read_text(encoding="utf-8")


def test_each_result_has_its_script_on_the_page_of_numbers() -> None:
    rows = [row.split("|") for row in NUMBERS.read_text(encoding="utf-8").splitlines() if row.startswith("| ")]
    scripts: dict[str, str] = {}
    script = ""
    for row in rows:
        found = re.search(r"`(benchmarks/\w+\.py)`", row[3])
        script = found[1] if found else script
        if data := re.search(r"`(benchmarks/results/\w+\.json)`", row[4]):
            scripts[data[1]] = script
    assert set(scripts) == {f"benchmarks/results/{path.name}" for path in RESULTS.glob("*.json")}
    for data, script in scripts.items():
        assert data.rpartition("/")[2] in (ROOT / script).read_text(encoding="utf-8"), script


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_results_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"benchmarks/[\w./]+\w", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_make_bench_runs_each_script_but_those_of_peers() -> None:
    target = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nbench:")[2]
    listed = set(re.findall(r"benchmarks/(\w+)\.py", target))
    scripts = set(re.findall(r"`benchmarks/(\w+)\.py`", NUMBERS.read_text(encoding="utf-8")))
    assert scripts - listed == {"peers", "modelopt_plans", "stored_results"}
