"""Whose code a file is: errors and warnings name lines of the user's, not torch's, Python's or ours."""

import os
import sysconfig
from pathlib import Path

import torch

from precc._checkout import is_checkout

__all__ = ["is_of_torch_or_ours", "is_users"]

_ROOT = Path(__file__).parents[1]
#: In a checkout some of our packages lie beside this one; when installed, what lies there is other people's.
_SIBLINGS = [_ROOT / name for name in ("passes", "backends")] if is_checkout() else []
_OURS = tuple(str(folder) + os.sep for folder in (Path(torch.__file__).parent, Path(__file__).parent, *_SIBLINGS))
_PYTHONS = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))
_PACKAGES = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))


def is_of_torch_or_ours(filename: str) -> bool:
    """Whether a file is torch's or precc's."""
    return filename.startswith(_OURS)


def is_users(filename: str) -> bool:
    """Whether a file is of the user, or of a package that the user chose."""
    pythons = filename.startswith(_PYTHONS) and not filename.startswith(_PACKAGES)
    return not (pythons or is_of_torch_or_ours(filename) or filename.startswith("<"))
