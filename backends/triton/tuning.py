"""Few timings among the tiles that fit, kept on disk by device, kernel and version of Triton."""

import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from precc.backends.triton.load import kernels_folder
from precc.backends.triton.tiles import Tile
from precc.backends.triton.toolchain import interprets, require_triton
from precc.errors import BackendError, PrecisionWarning
from precc.files import write_whole

__all__ = ["TIMED", "can_be_timed", "known", "known_here", "milliseconds", "quickest", "quickest_here"]

#: Tiles of the best rank that are timed.
TIMED = 6


def quickest(tiles: Sequence[Tile], kernel: str, device: str, version: str, timed: Callable[[Tile], float]) -> Tile:
    """The quickest of the first `TIMED` tiles; found once for all processes.

    A cache that is damaged, or cannot be written, is warned of (PrecisionWarning) and not used.

    Args:
        tiles: those that fit, best first; at least one.
        kernel: what tells kernels and sizes apart.
        device: name of the GPU.
        version: of Triton.
        timed: milliseconds in a tile; infinity where the kernel does not compile.
    """
    path = _path(device)
    found = None if path is None else _known(tiles, path, kernel, version)
    if found is not None:
        return found
    best = min(tiles[:TIMED], key=timed)
    if path is not None:
        _write(path, _read(path) | {_key(kernel, version): asdict(best)})
    return best


def known(tiles: Sequence[Tile], kernel: str, device: str, version: str) -> Tile | None:
    """The tile that `quickest` found before, in whichever process; None if it did not."""
    path = _path(device)
    return None if path is None else _known(tiles, path, kernel, version)


def _known(tiles: Sequence[Tile], path: Path, kernel: str, version: str) -> Tile | None:
    kept = _read(path).get(_key(kernel, version))
    return next((tile for tile in tiles[:TIMED] if asdict(tile) == kept), None)


def _key(kernel: str, version: str) -> str:
    return f"{kernel} triton {version}"


def quickest_here(tiles: Sequence[Tile], kernel: str, timed: Callable[[Tile], float]) -> Tile:
    """`quickest` on the GPU of this process."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return quickest(tiles, kernel, name, require_triton().__version__, timed)


def known_here(tiles: Sequence[Tile], kernel: str) -> Tile | None:
    """`known` on the GPU of this process; None without one."""
    if not torch.cuda.is_available() or interprets():
        return None
    return known(tiles, kernel, torch.cuda.get_device_name(), require_triton().__version__)


def can_be_timed(device: torch.device) -> bool:
    """Whether kernels on tensors there take the time that they take: on a GPU, and not under the interpreter."""
    return device.type == "cuda" and not interprets()


def milliseconds(run: Callable[[], None]) -> float:
    """The median time of a kernel on a GPU; infinity where the GPU has not the shared memory or registers for it."""
    from triton.runtime.errors import OutOfResources
    from triton.testing import do_bench

    try:
        return float(do_bench(run, return_mode="median"))
    except OutOfResources:
        return math.inf


def _path(device: str) -> Path | None:
    try:
        folder = kernels_folder()
    except BackendError as error:
        warnings.warn(f"tiles are timed anew in each process: {error}", PrecisionWarning, stacklevel=4)
        return None
    cleaned = "".join(own if own.isalnum() else "_" for own in device)
    return folder / f"tiles_{cleaned}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        found = error
    if isinstance(found, dict):
        return found
    message = f"the tiles kept in {os.fspath(path)!r} cannot be read and are timed anew; delete the file: {found}"
    warnings.warn(message, PrecisionWarning, stacklevel=4)
    return {}


def _write(path: Path, tiles: dict[str, Any]) -> None:
    try:
        write_whole(path, json.dumps(tiles, indent=1, sort_keys=True).encode())
    except OSError as error:
        message = f"tiles are timed anew in each process: {os.fspath(path)!r} cannot be written: {error}"
        warnings.warn(message, PrecisionWarning, stacklevel=4)
