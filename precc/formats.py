"""Number formats are data: a few integers from which every other fact is derived.

A finite value of a float format is ``(-1)**s * (1 + f / 2**m) * 2**e`` with ``emin <= e <= emax``
(normal), or ``(-1)**s * (f / 2**m) * 2**emin`` (subnormal), ``0 <= f < 2**m``. So the format is a grid
whose quantum at ``|x|`` is ``2**max(floor(log2 |x|) - m, k_min)``, ``k_min = emin - m``, cut off at
``max``. Throughout precc ``u`` is the unit roundoff ``2**-(m + 1)``, half the distance from 1 to the next value.

Names follow ml_dtypes and the OCP specifications (OFP8 1.0, 2023; Microscaling Formats MX 1.0, 2023).
"""

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from typing import TypeVar

from precc.errors import FormatError, expected_one_of

__all__ = ["ALIASES", "FORMATS", "FloatFormat", "Overflow", "Specials", "parse_format"]


class Specials(Enum):
    """What the codes of the largest exponent mean."""

    INF_NAN = "inf_nan"  #: all of them infinities and NaNs, as in IEEE 754
    NAN = "nan"  #: only the code with all mantissa bits set, a NaN; the others are numbers (OFP8 e4m3)
    NONE = "none"  #: all of them are numbers (MX e3m2, e2m3, e2m1)


class Overflow(Enum):
    """What a rounded magnitude above the largest finite value becomes. NaN stays NaN in every case."""

    SATURATE = "saturate"  #: the largest finite value, also for an infinite input
    INF = "inf"  #: infinity
    NAN = "nan"  #: NaN


_Choice = TypeVar("_Choice", Specials, Overflow)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatFormat:
    """A binary floating-point format with subnormals.

    Args:
        name: the one spelling used in plans and reports.
        exponent_bits: width of the exponent field.
        mantissa_bits: stored bits of the significand, m; the precision is m + 1.
        specials: meaning of the largest exponent field.
        overflow: default: infinity where the format has one, else saturation.

    Raises:
        FormatError: the widths do not make a format, or the overflow rule needs a code it lacks.

    >>> FORMATS["float8_e4m3fn"]
    float8_e4m3fn (8 bits, bias 7, max 448, no inf)
    """

    name: str = field(compare=False)
    exponent_bits: int
    mantissa_bits: int
    specials: Specials = Specials.INF_NAN
    overflow: Overflow = field(default=None)  # type: ignore[assignment]  # set in __post_init__

    def __post_init__(self) -> None:
        if not all(type(width) is int for width in (self.exponent_bits, self.mantissa_bits)):
            raise FormatError(f"format {self.name!r}: the numbers of bits must be integers")
        object.__setattr__(self, "specials", _member(Specials, self.specials))
        if self.overflow is not None:
            object.__setattr__(self, "overflow", _member(Overflow, self.overflow))
        else:
            rule = Overflow.INF if self.has_inf else Overflow.SATURATE
            object.__setattr__(self, "overflow", rule)
        fits_float32 = 2 <= self.exponent_bits <= 8 and 0 <= self.mantissa_bits <= 23 and self.emax <= 127
        is_float64 = (self.exponent_bits, self.mantissa_bits) == (11, 52) and self.has_inf
        if not (fits_float32 or is_float64):
            raise FormatError(
                f"format {self.name!r}: 2 to 8 exponent bits, 0 to 23 mantissa bits and exponents up to 127 are "
                f"supported (what float32 can hold), and float64; got {self.exponent_bits} and {self.mantissa_bits} "
                f"bits and exponents up to {self.emax}"
            )
        if self.specials is Specials.NAN and self.mantissa_bits == 0:
            raise FormatError(f"format {self.name!r}: a NaN beside numbers needs a mantissa bit")
        if self.overflow is Overflow.INF and not self.has_inf:
            raise FormatError(f"format {self.name!r} has no infinity to overflow to")
        if self.overflow is Overflow.NAN and self.specials is Specials.NONE:
            raise FormatError(f"format {self.name!r} has no NaN to overflow to")

    @property
    def has_inf(self) -> bool:
        """Whether it has infinities."""
        return self.specials is Specials.INF_NAN

    @property
    def bits(self) -> int:
        """Storage width, with the sign."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is added to the exponent in its field: 2**(exponent_bits - 1) - 1."""
        return int(2 ** (self.exponent_bits - 1)) - 1

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal number."""
        return 1 - self.bias

    @property
    def emax(self) -> int:
        """Exponent of the largest finite number."""
        top_field = int(2**self.exponent_bits) - 1
        return top_field - self.bias - (1 if self.has_inf else 0)

    @property
    def k_min(self) -> int:
        """Base-2 logarithm of the smallest quantum, that of the subnormals."""
        return self.emin - self.mantissa_bits

    @property
    def max(self) -> float:
        """The largest finite value."""
        missing_codes = 2 if self.specials is Specials.NAN else 1
        return (2.0 - missing_codes * 2.0**-self.mantissa_bits) * 2.0**self.emax

    @property
    def smallest_normal(self) -> float:
        """2**emin."""
        return 2.0**self.emin

    @property
    def smallest_subnormal(self) -> float:
        """2**k_min, the smallest positive number."""
        return 2.0**self.k_min

    @property
    def unit_roundoff(self) -> float:
        """U = 2**-(m + 1): the largest relative error of rounding to nearest in the normal range."""
        return 2.0 ** -(self.mantissa_bits + 1)

    def with_overflow(self, rule: Overflow | str) -> "FloatFormat":
        """The same grid with another overflow rule: ``"saturate"``, ``"inf"`` or ``"nan"``.

        >>> FORMATS["float8_e5m2"].with_overflow("saturate").overflow.value
        'saturate'
        """
        return replace(self, overflow=_member(Overflow, rule))

    def __repr__(self) -> str:
        what = "" if self.has_inf else ", no inf"
        natural = Overflow.INF if self.has_inf else Overflow.SATURATE
        rule = "" if self.overflow is natural else f", overflow to {self.overflow.value}"
        return f"{self.name} ({self.bits} bits, bias {self.bias}, max {self.max:.6g}{what}{rule})"


def _member(kind: type[_Choice], choice: object) -> _Choice:
    try:
        return kind(choice)
    except ValueError:
        valid = expected_one_of(str(member.value) for member in kind)
        raise FormatError(f"unknown {kind.__name__.lower()} rule {choice!r}: {valid}") from None


def _named(*formats: FloatFormat) -> dict[str, FloatFormat]:
    return {fmt.name: fmt for fmt in formats}


#: The named formats, widest first. Any other ``e<X>m<Y>`` is IEEE-like, with infinities and NaN.
FORMATS: dict[str, FloatFormat] = _named(
    FloatFormat(name="float64", exponent_bits=11, mantissa_bits=52),
    FloatFormat(name="float32", exponent_bits=8, mantissa_bits=23),
    FloatFormat(name="tfloat32", exponent_bits=8, mantissa_bits=10),
    FloatFormat(name="bfloat16", exponent_bits=8, mantissa_bits=7),
    FloatFormat(name="float16", exponent_bits=5, mantissa_bits=10),
    FloatFormat(name="float8_e5m2", exponent_bits=5, mantissa_bits=2),
    FloatFormat(name="float8_e4m3fn", exponent_bits=4, mantissa_bits=3, specials=Specials.NAN),
    FloatFormat(name="float6_e3m2fn", exponent_bits=3, mantissa_bits=2, specials=Specials.NONE),
    FloatFormat(name="float6_e2m3fn", exponent_bits=2, mantissa_bits=3, specials=Specials.NONE),
    FloatFormat(name="float4_e2m1fn", exponent_bits=2, mantissa_bits=1, specials=Specials.NONE),
)

#: Short spellings. The bare OCP names mean the OCP formats: ``e4m3`` is ``float8_e4m3fn``.
ALIASES: dict[str, str] = {
    "fp64": "float64",
    "fp32": "float32",
    "tf32": "tfloat32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "e5m2": "float8_e5m2",
    "e4m3": "float8_e4m3fn",
    "e3m2": "float6_e3m2fn",
    "e2m3": "float6_e2m3fn",
    "e2m1": "float4_e2m1fn",
}

_EXMY = re.compile(r"e([1-9]\d*)m(0|[1-9]\d*)")


@lru_cache(maxsize=256)
def _parse_name(name: str) -> FloatFormat:
    key = name.strip().lower()
    key = ALIASES.get(key, key)
    if key in FORMATS:
        return FORMATS[key]
    widths = _EXMY.fullmatch(key)
    if widths is None:
        known = expected_one_of([*FORMATS, *ALIASES])
        raise FormatError(f"unknown format {name!r}: {known}, or any 'e<X>m<Y>' such as 'e5m4'")
    exponent_bits, mantissa_bits = (int(width) for width in widths.groups())
    fmt = FloatFormat(name=key, exponent_bits=exponent_bits, mantissa_bits=mantissa_bits)
    return next((named for named in FORMATS.values() if named == fmt), fmt)


def parse_format(fmt: FloatFormat | str) -> FloatFormat:
    """The format that a name means; a format is returned as it is.

    Raises:
        FormatError: the name is unknown; the message lists the valid ones.

    >>> parse_format("bf16").name, parse_format("e5m10").name, parse_format("E4M3").max
    ('bfloat16', 'float16', 448.0)
    """
    if isinstance(fmt, FloatFormat):
        return fmt
    if not isinstance(fmt, str):
        raise FormatError(f"a format is a FloatFormat or its name, not {type(fmt).__name__} ({fmt!r})")
    return _parse_name(fmt)
