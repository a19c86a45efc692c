"""From the text of a kernel to a function of Triton's that runs: by a file in the cache folder."""

import importlib.util
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from precc.backends.cpp.build import cache_folder
from precc.backends.triton.computation import computation
from precc.backends.triton.interpreter import interpreting
from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.toolchain import is_asked
from precc.errors import BackendError
from precc.files import write_whole

__all__ = ["OPTIONS", "Launch", "compiling", "kernels_folder", "launch", "launches", "source_path", "variant_of"]

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


@dataclass(frozen=True, slots=True)
class _Text:
    """A kernel in a file; equal to what computes the same, whatever it is called."""

    computation: str
    name: str = field(compare=False)
    path: Path = field(compare=False)


@lru_cache(_LOADED)
def _function(source: KernelSource) -> Any:
    return _text_function(_Text(computation(source.text, source.name), source.name, source_path(source)))


@lru_cache(_LOADED)
def _text_function(text: _Text) -> Any:
    """One function for all that compute the same, whatever their tiles: Triton keeps what it compiled in it."""
    spec = importlib.util.spec_from_file_location(text.path.stem, text.path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, text.name)


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """One run of a kernel, which can be run again; its arguments are kept alive."""

    source: KernelSource
    grid: tuple[int, ...]
    args: tuple[Any, ...]

    def __call__(self) -> None:
        launch(self.source, self.grid, self.args)


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


_own = threading.local()


@contextmanager
def compiling() -> Iterator[None]:
    """Kernels that this thread launches meanwhile are only compiled, for tensors that may be without data."""
    _own.compiles = True
    try:
        yield
    finally:
        _own.compiles = False


#: By source and GPU, the variant that runs.
_chosen: dict[tuple[KernelSource, int], KernelSource] = {}


def variant_of(source: KernelSource) -> KernelSource:
    """The variant that runs on the GPU in use; itself where none has been chosen."""
    return _chosen.get((source, torch.cuda.current_device()), source) if _chosen else source


def _without_spills(source: KernelSource, grid: tuple[int, ...], args: Sequence[Any]) -> KernelSource:
    """The source or the first variant of it of which nothing is spilled; itself where each spills. Found once a GPU."""
    key = source, torch.cuda.current_device()
    if key not in _chosen:
        some = (source, *source.variants())
        _chosen[key] = next((own for own in some if not _spills(_compile(own, grid, args))), source)
    return _chosen[key]


def _spills(kernel: Any) -> bool:
    """Whether a compiled kernel spills registers, or does not fit the GPU."""
    from triton.runtime.errors import OutOfResources

    try:
        kernel.run  # noqa: B018  # what loads it, and finds out
    except OutOfResources:
        return True
    return int(kernel.n_spills) > 0


def _compile(source: KernelSource, grid: tuple[int, ...], args: Sequence[Any]) -> Any:
    """What Triton compiles for such arguments; pointers are taken to be multiples of 16, as new tensors' are."""
    like = [own.dtype if isinstance(own, Tensor) else own for own in args]
    options = {"num_warps": source.num_warps, "num_stages": source.num_stages, **OPTIONS}
    return _function(source).warmup(*like, grid=grid, **source.tile, **options)


def launch(source: KernelSource, grid: tuple[int, ...], args: Sequence[Any]) -> None:
    """Run a kernel on the device of its arguments, or by the interpreter."""
    if getattr(_own, "compiles", False):
        _without_spills(source, grid, args)
        return
    if _noted is not None:
        _noted.append(Launch(source, grid, tuple(args)))
    if is_asked():
        with interpreting():
            _run(source, grid, args)
    else:
        _run(_without_spills(source, grid, args), grid, args)


def _run(own: KernelSource, grid: tuple[int, ...], args: Sequence[Any]) -> None:
    kernel = _function(own)[grid]
    kernel(*args, **own.tile, num_warps=own.num_warps, num_stages=own.num_stages, **OPTIONS)
