"""The colour of each format: the same in every chart of every page, from cold to warm as bits get fewer."""

from hashlib import sha256

from precc.errors import FormatError
from precc.formats import parse_format

__all__ = ["bits_of", "colour_of"]

#: After Okabe and Ito (2008): told apart with each of the common kinds of colour blindness.
_NAMED = {
    "float64": "#1b2a6b",
    "float32": "#0072b2",
    "tfloat32": "#3f5fd0",
    "bfloat16": "#56b4e9",
    "float16": "#009e73",
    "float8_e5m2": "#f0e442",
    "float8_e4m3fn": "#e69f00",
    "float8_e3m4": "#b07d2b",
    "float6_e3m2fn": "#e3a5c7",
    "float6_e2m3fn": "#cc79a7",
    "float4_e2m1fn": "#d55e00",
    "int16": "#3d8f8a",
    "int8": "#a7a03a",
    "int4": "#8f2d14",
    "mxfp8_e4m3": "#f5c25b",
    "mxfp8_e5m2": "#f7ef98",
    "mxfp6_e2m3": "#b35c93",
    "mxfp6_e3m2": "#d9bfd0",
    "mxfp4_e2m1": "#f08a4b",
    "nvfp4": "#a63c00",
}

#: Of other formats by bits: the colour at each number of bits, and between them in proportion.
_BY_BITS = (
    *((2, "#6b1400"), (4, "#c04a10"), (6, "#c77aa8"), (8, "#d9ad2e"), (12, "#6fae5a")),
    *((16, "#2fa28f"), (24, "#4a86c8"), (32, "#1f6296"), (64, "#1b2a6b")),
)


def bits_of(name: str) -> float | None:
    """Of a value in the format of this name; None if it is a format of the user's own."""
    try:
        return parse_format(name).bits
    except FormatError:
        return None


def colour_of(name: str, bits: float) -> str:
    """The colour of a format, as ``#rrggbb``; formats of as many bits differ a little by their names.

    >>> colour_of("float32", 32), colour_of("e4m5", 10) == colour_of("e5m4", 10)
    ('#0072b2', False)
    """
    if name in _NAMED:
        return _NAMED[name]
    lower = max((entry for entry in _BY_BITS if entry[0] <= bits), default=_BY_BITS[0])
    upper = min((entry for entry in _BY_BITS if entry[0] >= bits), default=_BY_BITS[-1])
    part = (bits - lower[0]) / (upper[0] - lower[0]) if upper[0] > lower[0] else 0.0
    shade = 0.82 + 0.36 * sha256(name.encode("utf-8", "replace")).digest()[0] / 255
    ends = zip(_channels(lower[1]), _channels(upper[1]), strict=True)
    mixed = (shade * ((1 - part) * a + part * b) for a, b in ends)
    return "#" + "".join(f"{min(255, round(own)):02x}" for own in mixed)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))
