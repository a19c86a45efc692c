"""Compile the kernels once, into a cache of the user's own.

The library is named by a hash of everything that it depends on: sources, flags, the compiler and the processor. It is
built under another name and renamed, so that it is there whole or not at all, and processes may race.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from precc.errors import BackendError

__all__ = ["SOURCES", "cache_folder", "load_library"]

_FOLDER = Path(__file__).parent
SOURCES = tuple(_FOLDER / name for name in ("rounding.cpp", "accumulate.cpp"))
_HEADERS = (_FOLDER / "grid.hpp",)

#: No contraction: a multiply and an add stay two roundings. Trapping and errno do not change values.
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
#: Tried in this order: a compiler may lack OpenMP, or a name for this processor. They change no value.
_VARIANTS = (("-march=native", "-mprefer-vector-width=512", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())
_WAY_OUT = "install g++ or clang, or set CXX to a C++17 compiler"


def cache_folder() -> Path:
    """Where compiled kernels are kept: $PRECC_CACHE, $XDG_CACHE_HOME/precc or ~/.cache/precc; made if missing.

    Raises:
        BackendError: it cannot be made, or somebody else could put a library there.
    """
    chosen = os.environ.get("PRECC_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(chosen) if chosen else Path(base, "precc")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise BackendError(f"the folder for compiled kernels {str(folder)!r} cannot be made: {error}") from error
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BackendError(
            f"others can write the folder for compiled kernels {str(folder)!r}: make it your own with mode 700, "
            "or set PRECC_CACHE to another"
        )
    return folder


@cache
def load_library() -> ctypes.CDLL:
    """The compiled kernels, built at the first call on this machine.

    Raises:
        BackendError: no compiler, one that fails, or no safe place to keep the library; with the way out.
    """
    compiler = _find_compiler()
    folder = cache_folder()
    name = _digest(compiler)
    path = folder / f"kernels-{name}.so"
    if not path.exists():
        _build(compiler, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(f"the compiled kernels {str(path)!r} cannot be loaded: {error}; delete the file") from error


def _find_compiler() -> str:
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["g++", "clang++", "c++"]:
        found = shutil.which(name)
        if found:
            return found
    raise BackendError(f"no C++ compiler was found ({wanted or 'g++, clang++, c++'}): {_WAY_OUT}")


def _digest(compiler: str) -> str:
    version = _run([compiler, "--version"])
    facts = [version, compiler, platform.machine(), _processor(), torch.__version__, repr((_FLAGS, _VARIANTS))]
    digest = hashlib.sha256("\0".join(facts).encode())
    for source in (*SOURCES, *_HEADERS):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:24]


def _processor() -> str:
    """The instruction sets of this processor: a cache may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"the C++ compiler {command[0]!r} cannot be run: {error}; {_WAY_OUT}") from error
    if done.returncode:
        raise BackendError(f"the C++ compiler {command[0]!r} failed: {done.stderr.strip()[-2000:]}\n{_WAY_OUT}")
    return done.stdout


def _build(compiler: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch, "kernels.so")
        for variant in _VARIANTS:
            openmp = _openmp_library() if "-fopenmp" in variant else []
            command = [compiler, *_FLAGS, *variant, *map(str, SOURCES), "-o", str(made)]
            try:
                _run(command if not openmp else _linked_by_hand(compiler, variant, made, openmp))
            except BackendError:
                if variant == _VARIANTS[-1]:
                    raise
            else:
                break
        made.chmod(0o500)
        os.replace(made, path)


def _openmp_library() -> list[str]:
    """Torch's own copy of GNU OpenMP: a second one in the process would have threads that fight with torch's."""
    return [str(path) for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))[:1]]


def _linked_by_hand(compiler: str, variant: tuple[str, ...], made: Path, openmp: list[str]) -> list[str]:
    script = [compiler, *_FLAGS, *variant, *map(str, SOURCES), "-o", str(made), "-nodefaultlibs", *openmp]
    return [*script, "-lstdc++", "-lm", "-lc", "-lgcc_s", "-lgcc"]
