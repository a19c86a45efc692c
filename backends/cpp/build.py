"""Compile the kernels once, into a cache of the user's own.

The library is named by a hash of everything that it depends on: sources, flags, the compiler and the processor. It is
built under another name and renamed, so that it is there whole or not at all, and processes may race.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from precc.errors import BackendError
from precc.warn_caller import warn_caller

__all__ = ["SOURCES", "cache_folder", "load_library"]

_FOLDER = Path(__file__).parent
SOURCES = tuple(_FOLDER / name for name in ("rounding.cpp", "accumulate.cpp", "magnitudes.cpp"))
_HEADERS = tuple(_FOLDER / name for name in ("grid.hpp", "scales.hpp", "exact_sums.hpp"))

#: No contraction: a multiply and an add stay two roundings. Trapping and errno do not change values.
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
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
        raise BackendError(
            f"the folder for compiled kernels {str(folder)!r} cannot be made: {error}; "
            "set PRECC_CACHE to a folder that you can write"
        ) from error
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
    name = f"kernels-{_digest(compiler)}"
    path = _kept(folder, name) or _build(compiler, folder, name)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(f"the compiled kernels {str(path)!r} cannot be loaded: {error}; delete the file") from error


def _kept(folder: Path, name: str) -> Path | None:
    """The library of an earlier build. Its size is in its name: loading a part of one would end the process."""
    whole = (path for path in folder.glob(f"{name}-*.so") if path.stem.rpartition("-")[2] == str(path.stat().st_size))
    return next(whole, None)


def _find_compiler() -> tuple[str, ...]:
    """The compiler's command; $CXX may have arguments."""
    wanted = shlex.split(os.environ.get("CXX", ""))
    for name, *arguments in [wanted] if wanted else [["g++"], ["clang++"], ["c++"]]:
        found = shutil.which(name)
        if found:
            return found, *arguments
    raise BackendError(f"no C++ compiler was found ({' '.join(wanted) or 'g++, clang++, c++'}): {_WAY_OUT}")


def _digest(compiler: tuple[str, ...]) -> str:
    version = _run([*compiler, "--version"])
    facts = [
        version,
        *compiler,
        platform.machine(),
        _processor(),
        torch.__version__,
        repr((_FLAGS, _VARIANTS)),
        *_openmp_library(),
    ]
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
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"the C++ compiler {command[0]!r} cannot be run: {error}; {_WAY_OUT}") from error
    if done.returncode:
        raise BackendError(f"the C++ compiler {command[0]!r} failed: {done.stderr.strip()[-2000:]}\n{_WAY_OUT}")
    return done.stdout


def _build(compiler: tuple[str, ...], folder: Path, name: str) -> Path:
    print(f"precc: compiling kernels, once, into {folder} (half a minute)", file=sys.stderr, flush=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            variant = _compile(compiler, Path(scratch))
            made = Path(scratch, "kernels.so")
            made.chmod(0o500)
            path = folder / f"{name}-{made.stat().st_size}.so"
            os.replace(made, path)
    except OSError as error:
        raise BackendError(f"the kernels cannot be made in {str(folder)!r}: {error}; set PRECC_CACHE") from error
    if variant != _VARIANTS[0]:
        used = " ".join(variant) or "none"
        warn_caller(
            f"{compiler[0]} took {used} of {' '.join(_VARIANTS[0])}: precc's kernels are right but slow; {_WAY_OUT}"
        )
    return path


def _compile(compiler: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Compile and link ``kernels.so`` by the first variant that the compiler takes, and say which."""
    for variant in _VARIANTS:
        try:
            _compile_variant(compiler, folder, variant)
        except BackendError:
            if variant == _VARIANTS[-1]:
                raise
        else:
            break
    return variant


def _compile_variant(compiler: tuple[str, ...], folder: Path, variant: tuple[str, ...]) -> None:
    objects = [str(folder / source.with_suffix(".o").name) for source in SOURCES]
    commands = [
        [*compiler, *_FLAGS, *variant, "-c", str(source), "-o", made]
        for source, made in zip(SOURCES, objects, strict=True)
    ]
    with ThreadPoolExecutor(len(SOURCES)) as pool:
        list(pool.map(_run, commands))
    linking = [*compiler, *_FLAGS, *variant, "-shared", *objects, "-o", str(folder / "kernels.so")]
    openmp = _openmp_library() if "-fopenmp" in variant else []
    # with a library of torch's, the compiler must not add its own
    own = ["-nodefaultlibs", *openmp, "-lstdc++", "-lm", "-lc", "-lgcc_s", "-lgcc"] if openmp else []
    _run([*linking, *own])


def _openmp_library() -> list[str]:
    """Torch's own copy of GNU OpenMP: a second one in the process would have threads that fight with torch's."""
    return [str(path) for path in sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))[:1]]
