"""Warn at the user's own line."""

import os
import sys
import warnings
from pathlib import Path

import torch

from precc.errors import PrecisionWarning

__all__ = ["warn_caller"]

_ROOT = Path(__file__).parents[1]
_OWN = [_ROOT / name for name in ("precc", "passes", "backends")]
_PASSED = tuple(str(path) + os.sep for path in (Path(torch.__file__).parent, *_OWN))


def warn_caller(message: str) -> None:
    """Issue a `PrecisionWarning` that names the innermost line that is neither torch's nor ours.

    How many frames lie between depends on hooks, compiled code and regions; so no fixed number finds that line.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PASSED):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, PrecisionWarning, stacklevel=level)
