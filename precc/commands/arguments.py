"""Arguments that several commands have."""

import argparse
import math
from typing import Any

__all__ = ["add_file", "add_folder", "count", "draws", "rate", "seed"]


def add_file(parser: Any, *names: str, **options: Any) -> argparse.Action:
    """An argument that names a file, which shells complete; as ``parser.add_argument``."""
    return _completed(parser.add_argument(*names, **options), "file")


def add_folder(parser: Any, *names: str, **options: Any) -> argparse.Action:
    """Likewise a folder."""
    return _completed(parser.add_argument(*names, **options), "folder")


def _completed(own: argparse.Action, kind: str) -> argparse.Action:
    own.completed = kind  # type: ignore[attr-defined]
    return own


def count(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def draws(text: str) -> int:
    """A number of draws: 0, for none, or at least 2."""
    if not text.isdecimal() or int(text) == 1:
        raise argparse.ArgumentTypeError(f"expected 0, or a number of draws of at least 2, got {text!r}")
    return int(text)


def rate(text: str) -> float:
    """A learning rate: a finite number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text!r}")
    return found


def seed(text: str) -> int:
    """A seed of torch's generators."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 2**63 - 1, got {text!r}")
    return int(text)
