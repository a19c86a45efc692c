"""Docstrings as they are written here, for the reference: doctests without a heading, comments that begin with #:."""

import re
from pathlib import Path
from typing import Any

from griffe import Attribute, Docstring, Extension, Object

__all__ = ["HouseStyle"]

#: A prompt, and all lines until an empty one.
_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class HouseStyle(Extension):
    """Fences examples, which Markdown takes for quotes, and reads what stands above or behind an attribute."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Of one that was found."""
        if isinstance(obj, Attribute) and obj.docstring is None:
            said = _comment(obj)
            obj.docstring = Docstring(said, parent=obj) if said else None
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)


def _comment(own: Attribute) -> str:
    """The ``#:`` of an attribute; empty if it has none."""
    if own.lineno is None or not isinstance(own.filepath, Path):
        return ""
    lines = own.filepath.read_text(encoding="utf-8").splitlines()
    behind = lines[own.lineno - 1].partition("#: ")[2]
    above: list[str] = []
    while not behind and own.lineno - 2 - len(above) >= 0:
        line = lines[own.lineno - 2 - len(above)].strip()
        if not line.startswith("#: "):
            break
        above.insert(0, line.removeprefix("#: "))
    return behind or " ".join(above)
