"""From the text of a kernel to a function of Triton's that runs: by a file in the cache folder."""

import importlib.util
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from precc.backends.cpp.build import cache_folder
from precc.backends.triton.kernel_source import KernelSource
from precc.errors import BackendError
from precc.files import write_whole

__all__ = ["OPTIONS", "Launch", "kernels_folder", "launch", "launches", "source_path"]

#: Of every compilation. A multiply and an add stay two roundings.
OPTIONS = {"enable_fp_fusion": False}

#: Functions that are kept loaded, more than a net has; each is a module of Python's and its compiled variants.
_LOADED = 1024


def kernels_folder() -> Path:
    """Where kernels are kept: ``triton`` in the cache folder; made if missing.

    Raises:
        BackendError: it cannot be made, or somebody else could put a kernel there.
    """
    folder = cache_folder() / "triton"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise BackendError(_cannot(folder, error)) from error
    return folder


def source_path(source: KernelSource) -> Path:
    """The file of a kernel's text; written if it is not there, or holds something else.

    It is written under another name and renamed, so that processes may race.

    Raises:
        BackendError: the folder cannot be written.
    """
    path = kernels_folder() / f"{source.name}_{source.digest}.py"
    text = source.text.encode()
    try:
        if not path.is_file() or path.read_bytes() != text:
            write_whole(path, text)
    except OSError as error:
        raise BackendError(_cannot(path.parent, error)) from error
    return path


def _cannot(folder: Path, error: OSError) -> str:
    return f"kernels cannot be kept in {str(folder)!r}: {error}; set PRECC_CACHE to a folder that you can write"


@lru_cache(_LOADED)
def _function(source: KernelSource) -> Any:
    return _text_function(source.name, source.text, str(source_path(source)))


@lru_cache(_LOADED)
def _text_function(name: str, text: str, path: str) -> Any:
    """One function for all sources of one text, whatever their tiles: Triton keeps what it compiled in it."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """One run of a kernel, which can be run again; its arguments are kept alive."""

    source: KernelSource
    grid: tuple[int, ...]
    args: tuple[Any, ...]

    def __call__(self) -> None:
        launch(self.source, self.grid, self.args)


_interpreting = threading.RLock()

#: Where launches are noted; None where nobody asks.
_noted: list[Launch] | None = None


@contextmanager
def launches() -> Iterator[list[Launch]]:
    """The kernels that run meanwhile, on whichever thread, in order."""
    global _noted
    before, _noted = _noted, []
    try:
        yield _noted
    finally:
        _noted = before


def launch(source: KernelSource, grid: tuple[int, ...], args: Sequence[Any]) -> None:
    """Run a kernel on the device of its arguments, or by the interpreter."""
    if _noted is not None:
        _noted.append(Launch(source, grid, tuple(args)))
    kernel = _function(source)[grid]
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    with _interpreter() if interpreted else nullcontext():
        kernel(*args, **source.tile, num_warps=source.num_warps, num_stages=source.num_stages, **OPTIONS)


@contextmanager
def _interpreter() -> Iterator[None]:
    """One kernel at a time: the interpreter puts its own functions into Triton's language meanwhile, for all threads.

    A GPU does not warn of infinities and NaN, nor of what masks leave out; neither does the interpreter here.
    """
    import numpy as np

    with _interpreting, np.errstate(all="ignore"):
        yield
