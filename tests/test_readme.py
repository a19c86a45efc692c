"""The README's Python runs as it stands, by the backend that a reader has; it is short, and leads into the manual."""

from pathlib import Path

import pytest

from tests.pages import README, blocks_of, run


def test_the_code_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(blocks_of(README)) == 6
    run(README)
    written = {"net.onnx", "net.onnx.precc.json", "plan.json", "run.pt", "step.precc"}
    assert {entry.name for entry in tmp_path.iterdir()} == written


def test_it_is_a_first_screen_and_not_the_manual() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250
