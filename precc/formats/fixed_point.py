"""Fixed-point and integer formats, as data."""

from dataclasses import dataclass, field

from precc.errors import FormatError

__all__ = ["FixedPoint", "NestedInteger"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """Multiples of ``2**-fraction`` in a word of two's complement; what lies beyond the ends saturates.

    Values outside ``[-2**(word-1), 2**(word-1) - 1] * 2**-fraction`` become the nearer end, infinities too; NaN
    stays NaN; there is no -0, so it becomes 0 (ISO/IEC TR 18037; the semantics of QPyTorch's FixedPoint).

    Args:
        name: the one spelling used in plans and reports.
        word: bits in all, 1 to 53 (what float64 holds).
        fraction: bits after the binary point; may be negative or larger than the word.
        signed: otherwise the range is ``[0, 2**word - 1] * 2**-fraction``.
        symmetric: leave out the most negative value.

    Raises:
        FormatError: a word without bits, or values outside float64.

    >>> from precc import parse_format
    >>> fixed = parse_format("fixed8.4")
    >>> fixed.low, fixed.max, fixed.quantum
    (-8.0, 7.9375, 0.0625)
    """

    name: str = field(compare=False)
    word: int
    fraction: int
    signed: bool = True
    symmetric: bool = False

    def __post_init__(self) -> None:
        if type(self.word) is not int or type(self.fraction) is not int:
            raise FormatError(f"format {self.name!r}: word and fraction must be integers")
        if type(self.signed) is not bool or type(self.symmetric) is not bool:
            raise FormatError(f"format {self.name!r}: signed and symmetric are True or False")
        least = 1 + int(self.signed and self.symmetric)
        if not least <= self.word <= 53 or not -960 <= self.fraction <= 1074:
            raise FormatError(
                f"format {self.name!r}: a word of {least} to 53 bits and a fraction of -960 to 1074 bits are supported "
                f"(what float64 can hold); got {self.word} and {self.fraction}"
            )
        if self.symmetric and not self.signed:
            raise FormatError(f"format {self.name!r}: an unsigned format has no most negative value to leave out")

    @property
    def bits(self) -> int:
        """Storage width."""
        return self.word

    @property
    def quantum(self) -> float:
        """2**-fraction, the distance of neighbours: the largest absolute error to nearest is half of it."""
        return float(2.0**-self.fraction)

    @property
    def k_min(self) -> int:
        """Base-2 logarithm of the quantum."""
        return -self.fraction

    @property
    def max(self) -> float:
        """The largest value."""
        return ((1 << (self.word - int(self.signed))) - 1) * self.quantum

    @property
    def low(self) -> float:
        """The lowest value."""
        if not self.signed:
            return 0.0
        return (int(self.symmetric) - (1 << (self.word - 1))) * self.quantum

    def decode(self, code: int) -> float:
        """The value of a bit pattern, two's complement.

        Raises:
            FormatError: the code has more bits than the format.
        """
        if type(code) is not int or not 0 <= code < 2**self.word:
            raise FormatError(f"code {code!r} is none of the {2**self.word} codes of {self.name!r}")
        wraps = self.signed and code >= 2 ** (self.word - 1)
        return float((code - 2**self.word if wraps else code) * self.quantum)

    def __repr__(self) -> str:
        return f"{self.name} ({self.bits} bits, quantum {self.quantum:.6g}, from {self.low:.6g} to {self.max:.6g})"


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedInteger:
    """The upper `low_bits` of an integer of `high_bits`, rounded twice (Double Rounding; Huang et al. 2024).

    With ``D = high_bits - low_bits``: ``w = clip(round(x))`` to a word of `high_bits`, then ``clip(round(w / 2**D))``
    to one of `low_bits`, times ``2**D``. So every width is a rounding of the one stored integer.

    Raises:
        FormatError: not ``1 <= low_bits <= high_bits <= 53``.
    """

    name: str = field(compare=False)
    high_bits: int
    low_bits: int

    def __post_init__(self) -> None:
        widths = (self.high_bits, self.low_bits)
        if not all(type(width) is int for width in widths) or not 1 <= self.low_bits <= self.high_bits <= 53:
            raise FormatError(f"format {self.name!r}: expected 1 <= low bits <= high bits <= 53, got {widths[::-1]}")

    @property
    def stages(self) -> tuple[FixedPoint, FixedPoint]:
        """The two formats, in the order of rounding."""
        shift = self.high_bits - self.low_bits
        stored = FixedPoint(name=f"int{self.high_bits}", word=self.high_bits, fraction=0)
        return stored, FixedPoint(name=f"fixed{self.low_bits}.-{shift}", word=self.low_bits, fraction=-shift)

    @property
    def bits(self) -> int:
        """Width of what is computed with."""
        return self.low_bits

    @property
    def max(self) -> float:
        """The largest value."""
        return self.stages[1].max

    @property
    def low(self) -> float:
        """The lowest value."""
        return self.stages[1].low

    def __repr__(self) -> str:
        return f"{self.name} ({self.bits} of {self.high_bits} bits, from {self.low:.6g} to {self.max:.6g})"
