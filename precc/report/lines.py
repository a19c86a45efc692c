"""Lines of text with styles: what is printed with and without colours."""

import textwrap
from collections.abc import Iterable

from rich.text import Text

__all__ = ["Line", "plain", "printable", "rich_text", "wrapped"]

#: Pieces of text, each with its style as rich has it; empty: none.
Line = tuple[tuple[str, str], ...]


def printable(text: str) -> str:
    """Without what a terminal would obey; names of modules may hold anything."""
    return text if text.isprintable() else "".join(own if own.isprintable() else "\ufffd" for own in text)


def plain(lines: Iterable[Line]) -> str:
    """Without styles."""
    return "\n".join("".join(text for text, _ in line) for line in lines)


def rich_text(lines: Iterable[Line]) -> Text:
    """With styles; what looks like markup in it is none."""
    found = Text()
    for number, line in enumerate(lines):
        found.append("\n" * bool(number))
        for text, style in line:
            found.append(text, style or None)
    return found


def wrapped(text: str, width: int, style: str = "", *, indent: str = "  ") -> list[Line]:
    """In lines of at most so many characters, where there are blanks; those after the first are indented."""
    lines = textwrap.wrap(
        printable(text),
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
    return [((line, style),) for line in lines]
