"""Every example runs in its quick form, without a warning, and writes what it says."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ("tiny_llama_shakespeare.py",)


def run(example: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """With one thread: two that wait for each other are slow on a machine that has other work."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / example), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_all_examples_are_run() -> None:
    assert sorted(EXAMPLES) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_quick_form(example: str, tmp_path: Path) -> None:
    outcome = run(example, "--quick", "--out", str(tmp_path / "out"))
    assert outcome.returncode == 0, outcome.stderr
    written = tmp_path / "out" / f"{Path(example).stem}.json"
    assert written.name in outcome.stdout
    runs = json.loads(written.read_text())["runs"]
    losses = {one["precision"]: one["validation_loss"] for one in runs}
    assert all(name in outcome.stdout for name in ("fp32", "bf16", "scaled"))
    assert len(losses) == len(runs) == 4
    unscaled = losses.pop("unscaled e4m3")
    assert max(losses.values()) - min(losses.values()) < 0.1
    assert unscaled > max(losses.values()) + 0.5


def test_what_makes_no_sense_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example, out = str(ROOT / "examples" / "tiny_llama_shakespeare.py"), str(tmp_path)
    monkeypatch.setattr(sys, "argv", [example, "--seeds", "0", "--out", out])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(example, run_name="__main__")
    assert "at least 1, not 0 and 400" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [example, "--data", str(tmp_path / "absent.txt"), "--out", out])
    with pytest.raises(SystemExit, match=r"absent\.txt' does not exist"):
        runpy.run_path(example, run_name="__main__")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match="pip install 'transformers>=5'"):
        runpy.run_path(str(ROOT / "examples" / "tiny_llama_shakespeare.py"))
