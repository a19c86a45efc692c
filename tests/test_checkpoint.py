"""One file for all of a training: whole or not at all, and a killed training goes on bit for bit."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import precc
from precc.errors import DataError, PlanError
from tests.few_always import few_always
from tests.resumed_training import Net, main

SCRIPT = Path(__file__).with_name("resumed_training.py")
STEPS = 14


def run_until(path: Path, kind: str, kill_at: int) -> None:
    """Run the training in a process, killed when it says that it made a step, before or while it writes that."""
    command = [sys.executable, "-m", "tests.resumed_training", str(path), kind, str(STEPS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=SCRIPT.parent.parent) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == f"step {kill_at}":
                process.send_signal(signal.SIGKILL)
                break
        code = process.wait()
    assert code == -signal.SIGKILL


@pytest.mark.parametrize("kind", few_always(["NoiseAware", "TrustRegion"], ["TrustRegion"]))
def test_a_training_that_is_killed_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    run_until(cut, kind, 5)
    main(cut, kind, STEPS)  # in this process, which knows nothing of the other
    main(whole, kind, STEPS)
    states = [torch.load(path, weights_only=True) for path in (whole, cut)]
    assert states[0]["data"] == states[1]["data"] == {"step": STEPS}
    states = [own["states"] for own in states]
    for name, value in states[0]["net"]["values"].items():
        assert torch.equal(value, states[1]["net"]["values"][name]), name
    rows = [_history(state["net"]) for state in states]
    assert rows[0] == rows[1]
    assert len(rows[0]) > 3


def _history(state: dict[str, Any]) -> list[Any]:
    found: list[Any] = state["precision"]["history"]["rows"]
    return found


def test_parts_plain_data_and_generators_come_back(tmp_path: Path) -> None:
    net, path = Net(), tmp_path / "run.pt"
    adam = torch.optim.Adam(net.parameters())
    precc.save_checkpoint(path, net=net, optimizer=adam, step=3, name="mine")
    drawn = [torch.rand(1).item(), random.random(), np.random.rand()]
    other = Net()
    second = torch.optim.Adam(other.parameters())
    assert precc.load_checkpoint(path, net=other, optimizer=second) == {"step": 3, "name": "mine"}
    assert [torch.rand(1).item(), random.random(), np.random.rand()] == drawn
    for own, value in zip(other.parameters(), net.parameters(), strict=True):
        assert torch.equal(own, value)


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    net, path = precc.compile(Net(), backend="reference"), tmp_path / "run.pt"
    ctl = precc.TrustRegion(net)
    precc.save_checkpoint(path, net=net, ctl=ctl)
    other = precc.compile(Net(), backend="reference")
    before = [own.detach().clone() for own in other.parameters()]
    with pytest.raises(PlanError, match="other levels"):
        precc.load_checkpoint(path, net=other, ctl=precc.TrustRegion(other, levels=["bf16"]))
    assert all(torch.equal(own, old) for own, old in zip(other.parameters(), before, strict=True))
    with pytest.raises(DataError, match="no state of 'scheduler'"):
        precc.load_checkpoint(path, net=net, ctl=ctl, scheduler=nn.Linear(1, 1))
    with pytest.raises(DataError, match="state of 'ctl' too"):
        precc.load_checkpoint(path, net=net)
    with pytest.raises(DataError, match="'step' has no load_state_dict"):
        precc.load_checkpoint(path, net=net, ctl=ctl, step=0)


def test_a_net_alone_from_a_training(tmp_path: Path) -> None:
    net, path = precc.compile(Net(), backend="reference"), tmp_path / "run.pt"
    precc.save_checkpoint(path, net=net, optimizer=torch.optim.Adam(net.parameters()))
    other = precc.compile(Net(), backend="reference")
    precc.load_checkpoint(path, partial=True, net=other)
    assert all(torch.equal(own, new) for own, new in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("part", [object(), np.array([1.0]), Net])
def test_what_could_not_be_read_again_is_not_written(part: object, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    precc.save_checkpoint(path, best=np.float64(0.5), config={"lr": 0.1, "sizes": [1, 2]})
    assert precc.load_checkpoint(path) == {"best": 0.5, "config": {"lr": 0.1, "sizes": [1, 2]}}
    with pytest.raises(DataError, match="'part' cannot be saved"):
        precc.save_checkpoint(path, part=part)
    assert precc.load_checkpoint(path)["best"] == 0.5


def test_rules_that_a_failed_load_brought_go_again(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    ruled = precc.compile(Net(), rules=[precc.Rule("a", keep="fp32")], backend="reference")
    precc.save_checkpoint(path, net=ruled, optimizer=torch.optim.Adam(ruled.parameters()))
    net = precc.compile(Net(), backend="reference")
    generator = torch.get_rng_state()
    with pytest.raises(ValueError, match="group"):
        precc.load_checkpoint(path, net=net, optimizer=torch.optim.Adam([net.a.weight]))
    assert net.precision_state()["rules"] == []
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError):
        precc.load_checkpoint(path, net=Net())
    path.write_bytes(b"torn")
    with pytest.raises(DataError, match="damaged"):
        precc.load_checkpoint(path, net=Net())
    torch.save({"net": 1}, path)
    with pytest.raises(DataError, match="no checkpoint of precc"):
        precc.load_checkpoint(path, net=Net())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.pt"
    precc.save_checkpoint(path, step=1)
    monkeypatch.setattr("os.replace", _fail)
    with pytest.raises(OSError, match="full"):
        precc.save_checkpoint(path, step=2)
    assert precc.load_checkpoint(path) == {"step": 1}
    assert [own.name for own in tmp_path.iterdir()] == ["run.pt"]


def _fail(*_: object) -> None:
    raise OSError("the disk is full")
