"""Several processes: one decides, all do the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from precc.control.ranks import Ranks

ROOT = Path(__file__).parent.parent


def test_one_process_alone() -> None:
    alone = Ranks.present()
    assert alone == Ranks(1, 0)
    assert alone.decides
    assert alone.told("x") == "x"
    assert alone.first_of(None) is None


def test_two_ranks_have_one_history_and_one_net(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.distributed_training"]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=ROOT) for rank in range(2)]
    try:
        assert [own.wait(timeout=120) for own in ranks] == [0, 0]
    finally:
        for own in ranks:
            own.kill()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    events = [row[1] for row in first["rows"]]
    assert events[:4] == ["analysis", "wait", "analysis", "switch"]
    assert events[-2:] == ["nonfinite_loss", "rollback"], "of one rank, heard by both"
    assert {row[4] for row in first["rows"] if row[1] == "analysis"} == {"ranks"}
    # (1, 0) and (1, 3) about (1, 1.5): each 2.25 away; their mean has the variance 2 * 2.25 / 2
    assert first["noise"] == pytest.approx(2.25)
