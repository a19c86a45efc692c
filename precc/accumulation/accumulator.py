"""How the sum of a matrix product is rounded, as data."""

from dataclasses import dataclass, replace
from enum import Enum

from precc.errors import FormatError, member_of
from precc.formats import FixedPoint, FloatFormat, Format, parse_format
from precc.rounding import NEAREST_EVEN, Rounding, RoundingMode, parse_rounding

__all__ = ["Accumulator", "Order"]

#: Bits of a significand that float64 can hold with the two more that make a second rounding harmless.
_MOST_BITS = 51
_FLOAT64 = parse_format("float64")


class Order(Enum):
    """In which order the terms of a sum are added."""

    SEQUENTIAL = "sequential"  #: one after the other, k ascending
    PAIRWISE = "pairwise"  #: the sum of the first ``n // 2`` terms and that of the others, each found the same way
    BLOCKED = "blocked"  #: blocks sequentially from 0, then their sums sequentially from 0
    ALIGNED = "aligned"  #: the terms of a block and the sum so far at once, aligned to the largest exponent


@dataclass(frozen=True, slots=True)
class Accumulator:
    """The running sum of a product ``c = sum over k of a_k * b_k``, rounded as a narrow adder does; it starts at 0.

    R is the rounding to `format`, P that to `product`, p a product. All sums and products inside R and P are exact (of
    float64 operands the product is float64's own: exact where the significands have 53 bits together):

    - a step is ``c = R(c + a b)``, the fused multiply-add; with a `product`, ``c = R(c + P(a b))``;
    - with a `chunk` of n only every n-th sum and the last one are rounded by R; the others are float64 sums;
    - ``"pairwise"`` adds ``R(left + right)`` in a balanced tree whose leaves are ``R(p)``;
    - ``"blocked"`` sums `block` terms from 0, in steps or as the accumulator `inner` does, and ``c = R(c + that)``
      (chunked accumulation: Wang et al. 2018; Sun et al. 2019, HFP8; promotion: DeepSeek-AI 2024, V3, section 3.3.2);
    - ``"aligned"`` adds `block` products and c at once, as a tensor core does (Khattak and Mikaitis 2025, arXiv
      2512.07004): with E the largest of their exponents, F the `fraction_bits`, and T the truncation toward zero to
      multiples of ``2**(E - F)``, ``c = R(T(c) + sum of T(p))``. The exponent of a number of a format is
      ``max(floor(log2 |x|), emin)``, so that of a subnormal is emin; that of a product is the sum of those of its
      factors, even where their significands make 2 or more; a zero has none; E is at least -960. A zero c is +0;
      infinities and NaN among the terms give what IEEE 754's sum of them gives;
    - `compensated` is Kahan's sum (1965): ``y = R(p - e); t = R(c + y); e = R(R(t - c) - y); c = t``.

    What overflows follows the rule of the format; fixed point saturates (BM8's Kulisch accumulator; Fox et al. 2021).

    Args:
        format: of the running sum: a signed float, or fixed point; a FloatFormat, FixedPoint, or its name.
        rounding: of sums and products: nearest_even, nearest_away, toward_zero or stochastic.
        product: the format of the rounded product; None fuses multiply and add.
        chunk: terms from one rounding to the next.
        order: "sequential", "pairwise", "blocked" or "aligned".
        block: terms of a block; goes with "blocked" and "aligned".
        compensated: Kahan's sum; goes with "sequential".
        fraction_bits: F; goes with "aligned".
        operands: the float format of a and b, or a pair of formats; goes with "aligned".
        inner: how the terms of a block are summed: a sequential or aligned accumulator; goes with "blocked".

    Raises:
        FormatError: a format that float64 cannot round to exactly, or options that exclude each other.

    >>> Accumulator(format="e5m10", product="e5m10")
    Accumulator(format='float16', rounding=nearest_even, product='float16')
    >>> Accumulator(format="e6m9", order="blocked", block=64, rounding="stochastic").order
    <Order.BLOCKED: 'blocked'>
    """

    format: FloatFormat | FixedPoint
    rounding: Rounding
    product: FloatFormat | FixedPoint | None
    chunk: int
    order: Order
    block: int
    compensated: bool
    fraction_bits: int
    operands: tuple[FloatFormat, FloatFormat] | None
    inner: "Accumulator | None"

    def __init__(
        self,
        *,
        format: FloatFormat | FixedPoint | str,
        rounding: Rounding | RoundingMode | str = NEAREST_EVEN,
        product: FloatFormat | FixedPoint | str | None = None,
        chunk: int = 1,
        order: Order | str = Order.SEQUENTIAL,
        block: int = 0,
        compensated: bool = False,
        fraction_bits: int = 0,
        operands: FloatFormat | str | tuple[FloatFormat | str, FloatFormat | str] | None = None,
        inner: "Accumulator | None" = None,
    ) -> None:
        mode = parse_rounding(rounding)
        if mode.needs_state:
            raise FormatError(f"accumulator: the rounding {mode} needs more than a value; a sum has only that")
        object.__setattr__(self, "format", _summable(format, mode))
        object.__setattr__(self, "rounding", mode)
        object.__setattr__(self, "product", None if product is None else _summable(product, mode))
        object.__setattr__(self, "chunk", chunk)
        object.__setattr__(self, "order", member_of(Order, order, "accumulator: unknown order"))
        object.__setattr__(self, "block", block)
        object.__setattr__(self, "compensated", compensated)
        object.__setattr__(self, "fraction_bits", fraction_bits)
        object.__setattr__(self, "operands", None if operands is None else _pair(operands))
        object.__setattr__(self, "inner", inner)
        self._check_options()
        self._check_aligned()
        self._check_inner()

    def _check_options(self) -> None:
        if type(self.chunk) is not int or not 1 <= self.chunk < 2**31:
            raise FormatError(f"accumulator: a chunk has from 1 to 2**31 - 1 terms, not {self.chunk!r}")
        if type(self.compensated) is not bool:
            raise FormatError(f"accumulator: compensated is True or False, not {self.compensated!r}")
        has_block = self.order in (Order.BLOCKED, Order.ALIGNED)
        if type(self.block) is not int or (self.block > 0) is not has_block or not 0 <= self.block < 2**31:
            raise FormatError(
                f"accumulator: orders 'blocked' and 'aligned' need a block of 1 to 2**31 - 1 terms, and only they have "
                f"one; got order {self.order.value!r} and block {self.block!r}"
            )
        if self.order is not Order.SEQUENTIAL and (self.chunk > 1 or self.compensated):
            raise FormatError(
                f"accumulator: chunk and compensated go with order 'sequential', not {self.order.value!r}"
            )
        if self.compensated and self.chunk > 1:
            raise FormatError("accumulator: a compensated sum rounds after every operation; leave chunk at 1")

    def _check_aligned(self) -> None:
        bits = self.fraction_bits
        if self.order is not Order.ALIGNED:
            if self.operands is not None or type(bits) is not int or bits:
                raise FormatError("accumulator: fraction_bits and operands go with order 'aligned'")
            return
        if type(bits) is not int or bits < 1 or self.operands is None:
            raise FormatError(
                f"accumulator: order 'aligned' needs fraction_bits of 1 or more and the format of the operands, which "
                f"says what exponent a subnormal has; got {bits!r} and {self.operands!r}"
            )
        if isinstance(self.format, FixedPoint) or self.product is not None:
            raise FormatError("accumulator: order 'aligned' sums exact products to a float: no fixed point, no product")
        # a product has magnitudes below 2**(E + 2): its multiples of 2**(E - F) are integers below 2**(F + 2)
        if bits > 50 or (self.block + 1) << (bits + 2) > 2**53:
            raise FormatError(
                f"accumulator: float64 cannot hold the sum of {self.block} products of {bits} fraction bits; "
                "supported is (block + 1) * 2**(fraction_bits + 2) <= 2**53"
            )

    def _check_inner(self) -> None:
        if self.inner is None:
            return
        if not isinstance(self.inner, Accumulator):
            raise FormatError(f"accumulator: inner is an Accumulator, not {type(self.inner).__name__}")
        if self.order is not Order.BLOCKED or self.product is not None:
            raise FormatError("accumulator: inner goes with order 'blocked', and a product is that of the inner one")
        if self.inner.order not in (Order.SEQUENTIAL, Order.ALIGNED) or self.inner.compensated:
            raise FormatError("accumulator: an inner accumulator is sequential, not compensated, or aligned")

    @property
    def operand_formats(self) -> tuple[FloatFormat, FloatFormat] | None:
        """The formats whose values it multiplies; None for any."""
        return self.operands if self.inner is None else self.inner.operands

    @property
    def is_stochastic(self) -> bool:
        """Whether any of its roundings draws random numbers."""
        inside = self.inner is not None and self.inner.is_stochastic
        return inside or self.rounding.mode is RoundingMode.STOCHASTIC

    @property
    def transposed(self) -> "Accumulator":
        """That of ``b.T @ a.T``, which has the formats of the operands in the other order."""
        if self.operand_formats is None:
            return self
        if self.inner is not None:
            return replace(self, inner=self.inner.transposed)
        assert self.operands is not None
        return replace(self, operands=self.operands[::-1])

    def __str__(self) -> str:
        """A short form: what differs from a sum in order that is rounded to nearest even after each multiply-add."""
        parts = [self.format.name]
        parts += [f"products {self.product.name}"] if self.product is not None else []
        parts += [f"chunk {self.chunk}"] * (self.chunk > 1)
        parts += [self.order.value + (f" {self.block}" if self.block else "")] * (self.order is not Order.SEQUENTIAL)
        parts += [f"to {self.fraction_bits} bits"] * (self.order is Order.ALIGNED)
        parts += ["of " + " x ".join(fmt.name for fmt in self.operands)] if self.operands is not None else []
        parts += [f"of ({self.inner})"] if self.inner is not None else []
        parts += ["compensated"] * self.compensated
        parts += [str(self.rounding)] * (self.rounding != NEAREST_EVEN)
        return " ".join(parts)

    def __repr__(self) -> str:
        parts = [f"format={self.format.name!r}, rounding={self.rounding}"]
        parts += [f"product={self.product.name!r}"] if self.product is not None else []
        parts += [f"chunk={self.chunk}"] * (self.chunk > 1)
        parts += [f"order={self.order.value!r}"] * (self.order is not Order.SEQUENTIAL)
        parts += [f"block={self.block}"] * (self.block > 0) + ["compensated=True"] * self.compensated
        parts += [f"fraction_bits={self.fraction_bits}"] * (self.fraction_bits > 0)
        parts += [f"operands={tuple(fmt.name for fmt in self.operands)}"] if self.operands is not None else []
        parts += [f"inner={self.inner!r}"] if self.inner is not None else []
        return f"Accumulator({', '.join(parts)})"


def _pair(operands: object) -> tuple[FloatFormat, FloatFormat]:
    """The formats of two operands.

    Raises:
        FormatError: not one or two floats whose exponents are integers.
    """
    both = operands if isinstance(operands, tuple) else (operands, operands)
    formats = tuple(parse_format(fmt) for fmt in both)
    if len(formats) != 2 or any(not isinstance(fmt, FloatFormat) or fmt.scale != 1.0 for fmt in formats):
        raise FormatError(f"accumulator: operands are a float format with an integer bias, or two; not {operands!r}")
    return formats  # type: ignore[return-value]  # checked above


def _summable(name: Format | str, rounding: Rounding) -> FloatFormat | FixedPoint:
    """A format that sums in float64 can be rounded to once.

    Raises:
        FormatError: it has no sign or zero, a scale, or too many bits.
    """
    fmt = parse_format(name)
    if not isinstance(fmt, (FloatFormat, FixedPoint)):
        raise FormatError(f"accumulator: a running sum is a float or fixed point, not {fmt!r}")
    if not fmt.signed or (isinstance(fmt, FloatFormat) and (fmt.scale != 1.0 or not fmt.zero)):
        raise FormatError(f"accumulator: a running sum has a sign, a zero and an integer bias; {fmt!r} has not")
    if fmt == _FLOAT64 and rounding == NEAREST_EVEN:
        return fmt
    bits = fmt.mantissa_bits + 1 if isinstance(fmt, FloatFormat) else fmt.word - 1
    if bits > _MOST_BITS:
        raise FormatError(
            f"accumulator: {fmt.name!r} with {rounding} has {bits} significand bits; supported are {_MOST_BITS}, and "
            "float64 to nearest even"
        )
    return fmt
