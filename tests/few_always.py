"""Parameters of which a few are always run, and the others with the slow tests."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

__all__ = ["few_always"]


def few_always(every: Iterable[Any], always: Collection[Any]) -> list[Any]:
    """All of them, marked as slow but for those of `always`."""
    return [own if own in always else pytest.param(own, marks=pytest.mark.slow) for own in every]
