"""The source of a module, with what each line computes beside it."""

from dataclasses import dataclass

__all__ = ["SourceLine", "SourceListing"]


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One line of a file.

    Args:
        number: from 1.
        text: of the line.
        ops: names of the ops in the report that it computes.
    """

    number: int
    text: str
    ops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceListing:
    """A forward of the model's, or another function that it computes in.

    Args:
        name: of the function, with its class.
        file: where it is.
        lines: of it.
    """

    name: str
    file: str
    lines: tuple[SourceLine, ...]
