"""The commands precc export and precc verify, and plan commands on exported files."""

from pathlib import Path

import onnx
import pytest
import torch

import precc
from precc.cli import main
from tests.mixed_net import MixedNet, mixed_inputs, mixed_plan

NET = ["--example", "tests.mixed_net:mixed_inputs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a plan, weights, and the file that they make."""
    path = tmp_path_factory.mktemp("commands")
    torch.manual_seed(5)
    torch.save(MixedNet().state_dict(), path / "state.pt")
    mixed_plan().save(path / "plan.json")
    given = ["--plan", str(path / "plan.json"), "--weights", str(path / "state.pt"), "--out", str(path / "net.onnx")]
    assert main(["export", "tests.mixed_net:MixedNet", *NET, *given]) == 0
    return path


def test_a_file_is_written_and_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(folder / "net.onnx")
    onnx.checker.check_model(onnx.load(file))
    model = ["--model", "tests.mixed_net:MixedNet", "--runtime", "reference"]
    assert main(["verify", file, *model, *NET, "--weights", str(folder / "state.pt")]) == 0
    text = capsys.readouterr().out
    assert "net.onnx: sound" in text
    assert "onnxruntime" not in text
    assert main(["verify", file, *model, *NET]) == 1  # other weights
    text = capsys.readouterr().out
    assert "the stored weight: expected" in text


def test_plan_commands_read_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "show", str(folder / "net.onnx")]) == 0
    assert "fc1/product/fprop.input" in capsys.readouterr().out
    assert main(["plan", "diff", str(folder / "plan.json"), str(folder / "net.onnx")]) == 0
    assert "->" not in capsys.readouterr().out


def test_a_compiled_net_and_the_choices(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(folder / "plain.onnx")
    chosen = ["--flavor", "annotate", "--opset", "20", "--out", out]
    assert main(["export", "tests.mixed_net:mixed_net", *NET, *chosen]) == 0
    assert "annotate, opset 20, 0 of 16 slots rounded" in capsys.readouterr().out
    assert precc.PrecisionPlan.load(folder / "plan.json") == mixed_plan()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tests.mixed_net"], "not of the form module:callable"),
        (["tests.absent:Net"], "is not there: No module named 'tests.absent'"),
        (["tests.mixed_net:Absent"], "has no attribute 'Absent'"),
        (["tests.mixed_net:PRECISIONS"], "is a dict, not a callable"),
        (["tests.mixed_net:mixed_inputs"], "makes a tuple, not a module"),
        (["tests.mixed_net:MixedNet", "--plan", "absent.json"], "absent.json"),
        (["tests.mixed_net:MixedNet", "--weights", "absent.pt"], "absent.pt"),
        (["tests.mixed_net:MixedNet", "--weights", __file__], "no state dict that torch.load can read safely"),
        (["tests.mixed_net:MixedNet", "--example", "tests.mixed_net:MixedNet"], "not the tuple of the net's inputs"),
        (["tests.mixed_net:MixedNet", "--out", "absent/net.onnx"], "there is no folder 'absent'"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", arguments[0], *NET, *arguments[1:]]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("precc: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_weights_of_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"own": torch.zeros(1)}, tmp_path / "other.pt")
    given = ["--weights", str(tmp_path / "other.pt"), "--out", str(tmp_path / "net.onnx")]
    assert main(["export", "tests.mixed_net:MixedNet", *NET, *given]) == 1
    assert "are not those of MixedNet" in capsys.readouterr().err


def test_the_example_may_be_one_tensor() -> None:
    assert isinstance(mixed_inputs(), tuple)
