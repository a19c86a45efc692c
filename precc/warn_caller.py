"""Warn at the user's own line."""

import sys
import warnings

from precc.errors import PrecisionWarning
from precc.users_code import is_of_torch_or_ours

__all__ = ["warn_caller"]


def warn_caller(message: str) -> None:
    """Issue a `PrecisionWarning` that names the innermost line that is neither torch's nor ours.

    How many frames lie between depends on hooks, compiled code and regions; so no fixed number finds that line.
    """
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and is_of_torch_or_ours(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, PrecisionWarning, stacklevel=level)
