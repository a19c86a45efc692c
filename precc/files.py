"""Write files whole or not at all."""

import os
import secrets
from pathlib import Path

__all__ = ["require_place", "write_whole"]


def require_place(path: Path) -> None:
    """Raise OSError where no file can be written: for what takes long before it writes one."""
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder, not a file to write")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}")


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file by new content in one step: a reader sees the old file or the new one.

    Raises:
        OSError: the folder does not exist or cannot be written; the old file, if any, is as it was.
    """
    require_place(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(content)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
