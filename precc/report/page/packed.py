"""Numbers and texts as a page holds them: JSON that may stand in HTML, arrays as base64."""

import base64
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from precc.strict_json import json_number

__all__ = ["figure", "figures", "packed", "script_json"]

#: What could end a script element, begin a comment in it, or be read as markup.
_MARKUP = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def figure(value: float | None) -> float | str | None:
    """A number to 7 digits; ``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` stand for what JSON has not.

    >>> figure(1 / 3), figure(float("-inf")), figure(None)
    (0.3333333, '-Infinity', None)
    """
    if value is None or not math.isfinite(value):
        return value if value is None else json_number(value)
    return float(f"{value:.7g}") if isinstance(value, float) else value


def figures(values: Iterable[float | None]) -> list[float | str | None]:
    """All of them."""
    return [figure(value) for value in values]


def packed(values: Sequence[Any] | np.ndarray[Any, Any], kind: str) -> dict[str, str]:
    """An array for a typed array of the page: ``{"f8": base64}``, little-endian.

    Args:
        values: numbers that the kind holds.
        kind: ``"i1"``, ``"i2"``, ``"i4"`` or ``"f8"``.
    """
    return {kind: base64.b64encode(np.asarray(values, f"<{kind}").tobytes()).decode()}


def script_json(document: Any) -> str:
    r"""JSON for a script element of HTML: in ASCII, and without a character of markup.

    >>> print(script_json({"name": "</script>"}))
    {"name":"\u003c/script\u003e"}
    """
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    for character, escape in _MARKUP.items():
        text = text.replace(character, escape)
    return text
