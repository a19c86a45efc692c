"""Sums of products by exact rational arithmetic, one number at a time: what `precc.Accumulator` promises."""

import copy
import itertools
import math
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator, Order
from precc.accumulation.tensor_ops import STAGES
from precc.formats import FixedPoint, FloatFormat, Overflow
from precc.rounding.random_bits import hashed

__all__ = ["KEY", "SLOT", "ScalarSum", "by_fractions", "same_bits"]

KEY, SLOT = 123456789, 77


class Number:
    """A real number as a fraction, with the sign of a zero; or an infinity or NaN as a float."""

    def __init__(self, value: float | Fraction, negative: bool | None = None) -> None:
        finite = isinstance(value, Fraction) or math.isfinite(value)
        self.special = None if finite else float(value)
        self.value = Fraction(value) if finite else Fraction(0)
        self.negative = (math.copysign(1, value) < 0 if value == 0 else value < 0) if negative is None else negative

    def __float__(self) -> float:
        if self.special is not None:
            return self.special
        return -0.0 if self.negative and not self.value else float(self.value)

    def __neg__(self) -> "Number":
        return Number(-float(self)) if self.special is not None else Number(-self.value, not self.negative)

    def __add__(self, other: "Number") -> "Number":
        if self.special is not None or other.special is not None:
            return Number(float(self) + float(other))
        total = self.value + other.value
        return Number(total, total < 0 if total else self.negative and other.negative)

    def __mul__(self, other: "Number") -> "Number":
        if self.special is not None or other.special is not None:
            return Number(float(self) * float(other))
        return Number(self.value * other.value, self.negative != other.negative)


def floor_log2(value: Fraction) -> int:
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= value else exponent - 1


def exponent(x: Number, fmt: FloatFormat) -> int:
    """Of a number that is not 0, in a format."""
    return max(floor_log2(abs(x.value)), fmt.emin)


def goes_up(steps: Fraction, mode: str, random: int) -> bool:
    """Whether a magnitude in quanta goes to the integer above it."""
    rest = steps - steps.numerator // steps.denominator
    if mode == "toward_zero" or not rest:
        return False
    if mode == "stochastic":
        return int(rest * 2**31) + random >= 2**31
    odd = mode == "nearest_away" or steps.numerator // steps.denominator % 2 == 1
    return rest > Fraction(1, 2) or (rest == Fraction(1, 2) and odd)


def exact_round(x: Number, fmt: FloatFormat | FixedPoint, mode: str, random: int) -> Number:
    """A real number on the grid of a format."""
    above, below = ends(fmt, x, mode)
    if x.special is not None:
        return Number(x.special if math.isnan(x.special) else above if x.special > 0 else below)
    unsigned_zero = isinstance(fmt, FixedPoint) or not fmt.has_negative_zero
    if not x.value:
        return Number(Fraction(0), x.negative and not unsigned_zero)
    k = fmt.k_min
    if isinstance(fmt, FloatFormat):
        k = max(floor_log2(abs(x.value)) - fmt.mantissa_bits, k)
        if mode == "stochastic" and fmt.mantissa_bits > 21:
            x = odd_float64(x)
    steps = abs(x.value) / Fraction(2) ** k
    rounded = (steps.numerator // steps.denominator + goes_up(steps, mode, random)) * Fraction(2) ** k
    rounded = -rounded if x.negative else rounded
    if rounded > Fraction(fmt.max) or rounded < Fraction(fmt.low):
        return Number(above if rounded > 0 else below)
    return Number(rounded, x.negative and (bool(rounded) or not unsigned_zero))


def ends(fmt: FloatFormat | FixedPoint, x: Number, mode: str) -> tuple[float, float]:
    """What lies above the format becomes, and what lies below."""
    if isinstance(fmt, FixedPoint) or (mode == "toward_zero" and x.special is None):
        return fmt.max, fmt.low
    above = {Overflow.SATURATE: fmt.max, Overflow.INF: math.inf, Overflow.NAN: math.nan}[fmt.overflow]
    return above, -above


def odd_float64(x: Number) -> Number:
    quantum = Fraction(2) ** (floor_log2(abs(x.value)) - 52)
    steps = abs(x.value) / quantum
    whole = steps.numerator // steps.denominator
    whole += int(steps != whole and whole % 2 == 0)
    return Number((-1 if x.negative else 1) * whole * quantum, x.negative)


@cache
def hashes(key: int, slot: int) -> list[int]:
    found: list[int] = hashed(10_000, key, slot, torch.device("cpu")).tolist()
    return found


class ScalarSum:
    """One output, one number at a time."""

    def __init__(
        self, accumulator: Accumulator, a: list[float], b: list[float], output: int, stream: tuple[int, int]
    ) -> None:
        self.accumulator, self.output, (self.key, self.slot) = accumulator, output, stream
        self.a, self.b = [Number(x) for x in a], [Number(x) for x in b]
        self.mode = accumulator.rounding.mode.value

    def round(self, x: Number, fmt: FloatFormat | FixedPoint, k: int, stage: str) -> Number:
        return exact_round(x, fmt, self.mode, self.random(k, stage))

    def random(self, k: int, stage: str) -> int:
        if self.mode != "stochastic":
            return 0
        number = hashes(self.key, self.slot + STAGES[stage])[self.output * len(self.a) + k] >> 1
        unused = 31 - self.accumulator.rounding.random_bits
        return number >> unused << unused

    def add(self, x: Number, y: Number, k: int, stage: str = "add") -> Number:
        return self.round(x + y, self.accumulator.format, k, stage)

    def term(self, k: int) -> Number:
        product = self.accumulator.product
        exact = self.a[k] * self.b[k]
        return exact if product is None else self.round(exact, product, k, "multiply")

    def sequential(self, begin: int, end: int) -> Number:
        total = Number(0.0)
        for k in range(begin, end):
            if k + 1 == end or (k + 1 - begin) % self.accumulator.chunk == 0:
                total = self.add(total, self.term(k), k)
            else:
                total = Number(float(total + self.term(k)))
        return total

    def pairwise(self, begin: int, end: int) -> Number:
        if end - begin == 1:
            return self.round(self.term(begin), self.accumulator.format, begin, "leaf")
        middle = begin + (end - begin) // 2
        return self.add(self.pairwise(begin, middle), self.pairwise(middle, end), middle)

    def blocked(self) -> Number:
        total, block = Number(0.0), self.accumulator.block
        for begin in range(0, len(self.a), block):
            total = self.add(total, self.of_block(begin, min(begin + block, len(self.a))), begin, "outer")
        return total

    def of_block(self, begin: int, end: int) -> Number:
        if self.accumulator.inner is None:
            return self.sequential(begin, end)
        inner = copy.copy(self)
        inner.accumulator, inner.mode = self.accumulator.inner, self.accumulator.inner.rounding.mode.value
        return inner.aligned(begin, end) if inner.accumulator.order is Order.ALIGNED else inner.sequential(begin, end)

    def aligned(self, begin: int, end: int) -> Number:
        total, block = Number(0.0), self.accumulator.block
        for first in range(begin, end, block):
            exact = self.aligned_step(total, range(first, min(first + block, end)))
            total = self.round(exact, self.accumulator.format, first, "add")
            total = total if total.value or total.special is not None else Number(0.0)
        return total

    def aligned_step(self, total: Number, terms: range) -> Number:
        numbers = [total, *(self.a[k] * self.b[k] for k in terms)]
        if any(number.special is not None for number in numbers):
            return Number(sum(number.special for number in numbers if number.special is not None))
        assert self.accumulator.operands is not None
        assert isinstance(self.accumulator.format, FloatFormat)
        left, right = self.accumulator.operands
        exponents = [exponent(total, self.accumulator.format)] if total.value else []
        factors = [(self.a[k], self.b[k]) for k in terms]
        exponents += [exponent(x, left) + exponent(y, right) for x, y in factors if x.value and y.value]
        quantum = Fraction(2) ** (max([-960, *exponents]) - self.accumulator.fraction_bits)
        return Number(sum(int(number.value / quantum) for number in numbers) * quantum)

    def compensated(self) -> Number:
        total = error = Number(0.0)
        for k in range(len(self.a)):
            corrected = self.add(self.term(k), -error, k, "correct")
            following = self.add(total, corrected, k)
            error = self.add(self.add(following, -total, k, "recover"), -corrected, k, "error")
            total = following
        return total

    def result(self) -> float:
        if not self.a:
            return 0.0
        if self.accumulator.compensated:
            return float(self.compensated())
        if self.accumulator.order is Order.PAIRWISE:
            return float(self.pairwise(0, len(self.a)))
        if self.accumulator.order is Order.BLOCKED:
            return float(self.blocked())
        if self.accumulator.order is Order.ALIGNED:
            return float(self.aligned(0, len(self.a)))
        return float(self.sequential(0, len(self.a)))


def by_fractions(a: Tensor, b: Tensor, accumulator: Accumulator, key: int = KEY, slot: int = SLOT) -> Tensor:
    """The product of two matrices."""
    rows, columns = a.double().tolist(), b.double().t().tolist()
    sums = [
        ScalarSum(accumulator, row, column, index, (key, slot)).result()
        for index, (row, column) in enumerate(itertools.product(rows, columns))
    ]
    return torch.tensor(sums, dtype=torch.float64).reshape(len(rows), len(columns)).to(a.dtype)


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    integer = torch.int32 if ours.dtype is torch.float32 else torch.int64
    both_nan = ours.isnan() & theirs.isnan()
    return ours.shape == theirs.shape and bool(((ours.view(integer) == theirs.view(integer)) | both_nan).all())
