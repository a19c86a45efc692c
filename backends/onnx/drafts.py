"""Folders in which files are made before they take their places; those of processes that were killed are swept."""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["draft_beside", "sweep_drafts"]

#: Held as long as its folder is in use; it has the name of a file that its process may have put beside the folder.
_LOCK = "lock"


@contextmanager
def draft_beside(path: Path, data: str) -> Iterator[Path]:
    """A new folder beside a file, on the same disk, that is gone afterwards.

    Args:
        path: of the file.
        data: name of a file beside it that may be left if the process is killed.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as name:
        folder = Path(name)
        with (folder / f"{_LOCK}.new").open("x") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.write(data)
            lock.flush()
            os.replace(folder / f"{_LOCK}.new", folder / _LOCK)  # whoever finds it finds it held
            yield folder


def sweep_drafts(path: Path, kept: set[str]) -> None:
    """Remove folders for a file that no process holds, and what these have left beside it, but for the names kept."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}")
    for folder in path.parent.iterdir():
        if pattern.fullmatch(folder.name) and (left := _left_by(folder)) is not None:
            if left and left not in kept:
                path.with_name(left).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


def _left_by(folder: Path) -> str | None:
    """The file that a process which is gone may have put beside its folder; None: it is not gone, or none of ours."""
    try:
        with (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Path(lock.read()).name
    except OSError:
        return None
