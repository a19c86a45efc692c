"""Write files whole or not at all."""

import errno
import os
import secrets
from pathlib import Path

__all__ = ["behind_links", "require_place", "write_whole"]


def require_place(path: Path) -> None:
    """Raise OSError where no file can be written: for what takes long before it writes one."""
    if "\0" in str(path):
        raise OSError(f"cannot write {str(path)!r}: no name of a file has a NUL in it")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder, not a file to write")
    if path.exists() and not path.is_file():
        raise OSError(f"{str(path)!r} is a device, a pipe or a socket, which is not replaced by a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}")
    if path.is_symlink():
        require_place(behind_links(path))


def behind_links(path: Path) -> Path:
    """The file that a link leads to, which may not be there yet; the path itself if it is none."""
    if not path.is_symlink():
        return path
    found = Path(os.path.realpath(path))
    if found.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return found


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file by new content in one step: a reader sees the old file or the new one; of a link the file behind.

    Raises:
        OSError: the folder does not exist or cannot be written, or a device or a pipe is there; the old file, if any,
            is as it was.
    """
    require_place(path)
    place = behind_links(path)
    draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(content)
        os.replace(draft, place)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
