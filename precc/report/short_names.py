"""Names and formats in fewer characters, so that one can still be told from another."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from precc.formats import ALIASES

__all__ = ["short_formats", "short_names", "without_scalings"]

_SHORT: dict[str, str] = {}
for _alias, _name in ALIASES.items():
    _SHORT.setdefault(_name, _alias)
_LONG = re.compile(r"(?<![\w.])(" + "|".join(sorted(map(re.escape, _SHORT), key=len, reverse=True)) + r")(?![\w.])")

#: A scaling in the text of a precision, and how many get a star.
_SCALING = re.compile(r"/[^\s,]+")
_STARS = 2


def short_formats(text: str) -> str:
    """With the short spelling of each format that has one.

    >>> short_formats("input float8_e4m3fn/tensor:float32 x weight bfloat16")
    'input e4m3/tensor:fp32 x weight bf16'
    """
    return _LONG.sub(lambda found: _SHORT[found[1]], text)


def without_scalings(texts: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Formats with a star in the place of the scaling that most have, two of the next one; and what stars mean.

    >>> without_scalings(["e4m3/tensor:fp32", "e5m2/tensor:fp32", "bf16"])
    ({'e4m3/tensor:fp32': 'e4m3*', 'e5m2/tensor:fp32': 'e5m2*', 'bf16': 'bf16'}, ['* is /tensor:fp32'])
    """
    every = list(dict.fromkeys(texts))
    found = Counter(scaling for text in every for scaling in _SCALING.findall(text) if len(scaling) > _STARS)
    stars = {scaling: "*" * (k + 1) for k, (scaling, _) in enumerate(found.most_common(_STARS))}
    changed = {text: _SCALING.sub(lambda own: stars.get(own[0], own[0]), text) for text in every}
    return changed, [f"{star} is {scaling}" for scaling, star in stars.items()]


def short_names(names: Iterable[str], width: int, most: int = 0) -> dict[str, str]:
    """Names of at most so many characters, an ellipsis in the middle, each another; as they are where they fit.

    All are cut at one place, where that tells them apart, if need be with up to `most` characters.

    >>> short_names(["model.layers.0.attention.query", "model.layers.1.attention.query"], 20)
    {'model.layers.0.attention.query': 'model.layers.0…query', 'model.layers.1.attention.query': 'model.layers.1…query'}
    """
    every = list(dict.fromkeys(names))
    for own in range(width, max(width, most) + 1):
        found = _cut_alike(every, own)
        if found is not None:
            return found
    found, used = {}, {name for name in every if len(name) <= width}
    for name in every:
        found[name] = name if len(name) <= width else _cut_apart(name, width, used)
        used.add(found[name])
    return found


def _cut_alike(names: Sequence[str], width: int) -> dict[str, str] | None:
    """All that are too long cut behind the same number of characters, nearest to the middle; None if two are alike."""
    kept = max(width - 1, 1)
    for head in sorted(range(kept + 1), key=lambda own: abs(own - kept / 2)):
        found = {name: name if len(name) <= width else _cut(name, head, kept) for name in names}
        if len(set(found.values())) == len(names):
            return found
    return None


def _cut(name: str, head: int, kept: int) -> str:
    return f"{name[:head]}…{name[len(name) - kept + head :]}"


def _cut_apart(name: str, width: int, used: set[str]) -> str:
    """Cut wherever it is like none that is there, else numbered."""
    kept = max(width - 1, 1)
    cuts = (_cut(name, head, kept) for head in sorted(range(kept + 1), key=lambda own: abs(own - kept / 2)))
    for cut in cuts:
        if cut not in used:
            return cut
    number = 2
    while (cut := f"{name[: max(kept - len(str(number)), 0)]}…{number}") in used:
        number += 1
    return cut
