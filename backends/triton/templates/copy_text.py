"""One copy in the lines of a cast."""

from dataclasses import dataclass

from precc.backends.triton.templates.cast_copies import Copy
from precc.backends.triton.templates.cast_text import CastText
from precc.backends.triton.templates.lines import Lines

__all__ = ["CopyText"]


@dataclass(frozen=True, slots=True)
class CopyText:
    """What is written of a copy.

    Args:
        lines: of the kernel.
        cast: what it is for.
        number: of the copy.
        shared: number of the first copy with the same rounded values, whose scales and values it has.
    """

    lines: Lines
    cast: CastText
    number: int
    shared: int

    @property
    def copy(self) -> Copy:
        """Itself."""
        return self.cast.copies[self.number]
