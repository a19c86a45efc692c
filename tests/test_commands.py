"""All commands: each has a help with an example, a run that succeeds, and one that fails."""

import io
import json
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from rich.table import Table

import precc
from precc.cli import main
from precc.commands import COMMANDS, GROUPS
from precc.commands.bench import _turns
from precc.commands.factories import task_of_spec
from precc.commands.output import json_text, progress, say
from precc.commands.parser import command_parser
from precc.commands.places import writable_file, writable_folder
from precc.devices.workloads import SIZES, Sizes
from precc.provenance import Provenance
from tests.command_files import write_digits, write_files

ROOT = Path(__file__).resolve().parent.parent
REPORTS = {f"report.{suffix}" for suffix in ("txt", "json", "html")}


@dataclass(frozen=True)
class Case:
    """What a command is run with, in a folder with the files of `write_files` and some more.

    Args:
        succeeds: arguments, and what the document then has.
        fails: arguments, and what stderr then says.
    """

    succeeds: tuple[str, tuple[str, ...]]
    fails: tuple[str, str]


CASES: Mapping[str, Case] = {
    "demo": Case(
        ("--epochs 1 --data digits --backend reference", ("accuracy", "wrote")), ("--data absent", "does not exist")
    ),
    "train": Case(
        ("net.py:task --plan e4m3 --steps 2 --backend reference --out run", ("steps", "loss", "wrote")),
        ("net.py:task --controller LateSwitch --out late", "LateSwitch has to know when to switch"),
    ),
    "report": Case(
        ("net.py:factory --plan e4m3/tensor --sort predicted --where fc*", ("rows", "plan")),
        ("net.py:factory --plan e4m33x", "'e4m33x' is neither a format"),
    ),
    "compare": Case(
        ("net.py:factory e4m3 plan.json --measure 2", ("plans", "gradient_norm")),
        ("net.py:factory other.json", "'other.json' is neither a format"),
    ),
    "explain": Case(
        ("step.precc fc1/fprop.weight --plan e4m3", ("slot", "precision", "text")),
        ("step.precc fc3/fprop.weight", "has no slot 'fc3/fprop.weight'"),
    ),
    "bench": Case(
        (
            "net.py:factory --rounds 2 --backend reference --no-memory --variant eager --variant precc",
            ("variants", "machine"),
        ),
        ("net.py:module_alone --no-memory", "makes a Net alone: return the example's inputs too"),
    ),
    "plan show": Case(("plan.json", ("plan",)), ("absent.json", "cannot read the plan 'absent.json'")),
    "plan diff": Case(("plan.json net.onnx", ("changes",)), ("plan.json other.json", "other.json")),
    "plan apply": Case(("plan.json step.precc", ("plan", "cost", "predicted_error")), ("plan.json plan.json", "")),
    "plan assign": Case(
        ("step.precc --gradient 0.1", ("plan", "average_bits")), ("step.precc", "assign needs one budget")
    ),
    "plan pareto": Case(("step.precc --points 3", ("plans",)), ("step.precc --points 1", "at least 2")),
    "calibrate": Case(
        ("--device cpu --seconds 0.01", ("rates", "bandwidth")), ("--device cpu --seconds nan", "how long to measure")
    ),
    "export": Case(
        ("net.py:factory --plan plan.json --out new.onnx", ("wrote", "rounded")),
        ("net.py:factory --out absent/net.onnx", "there is no folder 'absent'"),
    ),
    "verify": Case(("net.onnx net.py:factory", ("ok", "rows")), ("plan.json net.py:factory", "plan.json")),
    "node-data": Case(("net.onnx", ("wrote",)), ("net.onnx --what beauty", "says nothing of 'beauty'")),
    "kernels": Case(
        ("net.py:factory --plan e4m3/tensor --target sm_80", ("name", "instructions")),
        ("net.py:factory --target sm_70", "invalid choice: 'sm_70'"),
    ),
    "formats": Case(("", ("formats", "families")), ("--sideways", "unrecognized arguments: --sideways")),
    "ops": Case(("", ("operators",)), ("--sideways", "unrecognized arguments: --sideways")),
    "completion": Case(("bash", ()), ("fish", "invalid choice: 'fish'")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = tmp_path_factory.mktemp("commands")
    write_files(own)
    (own / "digits").mkdir()
    write_digits(own / "digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(own)
        assert main(["export", "net.py:factory", "--plan", "plan.json"]) == 0
    return own


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    tiny = Sizes(products=((16, 16, 16),), casts=((16, 16),))
    monkeypatch.setitem(SIZES, "cpu", tiny)


def run(name: str, arguments: str) -> int:
    """The exit code, of usage too."""
    try:
        return main([*name.split(), *arguments.split()])
    except SystemExit as left:
        return int(str(left.code))


def test_every_command_has_its_cases() -> None:
    assert set(CASES) == set(COMMANDS)
    assert {name.partition(" ")[0] for name in COMMANDS if " " in name} == set(GROUPS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_words_for_every_argument(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"precc {name} " in text.partition("example")[2]
    parser = subparser(name)
    described = [own for own in parser._actions if own.help is None]
    assert described == []


def subparser(name: str) -> Any:
    found: Any = command_parser("0")
    for part in name.split():
        found = found._subparsers._group_actions[0].choices[part]
    return found


@cache
def succeeded(name: str) -> tuple[int, str]:
    """Exit code and stdout of the run that succeeds, as JSON where the command has it; run once."""
    text = io.StringIO()
    with redirect_stdout(text):
        code = run(name, f"{CASES[name].succeeds[0]} {'--json' if COMMANDS[name].json else ''}")
    return code, text.getvalue()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_that_succeeds(name: str) -> None:
    code, text = succeeded(name)
    assert code == 0
    if COMMANDS[name].json:
        document = json.loads(text)
        assert set(CASES[name].succeeds[1]) <= set(document[0] if isinstance(document, list) else document)
    else:
        assert text


def test_what_the_demo_leaves(folder: Path) -> None:
    document = json.loads(succeeded("demo")[1])
    names = {entry.name for entry in (folder / "out").iterdir()}
    assert names == {"plan.json", *REPORTS, "lenet5.onnx", "lenet5.onnx.precc.json"}
    assert {Path(own).name for own in document["wrote"]} == names
    assert len(precc.PrecisionPlan.load(folder / "out" / "plan.json").slots) == 28
    onnx.checker.check_model(onnx.load(folder / "out" / "lenet5.onnx"))
    text = (folder / "out" / "report.txt").read_text()
    for part in ("precision of LeNet5", "test accuracy:", "multiply-adds of the training", "compilations: 2"):
        assert part in text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_that_fails(name: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    before = sorted(folder.iterdir())
    arguments, message = CASES[name].fails
    code = run(name, arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    if code == 1:
        assert printed.err.startswith("precc: ")
        assert printed.err.count("\n") == 1
    else:
        assert code == 2
        assert printed.err.startswith("usage: ")
    assert [own for own in sorted(folder.iterdir()) if own not in before and own.suffix == ".onnx"] == []


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "net.py:factory e4m3 plan.json") == 0
    text = capsys.readouterr().out
    for part in ("Net: loss ", "best uniform at the cost of e4m3", "no rounding", "from e4m3 to plan.json: 1 diff"):
        assert part in text
    assert "fc2/product/fprop.weight: e4m3 -> bf16" in text
    names = precc.Analysis.load("step.precc").operands
    precc.PrecisionPlan("e4m3", dict.fromkeys(names, "e5m2")).save("long.json")
    assert run("compare", "net.py:factory e4m3 long.json") == 0
    text = capsys.readouterr().out
    assert text.count("e4m3 -> e5m2") == 5 < len(names)
    assert text.splitlines()[-1].strip().startswith("and ")
    assert run("bench", CASES["bench"].succeeds[0]) == 0
    text = capsys.readouterr().out
    for part in (
        "forward and backward on ",
        "first step",
        "beside eager",
        "precc: no rounding, with live slots, by the",
    ):
        assert part in text


def test_errors_that_are_compared_are_those_of_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "net.py:factory fp32 bf16 e4m3/tensor --measure 4 --json") == 0
    plans = {own["name"]: own for own in json.loads(capsys.readouterr().out)["plans"]}
    assert plans["fp32"]["measured"]["gradient"] == 0 == plans["fp32"]["predicted"]["gradient"]
    assert plans["fp32"]["average_bits"] == 32
    for name in ("bf16", "e4m3/tensor"):
        own = plans[name]
        assert 0.3 < own["measured"]["gradient"] / own["predicted"]["gradient"] < 3
    assert plans["bf16"]["predicted"]["gradient"] < plans["e4m3/tensor"]["predicted"]["gradient"]
    control = next(own for own in plans.values() if "e4m3/tensor" in (own["control"] or ""))
    assert control["predicted"]["gradient"] <= plans["e4m3/tensor"]["predicted"]["gradient"]
    assert control["cost"]["value"] <= plans["e4m3/tensor"]["cost"]["value"]


OF_MODELS = ("--plan e4m3", "--by slot", "--seed 3", "--backend cpp", "--measure 2", "--weights state.pt")


def test_a_report_is_saved_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved, table = tmp_path / "report.json", tmp_path / "report.md"
    assert run("report", f"net.py:factory --plan e4m3 --against bf16 --out {saved} --out {table}") == 0
    first = capsys.readouterr().out
    assert run("report", f"net.py:factory --plan bf16 --against {saved} --json") == 0
    assert json.loads(capsys.readouterr().out)["against"]["plan"] == json.loads(saved.read_text())["plan"]
    assert "against" in first
    assert f"wrote {saved}, {table}" in first
    assert run("report", f"{saved} --sort layer") == 0
    assert capsys.readouterr().out.splitlines()[0] == first.splitlines()[0]
    for arguments, message in (
        *((f"{saved} {own}", f"{own.split()[0]} is of a model") for own in OF_MODELS),
        (f"{saved} --where conv9", "no layer fits 'conv9': there are fc1, fc2"),
        (f"{saved} --sort beauty", "not sorted by 'beauty'"),
        ("plan.json", "plan.json"),
        ("absent.json", "absent.json"),
        (f"{saved} --out {tmp_path / 'report.pdf'}", "'report.pdf'"),
    ):
        assert run("report", arguments) == 1
        assert message in capsys.readouterr().err


def test_a_model_with_a_loss_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "net.py:own_loss --plan bf16 --json") == 0
    assert json.loads(capsys.readouterr().out)["step"]["loss"] > 0


def test_a_model_without_a_loss(capsys: pytest.CaptureFixture[str]) -> None:
    """As the mean square of its output, which stderr says."""
    assert run("report", "net.py:no_loss --plan bf16 --json") == 0
    printed = capsys.readouterr()
    what = "no loss is given, so that errors are of the mean square of the output of Net"
    assert printed.err.startswith(f"precc: {what}; ")
    assert printed.err.endswith("return model, (x,), lambda output: F.cross_entropy(output, y)\n")
    own = task_of_spec("net.py:no_loss")
    assert json.loads(printed.out)["step"]["loss"] == pytest.approx(own.module(*own.inputs).square().mean().item())


def test_explaining_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "net.py:factory fc1/fprop.weight --plan e4m3") == 0
    assert "fc1/product/fprop.weight: float8_e4m3fn" in capsys.readouterr().out


def test_the_memory_of_a_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "net.py:factory --rounds 1 --backend reference --variant eager --json") == 0
    document = json.loads(capsys.readouterr().out)
    assert 2**26 < document["variants"]["eager"]["memory"] < 2**34
    assert document["machine"]["threads"] >= 1


def test_completion_knows_commands_options_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "tcsh"):
        assert main(["completion", shell]) == 0
        text = capsys.readouterr().out
        for part in ("node-data", "assign", "--against", "TrustRegion"):
            assert part in text
    assert main(["completion", "bash"]) == 0
    text = capsys.readouterr().out
    script = f"{text}\nCOMP_WORDS=(precc report --o); COMP_CWORD=2; _shtab_precc; printf '%s\\n' ${{COMPREPLY[@]}}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert "--out" in found.stdout.split()
    assert "plan_json_COMPGEN=_shtab_compgen_files" in text or "_plan_show_pos_0_COMPGEN=_shtab_compgen_files" in text


def test_without_the_package_completion_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "precc[completion]" in capsys.readouterr().err
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "completion" in listed


def test_without_the_extra_of_pages_the_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert run("train", f"net.py:task --plan e4m3 --steps 1 --backend reference --out {tmp_path}") == 0
    assert "no report.html is written: " in capsys.readouterr().err
    assert {own.name for own in tmp_path.iterdir()} >= {"report.json", "report.txt", "plan.json"}
    assert not (tmp_path / "report.html").exists()
    assert run("report", f"net.py:factory --out {tmp_path}/page.html") == 1
    assert "precc[report]" in capsys.readouterr().err


def test_places_are_looked_at_before_the_work() -> None:
    for look in (writable_file, writable_folder):
        with pytest.raises(OSError, match="/proc"):
            look("/proc/new" if look is writable_file else "/proc")
    with pytest.raises(NotADirectoryError, match="'plan.json' is a file"):
        writable_folder("plan.json")


@pytest.mark.parametrize("name", ["train", "demo"])
def test_a_folder_that_cannot_be_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"train": "net.py:task --steps 1 --out /proc", "demo": "--data digits --out /proc"}[name]
    assert run(name, given) == 1
    assert "cannot write in the folder '/proc'" in capsys.readouterr().err


def chosen(**own: Any) -> Any:
    return SimpleNamespace(**{"json": False, "no_color": False, **own})


def test_tables_are_whole_where_no_terminal_is(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    table = Table("long", "words", box=None)
    table.add_row("a" * 200, "b" * 200)
    say(chosen(), {}, table)
    assert f"{'a' * 200}  {'b' * 200}\n" in capsys.readouterr().out


def test_numbers_that_json_has_not() -> None:
    assert json.loads(json_text({"a": [float("nan"), float("inf"), 1.5, (2,)]})) == {"a": ["NaN", "Infinity", 1.5, [2]]}


def test_a_bar_is_for_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def show() -> str:
        with progress(chosen(), 4, done=1) as bar:
            bar.at("reading")
            bar.advance("writing")
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err

    assert show() == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "2/4" in show()


def test_terminals_with_and_without_colour(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """In a terminal of 40 columns, too, all of a table and of a report can be read."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    colour = "\x1b[3"
    for given, coloured in (("", True), ("--no-color", False)):
        assert run("report", f"net.py:factory --plan e4m3 {given}") == 0
        text = capsys.readouterr().out
        assert (colour in text) is coloured
        assert "fc1" in text
    monkeypatch.setenv("NO_COLOR", "1")
    assert run("compare", "net.py:factory e4m3/tensor") == 0
    text = capsys.readouterr().out
    assert colour not in text
    columns = [line.split() for line in text.splitlines()]
    assert any("e4m3" in line[0] for line in columns if line)


def test_a_reader_that_leaves_and_a_user_who_stops(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def stopped(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("precc.commands.plan.load_plan", stopped)
    assert run("plan show", "plan.json") == 130
    assert capsys.readouterr().err == "precc: interrupted\n"
    command = f"{shlex.quote(sys.executable)} -m precc ops | head -n 1"  # the command, in a process of its own
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, cwd=ROOT, check=False)
    assert ended.stderr == b""
    assert ended.returncode == 0


def test_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "net.py:fails_in_forward --traceback") == 1
    error = capsys.readouterr().err
    assert "return self.fc1(x[:, :2])" in error
    assert error.splitlines()[-1].startswith("precc: the forward of Wrong fails: RuntimeError: mat1 and mat2 shapes")


@pytest.mark.filterwarnings("ignore:Talking is captured in pieces")
def test_the_document_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """Code of the user's may print, and a print in the model is why the report has no errors."""
    assert run("report", "net.py:talks --plan e4m3 --json") == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["rows"]
    assert document["step"] is None
    assert any(own.startswith("the step cannot be analysed: ") for own in document["missing"])
    for part in ("a factory that talks\n", "a forward that talks\n"):
        assert part in printed.err
    said = [line for line in printed.err.splitlines() if line.startswith("precc: the step cannot be analysed: ")]
    assert len(said) == 1
    assert "`print`" in said[0]
    assert "net.py:" in said[0]
    assert run("report", "net.py:talks --measure 2") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("precc: an analysis needs the step")


def test_wrong_use_shows_the_usage_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "net.py:factory --sideways") == 2
    assert capsys.readouterr().err.startswith("usage: precc report ")
    for text in ("-1", "nan", "inf", "0", "fast"):
        assert run("train", f"net.py:task --lr {text}") == 2
        assert f"expected a finite number above 0, got '{text}'" in capsys.readouterr().err


def test_a_plan_may_be_called_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for name in ("--plan", "--policy"):
        assert run("explain", f"net.py:factory fc1/fprop.weight {name} e4m3") == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]


def test_times_are_beside_those_of_the_first_variant() -> None:
    steps = {"quick": lambda: time.sleep(0.001), "slow": lambda: time.sleep(0.01)}
    medians, ratios = _turns(SimpleNamespace(at=print, advance=lambda: None), steps, 3)  # type: ignore[arg-type]
    assert ratios["quick"] == 1
    assert ratios["slow"] > 2
    assert medians["slow"] >= 0.01


def test_plans_are_shown_with_few_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = replace(precc.PrecisionPlan("e4m3"), provenance=Provenance("NoiseBudget(noise=51.20098908006137)"))
    plan.save(tmp_path / "plan.json")
    assert run("plan show", f"{tmp_path}/plan.json") == 0
    assert "NoiseBudget(noise=51.2)" in capsys.readouterr().out
