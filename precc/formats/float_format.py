"""Floating-point formats as data: a few integers from which every other fact is derived.

A finite value is ``(-1)**s * (1 + f / 2**m) * 2**e`` with ``emin <= e <= emax`` (normal), or
``(-1)**s * (f / 2**m) * 2**emin`` (subnormal), ``0 <= f < 2**m``. So the format is a grid whose quantum at
``|x|`` is ``2**max(floor(log2 |x|) - m, emin - m)``, cut off at ``max``. Throughout precc ``u`` is the unit
roundoff ``2**-(m + 1)``, half the distance from 1 to the next value.
"""

import math
from dataclasses import dataclass, field, replace
from enum import Enum

from precc.errors import FormatError, member_of

__all__ = ["FloatFormat", "Overflow", "Specials"]


class Specials(Enum):
    """Which codes are no finite numbers."""

    INF_NAN = "inf_nan"  #: those of the largest exponent: infinities and NaNs, as in IEEE 754
    NAN = "nan"  #: only the one with all bits set, a NaN (OFP8 e4m3, MX e8m0)
    NONE = "none"  #: none (MX e3m2, e2m3, e2m1; QPyTorch's floats)
    FNUZ = "fnuz"  #: only the code of -0, a NaN: "finite, NaN, unsigned zero" (LLVM, ONNX)
    P3109_EXTENDED = "p3109_extended"  #: largest code +-inf, NaN at -0; unsigned: NaN the last code, inf before it
    P3109_FINITE = "p3109_finite"  #: NaN at -0; unsigned: NaN the last code


class Overflow(Enum):
    """What a rounded magnitude above the largest finite value becomes. NaN stays NaN in every case."""

    SATURATE = "saturate"  #: the largest finite value, also for an infinite input
    INF = "inf"  #: infinity
    NAN = "nan"  #: NaN


_P3109 = (Specials.P3109_EXTENDED, Specials.P3109_FINITE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatFormat:
    """A binary floating-point format.

    Args:
        name: the one spelling used in plans and reports.
        exponent_bits: width of the exponent field.
        mantissa_bits: stored bits of the significand, m; the precision is m + 1.
        specials: which codes are infinities and NaNs.
        overflow: default: infinity where the format has one, else saturation.
        bias: what is added to the exponent in its field; default ``2**(exponent_bits - 1) - 1``. A real number
            scales the grid of the integer below it (LLM-FP4; Liu et al. 2023, eq. 5).
        subnormals: without them there is nothing between 0 and ``2**emin``.
        signed: an unsigned format takes what lies below its smallest value as an overflow.
        zero: without it the smallest value is ``2**emin``, at exponent field 0 (MX e8m0).

    Raises:
        FormatError: the widths do not make a format, its exponents leave those of float64, or the overflow
            rule needs a code it lacks.

    >>> from precc import FORMATS
    >>> FORMATS["float8_e4m3fn"]
    float8_e4m3fn (8 bits, bias 7, max 448, no inf)
    """

    name: str = field(compare=False)
    exponent_bits: int
    mantissa_bits: int
    specials: Specials = Specials.INF_NAN
    overflow: Overflow = field(default=None)  # type: ignore[assignment]  # set in __post_init__
    bias: float = field(default=None)  # type: ignore[assignment]  # set in __post_init__
    subnormals: bool = True
    signed: bool = True
    zero: bool = True

    def __post_init__(self) -> None:
        self._check_widths()
        object.__setattr__(self, "specials", member_of(Specials, self.specials, "unknown specials rule"))
        object.__setattr__(self, "bias", self._checked_bias())
        if self.overflow is not None:
            object.__setattr__(self, "overflow", member_of(Overflow, self.overflow, "unknown overflow rule"))
        else:
            rule = Overflow.INF if self.has_inf else Overflow.SATURATE
            object.__setattr__(self, "overflow", rule)
        self._check_codes()

    def _check_widths(self) -> None:
        if not all(type(width) is int for width in (self.exponent_bits, self.mantissa_bits)):
            raise FormatError(f"format {self.name!r}: the numbers of bits must be integers")
        if not (1 <= self.exponent_bits <= 11 and 0 <= self.mantissa_bits <= 52):
            raise FormatError(
                f"format {self.name!r}: 1 to 11 exponent bits and 0 to 52 mantissa bits are supported (what float64 "
                f"can hold); got {self.exponent_bits} and {self.mantissa_bits}"
            )
        for flag in ("subnormals", "signed", "zero"):
            if type(getattr(self, flag)) is not bool:
                raise FormatError(f"format {self.name!r}: {flag} is {getattr(self, flag)!r}, not True or False")

    def _checked_bias(self) -> float:
        if self.bias is None:
            return 2 ** (self.exponent_bits - 1) - 1
        if type(self.bias) not in (int, float) or not -4096 < self.bias < 4096:
            raise FormatError(
                f"format {self.name!r}: the bias {self.bias!r} is no number that float64's exponents allow"
            )
        return int(self.bias) if self.bias == int(self.bias) else self.bias

    def _check_codes(self) -> None:
        if self.k_min < -1074 or self.emin < -1022 or self.k_min > 960 or self.emax > 1023 or self.max == math.inf:
            raise FormatError(
                f"format {self.name!r}: its values from 2**{self.k_min} to exponent {self.emax} go beyond float64, "
                "in which formats are described and rounded"
            )
        if not (self.signed or self.specials is not Specials.FNUZ):
            raise FormatError(f"format {self.name!r}: an unsigned format has no code of -0 to be its NaN")
        if not self.zero and (self.subnormals or self.signed):
            raise FormatError(f"format {self.name!r}: a format without zero is unsigned and without subnormals")
        if self._codes_left < 1 or self.max == 0:
            raise FormatError(f"format {self.name!r} has no finite number but zero")
        if self.overflow is Overflow.INF and not self.has_inf:
            raise FormatError(f"format {self.name!r} has no infinity to overflow to")
        if self.overflow is Overflow.NAN and not self.has_nan:
            raise FormatError(f"format {self.name!r} has no NaN to overflow to")

    @property
    def _codes_left(self) -> int:
        """The largest code, without sign, that is a finite number."""
        missing = {
            Specials.INF_NAN: 2**self.mantissa_bits,
            Specials.NAN: 1,
            Specials.P3109_EXTENDED: 1 if self.signed else 2,
            Specials.P3109_FINITE: 0 if self.signed else 1,
        }
        return (1 << (self.exponent_bits + self.mantissa_bits)) - 1 - int(missing.get(self.specials, 0))

    @property
    def has_inf(self) -> bool:
        """Whether it has infinities."""
        return self.specials in (Specials.INF_NAN, Specials.P3109_EXTENDED)

    @property
    def has_nan(self) -> bool:
        """Whether it has a NaN."""
        if self.specials is Specials.INF_NAN:
            return self.mantissa_bits > 0
        return self.specials is not Specials.NONE

    @property
    def has_negative_zero(self) -> bool:
        """Whether -0 is a value; where it is not, -0 becomes 0."""
        return self.signed and self.specials is not Specials.FNUZ and self.specials not in _P3109

    @property
    def ties_by_code(self) -> bool:
        """Whether, with one significand bit, ties go to the even code (P3109) rather than up (IEEE 754-2019, 4.3.1)."""
        return self.specials in _P3109

    @property
    def bits(self) -> int:
        """Storage width, with the sign."""
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    @property
    def finite_codes(self) -> int:
        """How many codes are finite numbers; 0 and -0 are two."""
        magnitudes = self._codes_left + 1
        return magnitudes + (magnitudes - int(not self.has_negative_zero) if self.signed else 0)

    @property
    def scale(self) -> float:
        """2**-(bias - floor(bias)): 1 for an integer bias; the other properties are those of the scaled grid."""
        return float(2.0 ** -(self.bias - math.floor(self.bias)))

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal number (before `scale`)."""
        return int(self.zero) - math.floor(self.bias)

    @property
    def emax(self) -> int:
        """Exponent of the largest finite number (before `scale`)."""
        return (self._codes_left >> self.mantissa_bits) - math.floor(self.bias)

    @property
    def k_min(self) -> int:
        """Base-2 logarithm of the smallest quantum, below ``2**emin`` (before `scale`)."""
        return self.emin - self.mantissa_bits if self.subnormals else self.emin

    @property
    def max(self) -> float:
        """The largest finite value."""
        return self.decode(self._codes_left)

    @property
    def low(self) -> float:
        """The lowest finite value: ``-max``, or the smallest one of an unsigned format."""
        if self.signed:
            return -self.max
        return 0.0 if self.zero else self.smallest_normal

    @property
    def smallest_normal(self) -> float:
        """2**emin."""
        return float(2.0**self.emin) * self.scale

    @property
    def smallest_subnormal(self) -> float:
        """2**k_min, the smallest positive number."""
        return float(2.0**self.k_min) * self.scale

    @property
    def unit_roundoff(self) -> float:
        """U = 2**-(m + 1): the largest relative error of rounding to nearest in the normal range."""
        return float(2.0 ** -(self.mantissa_bits + 1))

    def decode(self, code: int) -> float:
        """The value of a bit pattern: sign, exponent field, mantissa field.

        Raises:
            FormatError: the code has more bits than the format.

        >>> from precc import FORMATS
        >>> FORMATS["float8_e4m3fn"].decode(0b0_1111_110)
        448.0
        """
        if type(code) is not int or not 0 <= code < 2**self.bits:
            raise FormatError(f"code {code!r} is none of the {2**self.bits} codes of {self.name!r}")
        sign_bit = 2 ** (self.exponent_bits + self.mantissa_bits)
        negative, magnitude = divmod(code, sign_bit)
        if code == sign_bit and not self.has_negative_zero:
            return math.nan
        sign = -1.0 if negative else 1.0
        if magnitude > self._codes_left:
            return sign * math.inf if self.has_inf and magnitude == self._codes_left + 1 else math.nan
        return sign * self._finite(magnitude)

    def _finite(self, magnitude: int) -> float:
        exponent, fraction = divmod(magnitude, 2**self.mantissa_bits)
        if exponent == 0 and self.zero:
            if not self.subnormals:
                return 0.0
            return math.ldexp(fraction, self.emin - self.mantissa_bits) * self.scale
        significand = fraction + int(2**self.mantissa_bits)
        try:
            return math.ldexp(significand, exponent - math.floor(self.bias) - self.mantissa_bits) * self.scale
        except OverflowError:
            return math.inf

    def with_overflow(self, rule: Overflow | str) -> "FloatFormat":
        """The same grid with another overflow rule: ``"saturate"``, ``"inf"`` or ``"nan"``.

        >>> from precc import FORMATS
        >>> FORMATS["float8_e5m2"].with_overflow("saturate").overflow.value
        'saturate'
        """
        return replace(self, overflow=member_of(Overflow, rule, "unknown overflow rule"))

    def __repr__(self) -> str:
        natural = Overflow.INF if self.has_inf else Overflow.SATURATE
        facts = [f"{self.bits} bits", f"bias {self.bias:g}", f"max {self.max:.6g}"]
        facts += ["no inf"] * (not self.has_inf) + ["no subnormals"] * (not self.subnormals)
        facts += ["unsigned"] * (not self.signed)
        facts += [] if self.overflow is natural else [f"overflow to {self.overflow.value}"]
        return f"{self.name} ({', '.join(facts)})"
