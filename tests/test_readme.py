"""The README's Python runs as it stands, by the backend that a reader has; it is short, and leads into the manual."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.pages import README, ROOT, blocks_of, run


def test_the_code_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(blocks_of(README)) == 6
    run(README)
    written = {"net.onnx", "net.onnx.precc.json", "plan.json", "run.pt", "step.precc"}
    assert {entry.name for entry in tmp_path.iterdir()} == written


def test_it_is_a_first_screen_and_not_the_manual() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250


def test_its_folders_are_all_there_are() -> None:
    table = README.read_text(encoding="utf-8").partition("| folder | what is in it |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([\w/]+/)`", table))
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {f"{name.removeprefix('precc.').split('.')[0]}/" for name in packages} - {"precc/"}
    beside = {"backends/", "models/", "passes/"}
    assert {own if own in beside else f"precc/{own}" for own in folders} | {"precc/"} <= named
    for inner in (own.removeprefix("precc.").split(".")[1:] for own in packages):
        assert inner == [] or f"{inner[-1]}/" in named, inner
