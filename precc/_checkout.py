"""Find passes/, backends/ and models/ beside precc/ in a source checkout.

A wheel nests the three folders under precc/ (``[tool.setuptools.package-dir]``), so an installed
package never needs this. In a checkout they are siblings of precc/, and Python would look for
``precc.passes`` in precc/ only.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent
_SIBLINGS = frozenset({"precc.passes", "precc.backends", "precc.models"})


class _SiblingFinder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _SIBLINGS:
            return None
        return PathFinder.find_spec(name, [str(_PACKAGE.parent)])


def is_checkout() -> bool:
    """Whether precc is imported from its source, where the three folders lie beside it."""
    return not (_PACKAGE / "passes").is_dir()


def install() -> None:
    """Put the finder first, so that a second checkout never imports the first one's folders."""
    if is_checkout():
        sys.meta_path.insert(0, _SiblingFinder)
