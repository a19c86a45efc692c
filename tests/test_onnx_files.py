"""How exported files take their places: whole or not at all, whatever fails and whoever reads in between."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from precc.backends.onnx.drafts import draft_beside
from precc.backends.onnx.write_model import write_model
from precc.files import write_whole


def model_of(value: float, size: int = 1000) -> Any:
    """Of one large tensor."""
    weight = ir.val("weight", const_value=ir.tensor(np.full(size, value, np.float32), name="weight"))
    output = ir.val("output", ir.DataType.FLOAT, [size])
    node = ir.node("Identity", [weight], outputs=[output])
    graph = ir.Graph([], [output], nodes=[node], initializers=[weight], opset_imports={"": 21}, name="g")
    return ir.Model(graph, ir_version=10)


def value_in(path: Path) -> float:
    """As a reader finds it."""
    (tensor,) = onnx.load(str(path)).graph.initializer
    values = onnx.numpy_helper.to_array(tensor)
    assert len(set(values.tolist())) == 1
    return float(values[0])


def files(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def shapes(folder: Path) -> list[str]:
    return sorted(re.sub(r"\b[0-9a-f]{8}\b", "*", name) for name in files(folder))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a model of ones with all files beside it."""
    found = tmp_path / "net.onnx"
    write_model(model_of(1.0), found, "one", external_data=True)
    return found


@pytest.mark.parametrize("step", range(3))
def test_what_fails_leaves_the_old_files(step: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, replace, done = files(path.parent), os.replace, []

    def failing(source: Path, target: Path) -> None:
        if Path(target).parent == path.parent:
            done.append(target)
            if len(done) == step + 1:
                raise OSError("no space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="no space left"):
        write_model(model_of(2.0), path, "two", external_data=True)
    assert files(path.parent) == before
    assert value_in(path) == 1.0


def test_a_reader_between_steps_finds_one_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, read = os.replace, []

    def reading(source: Path, target: Path) -> None:
        replace(source, target)
        read.append(value_in(path))

    monkeypatch.setattr(os, "replace", reading)
    write_model(model_of(2.0), path, "two", external_data=True)
    assert set(read) == {1.0, 2.0}
    assert read == sorted(read)
    assert (path.parent / "net.onnx.precc.json").read_text() == "two"


def test_files_of_the_old_model_go(path: Path) -> None:
    (path.parent / "net.onnx.01234567.data").write_bytes(b"of another")
    write_model(model_of(2.0), path, "two", external_data=True)
    assert shapes(path.parent) == ["net.onnx", "net.onnx.*.data", "net.onnx.*.data", "net.onnx.precc.json"]
    write_model(model_of(3.0), path, None, external_data=False)
    assert sorted(files(path.parent)) == ["net.onnx", "net.onnx.01234567.data"]


def test_what_killed_exports_leave_goes(path: Path) -> None:
    other = path.parent / ".net.onnx.abcdefgh"  # somebody else's: it has no lock
    other.mkdir()
    left = path.with_name("net.onnx.01234567.data")
    left.write_bytes(b"of a model that never came")
    with draft_beside(path, left.name) as draft:
        shutil.copytree(draft, path.parent / ".net.onnx.k_illed1")  # whose lock nobody holds
    write_model(model_of(3.0), path, "three", external_data=True)
    assert value_in(path) == 3.0
    assert list(path.parent.glob(".net.onnx.*")) == [other]
    assert not left.exists()
    other.rmdir()
    assert shapes(path.parent) == ["net.onnx", "net.onnx.*.data", "net.onnx.precc.json"]


def test_no_tensor_is_large(tmp_path: Path) -> None:
    write_model(model_of(1.0, size=10), tmp_path / "net.onnx", None, external_data=True)
    assert sorted(files(tmp_path)) == ["net.onnx"]


def test_drafts_of_a_running_export_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, inner = os.replace, []

    def interleaved(source: Path, target: Path) -> None:
        replace(source, target)
        if str(target).endswith(".data") and not inner:
            inner.append(target)
            write_model(model_of(3.0), path, "three", external_data=True)

    monkeypatch.setattr(os, "replace", interleaved)
    write_model(model_of(2.0), path, "two", external_data=True)
    assert value_in(path) == 2.0
    assert shapes(path.parent) == ["net.onnx", "net.onnx.*.data", "net.onnx.precc.json"]


def test_a_folder_in_the_place_of_the_sidecar(tmp_path: Path) -> None:
    write_model(model_of(1.0), tmp_path / "net.onnx", None)
    (tmp_path / "net.onnx.precc.json").mkdir()
    for sidecar in ("two", None):
        with pytest.raises(IsADirectoryError, match="net.onnx.precc.json"):
            write_model(model_of(2.0), tmp_path / "net.onnx", sidecar)
    assert value_in(tmp_path / "net.onnx") == 1.0


def test_where_files_have_no_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: Any) -> None:
        raise OSError("no links")

    monkeypatch.setattr(os, "link", unable)
    test_what_fails_leaves_the_old_files(2, path, monkeypatch)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "net.onnx"
    link.symlink_to(tmp_path / "far" / "real.onnx")
    write_model(model_of(2.0), link, "two")
    assert link.is_symlink()
    assert value_in(tmp_path / "far" / "real.onnx") == 2.0
    with pytest.raises(OSError, match="leads to another folder"):
        write_model(model_of(2.0), link, "two", external_data=True)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "far" / "real.onnx").read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path / "far")) == ["real.onnx", "real.onnx.precc.json"]
    round_about = tmp_path / "round"
    round_about.symlink_to(round_about)
    with pytest.raises(OSError, match="round"):
        write_whole(round_about, b"new")


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="is a device, a pipe or a socket"):
            write_whole(tmp_path / name, b"new")
        with pytest.raises(OSError, match="is a device, a pipe or a socket"):
            write_model(model_of(1.0), tmp_path / name, None)
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(OSError, match="NUL"):
        write_whole(tmp_path / "a\0b", b"new")
