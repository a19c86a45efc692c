"""The compiled kernels: where they are kept, what happens without a compiler, and how they see a tensor."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import precc
from precc.backends.cpp import build, kernels
from precc.errors import BackendError, PrecisionWarning
from precc.formats import parse_format
from precc.rounding import quantize, row_of

ROOT = Path(__file__).resolve().parent.parent


COPYING = """#!/bin/sh
if [ "$1" = --version ]; then echo copying compiler; exit; fi
while [ "$1" != -o ]; do shift; done
cp "{library}" "$2"
"""


#: A process and its fork, which have only imported.
TWICE = """
import os
from precc.backends.cpp.build import load_library
other = os.fork()
load_library()
raise SystemExit(os.waitpid(other, 0)[1] != 0 if other else 0)
"""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A cache folder of the test's own, nothing remembered, and a compiler that copies the library of this machine."""
    compiler = tmp_path / "compiler"
    compiler.write_text(COPYING.format(library=build.load_library()._name))
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    folder = tmp_path / "a cache"
    monkeypatch.setenv("PRECC_CACHE", str(folder))
    for remembered in (build.load_library, kernels.why_no_kernels, kernels._prepared):
        remembered.cache_clear()
    yield folder
    for remembered in (build.load_library, kernels.why_no_kernels, kernels._prepared):
        remembered.cache_clear()


def test_the_library_is_built_once_whole_and_for_its_owner_only(fresh: Path) -> None:
    build.load_library()
    (library,) = fresh.iterdir()  # nothing else is left there
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    assert library.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH) == 0
    written = library.stat().st_mtime_ns
    build.load_library.cache_clear()
    build.load_library()
    assert library.stat().st_mtime_ns == written


def test_a_folder_that_others_can_write_is_refused(fresh: Path) -> None:
    fresh.mkdir()
    fresh.chmod(0o777)
    with pytest.raises(BackendError, match=r"others can write.*PRECC_CACHE"):
        build.load_library()


def test_a_folder_that_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRECC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BackendError, match="cannot be made"):
        build.cache_folder()


def test_the_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PRECC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / "precc"


def test_a_broken_library_is_named(fresh: Path) -> None:
    name = f"kernels-{build._digest(build._find_compiler())}"
    (build.cache_folder() / f"{name}-10.so").write_bytes(b"no library")
    with pytest.raises(BackendError, match=r"cannot be loaded.*delete the file"):
        build.load_library()


def test_a_part_of_a_library_is_built_again(fresh: Path) -> None:
    name = f"kernels-{build._digest(build._find_compiler())}"
    part = build.cache_folder() / f"{name}-5000.so"
    part.write_bytes(b"x" * 4000)
    assert build._kept(fresh, name) is None
    build.load_library()
    assert len(list(fresh.iterdir())) == 2


def test_cxx_may_have_arguments(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"{os.environ['CXX']} -O2")
    assert build._find_compiler()[1:] == ("-O2",)
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(BackendError, match=r"cannot be made.*set PRECC_CACHE"):
        build.load_library()


def test_without_a_compiler_tensor_operations_do_the_same(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    x = torch.randn(100)
    with pytest.warns(PrecisionWarning, match=r"precc runs on the backend 'reference': .*"):
        net = precc.compile(torch.nn.Linear(2, 2), policy="e4m3")
    assert "a faster backend cannot run here: " in str(net.report())
    with pytest.warns(PrecisionWarning, match=r"by tensor operations.*no-such-compiler.*CXX"):
        rounded = precc.round_to(x, "mxfp4")
    assert torch.equal(rounded, quantize(x, row_of(parse_format("mxfp4"))))
    with pytest.raises(BackendError, match="no C\\+\\+ compiler was found"):
        precc.compile(torch.nn.Linear(2, 2), backend="cpp")


def test_a_compiler_that_fails_is_quoted(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho no room on the device >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(BackendError, match="no room on the device"):
        build.load_library()
    assert not list(fresh.iterdir())


def test_processes_may_build_at_the_same_time(fresh: Path) -> None:
    environment = {**os.environ, "PRECC_CACHE": str(fresh)}
    subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, env=environment, check=True, timeout=300)
    assert len(list(fresh.iterdir())) == 1


def test_no_second_openmp_is_loaded() -> None:
    build.load_library()
    maps = Path("/proc/self/maps").read_text()
    libraries = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line}
    assert len(libraries) <= 1, libraries


@pytest.mark.parametrize(
    ("shape", "extent", "merged"),
    [
        ((5, 6, 7), (5, 6, 7), ([1, 1, 1, 210], [1, 1, 1, 210])),
        ((5, 6, 64), (1, 1, 32), ([1, 1, 1, 1920], [1, 1, 1, 32])),
        ((5, 6, 65), (1, 1, 32), ([1, 1, 30, 65], [1, 1, 1, 32])),
        ((5, 6, 7), (1, 6, 1), ([1, 1, 30, 7], [1, 1, 6, 1])),
        ((5, 6, 7), (1, 4, 1), ([1, 5, 6, 7], [1, 1, 4, 1])),
        ((8, 6, 3, 3), (4, 2, 1, 1), ([1, 8, 6, 9], [1, 4, 2, 1])),
        ((8, 6, 3, 3), (8, 1, 3, 3), ([1, 1, 8, 54], [1, 1, 8, 9])),
    ],
)
def test_blocks_are_seen_in_four_dimensions(
    shape: tuple[int, ...], extent: tuple[int, ...], merged: tuple[list[int], list[int]]
) -> None:
    assert kernels._merged(shape, extent) == merged
