"""Where kernels can run, and how their text becomes a function: the interpreter, GPUs, the cache folder."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton

from precc.backends.triton import load, toolchain
from precc.backends.triton.device import INTERPRETER, Device
from precc.backends.triton.load import launch, source_path
from precc.backends.triton.toolchain import check, current_device
from precc.errors import BackendError
from tests.triton_sources import DOUBLED

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Triton had been imported without its interpreter."""
    monkeypatch.setattr(toolchain, "interprets", lambda: False)
    toolchain._gpu.cache_clear()


def properties(major: int, minor: int) -> SimpleNamespace:
    return SimpleNamespace(
        name="A card", major=major, minor=minor, shared_memory_per_block_optin=1000, regs_per_multiprocessor=65536
    )


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU")
def test_the_interpreter_where_it_is_chosen() -> None:
    check()
    assert current_device() == INTERPRETER


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU")
@pytest.mark.parametrize("value", ["0", None])
def test_the_interpreter_cannot_change_later(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    if value is not None:
        monkeypatch.setenv("TRITON_INTERPRET", value)
    with pytest.raises(BackendError, match="Triton was imported with its interpreter.*before Python starts"):
        check()


@pytest.mark.usefixtures("compiling")
def test_no_gpu_and_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="needs a GPU, and torch finds none.*TRITON_INTERPRET=1.*precc kernels"):
        check()


@pytest.mark.usefixtures("compiling")
def test_gpus_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(BackendError, match=r"of NVIDIA.*AMD \(ROCm 6.4\)"):
        check()


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize(
    ("major", "minor", "name"), [(7, 5, None), (8, 0, "sm_80"), (9, 0, "sm_90"), (12, 0, "sm_120")]
)
def test_capabilities(monkeypatch: pytest.MonkeyPatch, major: int, minor: int, name: str | None) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties(major, minor))
    if name is None:
        with pytest.raises(BackendError, match=r"8\.0 \(A100\) or more, and A card has 7\.5"):
            current_device()
    else:
        assert current_device() == Device(name, 10 * major + minor, 1000)
    toolchain._gpu.cache_clear()


def test_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(BackendError, match=r"not installed.*pip install 'precc\[triton\]'"):
        check()


@pytest.mark.parametrize("version", ["3.5.1", "2.3.0+git1", "3.5"])
def test_triton_is_too_old(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    with pytest.raises(BackendError, match=f"needs Triton 3.6, and {version[:3]}.*is installed: pip install"):
        check()


def run_doubled() -> None:
    device = "cpu" if INTERPRETED else "cuda"
    x = torch.arange(600, dtype=torch.float32, device=device)
    y = torch.empty_like(x)
    launch(DOUBLED, (3,), (x, y, x.numel()))
    assert torch.equal(y, 2 * x + 1)


def test_a_kernel_runs() -> None:
    run_doubled()


def test_a_launch_reads_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    run_doubled()
    monkeypatch.setattr(load, "source_path", lambda _: pytest.fail("a file was looked for"))
    run_doubled()
    launch_again = replace(DOUBLED, nodes=("other",))
    assert launch_again.digest == DOUBLED.digest


def test_a_damaged_file_is_written_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path / "a cache"))
    path = source_path(DOUBLED)
    assert path.name.startswith("doubled_")
    assert path.read_text() == DOUBLED.text
    path.write_text(DOUBLED.text[:50])
    assert source_path(DOUBLED).read_text() == DOUBLED.text


def test_a_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path))
    (tmp_path / "triton").write_text("a file")
    with pytest.raises(BackendError, match="cannot be kept in.*set PRECC_CACHE"):
        source_path(DOUBLED)


def test_a_file_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path))
    source_path(DOUBLED).unlink()

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(load, "write_whole", full)
    with pytest.raises(BackendError, match="No space left.*set PRECC_CACHE"):
        source_path(DOUBLED)


_RACE = """
import sys
from precc.backends.triton.load import source_path
from tests.triton_sources import DOUBLED
for _ in range(100):
    path = source_path(DOUBLED)
    assert path.read_text() == DOUBLED.text
"""


@pytest.mark.slow  # threads, and processes that compile: test_triton_bad_input.py, test_triton_compiler.py
def test_processes_race(tmp_path: Path) -> None:
    """Each sees the whole text, and they leave nothing beside it."""
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", _RACE],
            env={**os.environ, "PRECC_CACHE": str(tmp_path)},
            cwd=Path(__file__).parent.parent,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in racing:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert [path.suffix for path in (tmp_path / "triton").iterdir()] == [".py"]
