"""The line of source that a node of a captured graph comes from."""

import re
import sysconfig
from dataclasses import dataclass
from pathlib import PurePath

from torch.fx import Node

from precc.users_code import is_of_torch_or_ours, is_users

__all__ = ["Place", "place_of"]

_FRAME = re.compile(r'^ *File "([^"\n]+)", line (\d+), in [^\n]*(?:\n(?! *File ") *([^\n]*))?', re.MULTILINE)
_PACKAGES = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib")})


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, or what is known of a node that has none.

    Args:
        file: its path; empty where the node has no line.
        line: its number, from 1; 0 where the node has none.
        code: the text of the line; of a node without one its layer and name.

    >>> print(Place("/home/me/model.py", 12, "return x.exp().sum().log()"))
    model.py:12
    """

    file: str
    line: int
    code: str

    def __str__(self) -> str:
        return f"{PurePath(self.file).name}:{self.line}" if self.file else self.code


def place_of(node: Node, layer: str) -> Place:
    """The innermost line of the user's own; if there is none, of a package that the user chose, or of any file."""
    frames = [Place(file, int(line), code) for file, line, code in _FRAME.findall(node.meta.get("stack_trace") or "")]
    chosen = [frame for frame in frames if is_users(frame.file)]
    own = [frame for frame in chosen if not frame.file.startswith(_PACKAGES)]
    others = [frame for frame in frames if not is_of_torch_or_ours(frame.file)]
    nowhere = Place("", 0, f"node {node.name} of {layer or 'the net'}")
    return next((found[-1] for found in (own, chosen, others, frames) if found), nowhere)
