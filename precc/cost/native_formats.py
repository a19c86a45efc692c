"""Which of the formats that a device multiplies hold an operand of another one, and in how many bytes."""

from collections.abc import Iterable

from precc.formats import FORMATS, BlockFormat, FixedPoint, FloatFormat, Format

__all__ = ["bytes_of", "holds", "narrowest"]

#: Beside float32, what emulation computes in: grids without a significand are rounded to it.
_FLOAT32 = FORMATS["float32"]
_WIDEST_EXPONENT = 8


def holds(native: Format, own: Format) -> bool:
    """Whether each value of a format is one of a native format.

    Between formats of fixed point the word decides, as a power of two is a factor of the product. Scales of blocks are
    multiplied into the elements: the native format needs float32's exponents and the elements' significand (a scale
    that is no power of two is rounded there). Power laws and nested integers are rounded to float32, as they are in
    emulation.

    >>> e4m3, bf16, e2m1 = (FORMATS[name] for name in ("float8_e4m3fn", "bfloat16", "float4_e2m1fn"))
    >>> holds(e4m3, e2m1), holds(bf16, e4m3), holds(e4m3, bf16)
    (True, True, False)
    """
    if native == own:
        return True
    if isinstance(native, FixedPoint):
        return isinstance(own, FixedPoint) and own.word <= native.word
    if not isinstance(native, FloatFormat):
        return False
    if isinstance(own, BlockFormat):
        return native.exponent_bits >= _WIDEST_EXPONENT and native.mantissa_bits + 1 >= _significand(own.element)
    if not isinstance(own, (FloatFormat, FixedPoint)):
        return holds(native, _FLOAT32)
    return native.mantissa_bits + 1 >= _significand(own) and native.k_min <= own.k_min and native.max >= abs(own.max)


def narrowest(natives: Iterable[Format], own: Format) -> Format | None:
    """The native format of the fewest bytes that holds another one; None if none does."""
    return min((native for native in natives if holds(native, own)), key=bytes_of, default=None)


def bytes_of(native: Format) -> float:
    """Of a value in memory, with its share of the scale: 4 of tfloat32, and packed where there are 8 bits or fewer.

    >>> bytes_of(FORMATS["tfloat32"]), bytes_of(FORMATS["bfloat16"]), bytes_of(FORMATS["nvfp4"])
    (4.0, 2.0, 0.5625)
    """
    whole = isinstance(native, FloatFormat) and native.bits > 16
    return -(-native.bits // 32) * 4.0 if whole else native.bits / 8


def _significand(fmt: Format) -> int:
    if isinstance(fmt, FloatFormat):
        return fmt.mantissa_bits + 1
    return fmt.word - int(fmt.signed) if isinstance(fmt, FixedPoint) else _significand(_FLOAT32)
