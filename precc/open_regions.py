"""Whether regions are open: traced as part of their net, for exports and analyses, instead of running their graphs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["open_regions", "regions_are_open"]

_open = False


def regions_are_open() -> bool:
    """Whether a region is to be traced like any module."""
    return _open or torch.compiler.is_exporting()


@contextmanager
def open_regions() -> Iterator[None]:
    """Trace regions as part of their net."""
    global _open
    before, _open = _open, True
    try:
        yield
    finally:
        _open = before
