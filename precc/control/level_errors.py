"""What is known of the errors of levels: the largest of the last measurements of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from precc.errors import ControllerError

__all__ = ["LevelErrors"]


@dataclass(frozen=True, slots=True)
class LevelErrors:
    """Errors of the loss that were observed under each level, oldest first.

    Args:
        window: how many of a level count.
        observed: by level.

    >>> errors = LevelErrors.of(levels=2, window=2).noted([0.3, 0.0]).noted([0.1, 0.0]).noted([0.2, 0.0])
    >>> errors.largest
    (0.2, 0.0)
    """

    window: int
    observed: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, *, levels: int, window: int) -> "LevelErrors":
        """Of no measurement so far.

        Raises:
            ControllerError: a window below 1.
        """
        if type(window) is not int or window < 1:
            raise ControllerError(f"window counts measurements, at least 1; got {window!r}")
        return cls(window, ((),) * levels)

    def noted(self, errors: Sequence[float]) -> "LevelErrors":
        """With one more measurement of each level; one that is not a number counts as infinite."""
        known = [math.inf if math.isnan(error) else error for error in errors]
        rows = zip(self.observed, known, strict=True)
        return LevelErrors(self.window, tuple((*row, own)[-self.window :] for row, own in rows))

    @property
    def largest(self) -> tuple[float, ...]:
        """Of each level; infinite before the first measurement."""
        return tuple(max(own, default=math.inf) for own in self.observed)
