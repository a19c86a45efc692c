"""The commands precc export and precc verify, and plan commands on exported files."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import precc
from precc.cli import main
from precc.module import PrecisionModule
from tests.mixed_net import MixedNet, mixed_inputs, mixed_net, mixed_plan

NET = "tests.test_onnx_commands:mixed"


def mixed() -> tuple[nn.Module, tuple[Tensor]]:
    """The model, and an example."""
    return MixedNet(), mixed_inputs()


def compiled() -> tuple[nn.Module, tuple[Tensor]]:
    """The net under its plan."""
    return mixed_net(), mixed_inputs()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a plan, weights, and the file that they make."""
    path = tmp_path_factory.mktemp("commands")
    torch.manual_seed(5)
    torch.save(MixedNet().state_dict(), path / "state.pt")
    mixed_plan().save(path / "plan.json")
    given = ["--plan", str(path / "plan.json"), "--weights", str(path / "state.pt"), "--out", str(path / "net.onnx")]
    assert main(["export", NET, *given]) == 0
    return path


def test_a_file_is_written_and_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(folder / "net.onnx")
    onnx.checker.check_model(onnx.load(file))
    model = [NET, "--runtime", "reference"]
    assert main(["verify", file, *model, "--weights", str(folder / "state.pt")]) == 0
    text = capsys.readouterr().out
    assert "net.onnx: sound" in text
    assert "onnxruntime" not in text
    assert main(["verify", file, *model]) == 1  # other weights
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
    assert main(["export", "tests.test_onnx_commands:compiled", *chosen]) == 0
    assert "annotate, opset 20, 0 of 16 slots rounded" in capsys.readouterr().out
    assert precc.PrecisionPlan.load(folder / "plan.json") == mixed_plan()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tests.test_onnx_commands"], "is neither MODEL.py:factory nor package.module:factory"),
        (["tests.mixed_net:MixedNet"], "makes a MixedNet alone"),
        ([NET, "--plan", "absent.json"], "absent.json"),
        ([NET, "--weights", "absent.pt"], "absent.pt"),
        ([NET, "--weights", __file__], "no state dict that torch.load can read safely"),
        ([NET, "--out", "absent/net.onnx"], "there is no folder 'absent'"),
        (["tests.test_onnx_commands:failing"], "'tests.test_onnx_commands:failing' fails: ValueError: as it, at "),
        ([NET, "--dynamic", "9=batch"], "no input has more than"),
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
    assert main(["export", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("precc: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_weights_of_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"own": torch.zeros(1)}, tmp_path / "other.pt")
    given = ["--weights", str(tmp_path / "other.pt"), "--out", str(tmp_path / "net.onnx")]
    assert main(["export", NET, *given]) == 1
    assert "are not those of MixedNet" in capsys.readouterr().err


def failing() -> None:
    raise ValueError("as it\nmust")


class Scaled(nn.Module):
    """With an input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 512)

    def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
        result: Tensor = self.fc(x) * scale
        return result


def scaled() -> PrecisionModule:
    """With a weight that qdq does not store."""
    torch.manual_seed(0)
    plan = precc.PrecisionPlan("e4m3", {"fc/product/fprop.weight": "e3m4"})
    return precc.compile(Scaled(), plan=plan, backend="reference")


def by_name() -> tuple[nn.Module, dict[str, Tensor]]:
    return scaled(), {"x": torch.ones(2, 3, 4), "scale": torch.ones(2, 1, 1)}


def both_ways() -> tuple[nn.Module, tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    return scaled(), ((torch.ones(2, 3, 4),), {"scale": torch.ones(2, 1, 1)})


@pytest.mark.parametrize("example", ["by_name", "both_ways"])
def test_the_flags_of_export(example: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = f"tests.test_onnx_commands:{example}"
    out = tmp_path / "net.onnx"
    assert main(["export", net, "--flavor", "qdq", "--out", str(out)]) == 1
    assert "'fc/product/fprop.weight': ONNX has no type" in capsys.readouterr().err
    flags = ["--unsupported", "portable", "--external-data", "--no-sidecar", "--dynamic", "0=batch"]
    assert main(["export", net, "--flavor", "qdq", "--out", str(out), *flags]) == 0
    assert [name.suffix for name in sorted(tmp_path.iterdir())] == [".onnx", ".data"]
    shapes = [[own.dim_param or own.dim_value for own in entry.type.tensor_type.shape.dim] for entry in inputs(out)]
    assert shapes == [["batch", 3, 4], ["batch", 1, 1]]
    assert main(["verify", str(out), net, "--runtime", "reference"]) == 0


def inputs(path: Path) -> Any:
    return onnx.load(path).graph.input


def test_numbers_for_model_explorer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node-data", str(folder / "net.onnx")]) == 0
    out = f"{folder / 'net.onnx'}.bits.json"
    assert f"wrote {out}" in capsys.readouterr().out
    assert json.loads(Path(out).read_text()) == precc.model_explorer_data(folder / "net.onnx")
    assert main(["node-data", str(folder / "net.onnx"), "--what", "beauty"]) == 1
    assert "says nothing of 'beauty'" in capsys.readouterr().err


def test_what_the_plan_is_without_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for command, default in (("export", "(default: the net's own)"), ("verify", "(default: that of the file itself")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert default in " ".join(capsys.readouterr().out.split())
