"""Optional packages: imported when they are needed, and named where they are missing."""

from importlib import import_module
from typing import Any

from precc.errors import ExtraError

__all__ = ["imported"]


def imported(module: str, extra: str) -> Any:
    """A module of an optional package.

    Raises:
        ExtraError: it is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ExtraError(f"{module} is not installed ({error}): pip install 'precc[{extra}]'") from error
