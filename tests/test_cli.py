"""The command."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import precc
from precc.cli import main
from precc.formats import FORMATS

ROOT = Path(__file__).resolve().parent.parent


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--epochs", "1", "--out", str(tmp_path / "out"), "--backend", "reference"]) == 0
    text = capsys.readouterr().out
    for part in ("test accuracy:", "multiply-adds of the training", "compilations: 2", "precision of LeNet5", "wrote"):
        assert part in text
    names = {entry.name for entry in (tmp_path / "out").iterdir()}
    assert names == {"plan.json", "report.txt", "lenet5.onnx"}
    plan = precc.PrecisionPlan.load(tmp_path / "out" / "plan.json")
    assert len(plan.slots) == 28
    onnx.checker.check_model(onnx.load(tmp_path / "out" / "lenet5.onnx"))
    assert "precision of LeNet5" in (tmp_path / "out" / "report.txt").read_text()


def test_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["formats"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in FORMATS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--data", "/absent"], "'/absent' does not exist"),
        (["demo", "--backend", "tpu"], "unknown backend 'tpu'"),
        (["demo", "--out", __file__], "test_cli.py"),
    ],
)
def test_errors_of_ours_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path), *arguments[1:]]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("precc: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["demo", "--epochs", "x"], ["demo", "--seed", "9" * 30], ["fly"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"precc {precc.__version__}\n"


def test_python_m_precc_is_the_command() -> None:
    run = [sys.executable, "-m", "precc", "--help"]
    assert "demo" in subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout
