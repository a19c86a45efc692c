"""Names that every tracker takes, and back."""

import re
from hashlib import sha256

__all__ = ["plain_name", "safe_name", "shortened"]

_ESCAPED = re.compile("_x([0-9a-f]+)_|-")
_DOTS = re.compile(r"(?:(?<=/)|^)\.{1,2}(?=/|$)|^\.\.")  # what a path would resolve, or MLflow thinks it would
_SLASHES = re.compile(r"^/|/(?=/)|/$")  # without a segment before or behind
_FOREIGN = re.compile(r"[^A-Za-z0-9_./#]")


def safe_name(name: str) -> str:
    """A name of letters, digits and ``_./-`` alone; other names give others.

    ``#``, which numbers the calls of a module, becomes ``-``, and what else is not allowed its code point.

    >>> safe_name("blocks.0/product#1"), safe_name("heads.to out/product")
    ('blocks.0/product-1', 'heads.to_x20_out/product')
    """
    text = name.replace("_x", "_x5f_x")
    for escaped in (_DOTS, _SLASHES, _FOREIGN):
        text = escaped.sub(_codes, text)
    return text.replace("#", "-")


def plain_name(safe: str) -> str:
    """The name that `safe_name` was given.

    >>> plain_name("heads.to_x20_out/product-1")
    'heads.to out/product#1'
    """
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else "#", safe)


def shortened(name: str, longest: int) -> str:
    """The name, or where it is longer its beginning and a digest of the whole."""
    if len(name) <= longest:
        return name
    digest = sha256(name.encode()).hexdigest()[:16]
    return f"{name[: longest - len(digest) - 1]}-{digest}"


def _codes(found: re.Match[str]) -> str:
    return "".join(f"_x{ord(own):x}_" for own in found[0])
