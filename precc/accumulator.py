"""How the sum of a matrix product is rounded, as data; and the bounds and wrapping of integer sums."""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from precc.errors import FormatError, member_of
from precc.formats import FixedPoint, FloatFormat, Format, parse_format
from precc.rounding import NEAREST_EVEN, Rounding, RoundingMode, parse_rounding

__all__ = ["Accumulator", "Order", "int_matmul", "parse_accumulator", "safe_chain_length"]

#: Bits of a significand that float64 can hold with the two more that make a second rounding harmless.
_MOST_BITS = 51
_FLOAT64 = parse_format("float64")
_INTEGERS = (torch.int8, torch.int16, torch.int32)


class Order(Enum):
    """In which order the terms of a sum are added."""

    SEQUENTIAL = "sequential"  #: one after the other, k ascending
    PAIRWISE = "pairwise"  #: the sum of the first ``n // 2`` terms and that of the others, each found the same way
    BLOCKED = "blocked"  #: blocks sequentially from 0, then their sums sequentially from 0


@dataclass(frozen=True, slots=True)
class Accumulator:
    """The running sum of a product ``c = sum over k of a_k * b_k``, rounded as a narrow adder does; it starts at 0.

    R is the rounding to `format`, P that to `product`, p a product. All sums and products inside R and P are exact (of
    float64 operands the product is float64's own: exact where the significands have 53 bits together):

    - a step is ``c = R(c + a b)``, the fused multiply-add; with a `product`, ``c = R(c + P(a b))``;
    - with a `chunk` of n only every n-th sum and the last one are rounded by R; the others are float64 sums;
    - ``"pairwise"`` adds ``R(left + right)`` in a balanced tree whose leaves are ``R(p)``;
    - ``"blocked"`` sums `block` terms in steps from 0, and ``c = R(c + that)`` (chunked accumulation: Wang et al.
      2018; Sun et al. 2019, HFP8);
    - `compensated` is Kahan's sum (1965): ``y = R(p - e); t = R(c + y); e = R(R(t - c) - y); c = t``.

    What overflows follows the rule of the format; fixed point saturates (BM8's Kulisch accumulator; Fox et al. 2021).

    Args:
        format: of the running sum: a signed float, or fixed point; a FloatFormat, FixedPoint, or its name.
        rounding: of sums and products: nearest_even, nearest_away, toward_zero or stochastic.
        product: the format of the rounded product; None fuses multiply and add.
        chunk: terms from one rounding to the next.
        order: "sequential", "pairwise" or "blocked".
        block: terms of a block; goes with "blocked".
        compensated: Kahan's sum; goes with "sequential".

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
        self._check_options()

    def _check_options(self) -> None:
        if type(self.chunk) is not int or not 1 <= self.chunk < 2**31:
            raise FormatError(f"accumulator: a chunk has from 1 to 2**31 - 1 terms, not {self.chunk!r}")
        if type(self.compensated) is not bool:
            raise FormatError(f"accumulator: compensated is True or False, not {self.compensated!r}")
        if (
            type(self.block) is not int
            or (self.block < 1) is (self.order is Order.BLOCKED)
            or not 0 <= self.block < 2**31
        ):
            raise FormatError(
                f"accumulator: order 'blocked' needs a block of 1 to 2**31 - 1 terms, and only that order has one; "
                f"got order {self.order.value!r} and block {self.block!r}"
            )
        if self.order is not Order.SEQUENTIAL and (self.chunk > 1 or self.compensated):
            raise FormatError(
                f"accumulator: chunk and compensated go with order 'sequential', not {self.order.value!r}"
            )
        if self.compensated and self.chunk > 1:
            raise FormatError("accumulator: a compensated sum rounds after every operation; leave chunk at 1")

    @property
    def is_stochastic(self) -> bool:
        """Whether it draws random bits."""
        return self.rounding.mode is RoundingMode.STOCHASTIC

    def __str__(self) -> str:
        """A short form: what differs from a sum in order that is rounded to nearest even after each multiply-add."""
        parts = [self.format.name]
        parts += [f"products {self.product.name}"] if self.product is not None else []
        parts += [f"chunk {self.chunk}"] * (self.chunk > 1)
        parts += [self.order.value + (f" {self.block}" if self.block else "")] * (self.order is not Order.SEQUENTIAL)
        parts += ["compensated"] * self.compensated
        parts += [str(self.rounding)] * (self.rounding != NEAREST_EVEN)
        return " ".join(parts)

    def __repr__(self) -> str:
        parts = [f"format={self.format.name!r}, rounding={self.rounding}"]
        parts += [f"product={self.product.name!r}"] if self.product is not None else []
        parts += [f"chunk={self.chunk}"] * (self.chunk > 1)
        parts += [f"order={self.order.value!r}"] * (self.order is not Order.SEQUENTIAL)
        parts += [f"block={self.block}"] * (self.order is Order.BLOCKED) + ["compensated=True"] * self.compensated
        return f"Accumulator({', '.join(parts)})"


def parse_accumulator(choice: Accumulator | Format | str) -> Accumulator:
    """An accumulator as it is; a format or its name means: to it, to nearest even, after every fused multiply-add.

    Raises:
        FormatError: neither, or a format that no sum can have.
    """
    return choice if isinstance(choice, Accumulator) else Accumulator(format=_summable(choice, NEAREST_EVEN))


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


def safe_chain_length(a_bits: int, b_bits: int, accumulator_bits: int = 32) -> int:
    """The largest n for which no sum of n products of integers overflows, whatever the operands.

    Operands are two's complement of `a_bits` and `b_bits`, so their magnitudes reach ``2**(a_bits - 1)`` and
    ``2**(b_bits - 1)``: n products are safe if and only if
    ``n * 2**(a_bits + b_bits - 2) <= 2**(accumulator_bits - 1) - 1``.

    Raises:
        FormatError: widths below 1.

    >>> safe_chain_length(8, 8), safe_chain_length(16, 8), safe_chain_length(16, 16)
    (131071, 511, 1)
    """
    for name, bits in (("a_bits", a_bits), ("b_bits", b_bits), ("accumulator_bits", accumulator_bits)):
        if type(bits) is not int or bits < 1:
            raise FormatError(f"{name} is a number of bits of at least 1, not {bits!r}")
    return int((2 ** (accumulator_bits - 1) - 1) // 2 ** (a_bits + b_bits - 2))


def int_matmul(a: Tensor, b: Tensor, accumulator_bits: int = 32) -> tuple[Tensor, Tensor]:
    """``a @ b`` of integers in an accumulator of two's complement that wraps, k ascending.

    Args:
        a: int8, int16 or int32, [M, K] or [B, M, K].
        b: of those, [K, N] or [B, K, N].
        accumulator_bits: 2 to 62.

    Returns:
        The sums as int64, and a bool mask of the outputs that had a partial sum beyond the accumulator.

    Raises:
        FormatError: other dtypes, shapes that do not fit, or another width.
    """
    if a.dtype not in _INTEGERS or b.dtype not in _INTEGERS:
        raise FormatError(f"int_matmul takes int8, int16 and int32 tensors, not {a.dtype} and {b.dtype}")
    if type(accumulator_bits) is not int or not 2 <= accumulator_bits <= 62:
        raise FormatError(f"int_matmul: an accumulator has 2 to 62 bits, not {accumulator_bits!r}")
    shape = product_shape(a, b)
    half = 2 ** (accumulator_bits - 1)
    left, right = a.long(), b.long()
    total = torch.zeros(shape, dtype=torch.int64, device=a.device)
    overflowed = torch.zeros(shape, dtype=torch.bool, device=a.device)
    for k in range(a.shape[-1]):
        exact = total + left[..., :, k, None] * right[..., k, None, :]
        total = ((exact + half) & (2 * half - 1)) - half
        overflowed |= total != exact
    return total, overflowed


def product_shape(a: Tensor, b: Tensor) -> tuple[int, ...]:
    """The shape of ``a @ b``: [M, K] with [K, N], or [B, M, K] with [B, K, N].

    Raises:
        FormatError: other shapes, or tensors on two devices.
    """
    fits = a.dim() == b.dim() and a.dim() in (2, 3) and a.shape[-1] == b.shape[-2] and a.shape[:-2] == b.shape[:-2]
    if not fits:
        raise FormatError(
            f"a product takes [M, K] with [K, N], or [B, M, K] with [B, K, N]; got {list(a.shape)} with {list(b.shape)}"
        )
    if a.device != b.device:
        raise FormatError(f"a product takes tensors on one device; got {a.device} and {b.device}")
    return (*a.shape[:-1], b.shape[-1])
