"""Where commands write: looked at before the work begins."""

import tempfile
from pathlib import Path

from precc.files import behind_links, require_place

__all__ = ["writable_file", "writable_folder"]


def writable_file(name: str) -> Path:
    """The path of a file that can be written.

    Raises:
        OSError: it cannot; the message names the folder.
    """
    path = Path(name)
    require_place(path)
    _try(behind_links(path).parent)
    return path


def writable_folder(name: str) -> Path:
    """A folder, made if it is not there, in which files can be written.

    Raises:
        OSError: there is none.
    """
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(f"{name!r} is a file, not a folder to write in") from error
    _try(folder)
    return folder


def _try(folder: Path) -> None:
    """Open a file without a name there, as rights alone do not say what a file system does."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write in the folder {str(folder)!r}: {error.strerror}") from error
