"""Names and formats in fewer characters, so that one can still be told from another."""

import re
from collections import Counter
from collections.abc import Iterable

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


def short_names(names: Iterable[str], width: int) -> dict[str, str]:
    """Names of at most so many characters, an ellipsis in the middle, each another; as they are where they fit.

    >>> short_names(["model.layers.0.attention.q", "model.layers.1.attention.q"], 16)
    {'model.layers.0.attention.q': 'model.l…tention.q', 'model.layers.1.attention.q': 'model.la…ention.q'}
    """
    every = list(dict.fromkeys(names))
    found = {name: name for name in every if len(name) <= width}
    used = set(found)
    for name in every:
        if name not in found:
            found[name] = _shortened(name, width, used)
            used.add(found[name])
    return {name: found[name] for name in every}


def _shortened(name: str, width: int, used: set[str]) -> str:
    """Cut in the middle, else nearer to an end, else numbered."""
    kept = max(width - 1, 1)
    middle = kept // 2
    for off in range(kept):
        for head in (middle - off, middle + off):
            if 0 <= head <= kept and (cut := f"{name[:head]}…{name[len(name) - kept + head :]}") not in used:
                return cut
    number = 2
    while (cut := f"{name[: max(kept - len(str(number)), 0)]}…{number}") in used:
        number += 1
    return cut
