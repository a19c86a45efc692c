"""The lines of a kernel that sum the terms of a product, for every order and option of an `Accumulator`.

The lines make `total`, a block of float64, of `depth` terms. A term is written by a `Term`; ``outputs + k`` is the
number of the random bits of term k.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from precc.accumulation.accumulator import Accumulator, Order
from precc.accumulation.tensor_ops import STAGES, grid_of
from precc.backends.triton.emit.device_functions import JIT, joined
from precc.backends.triton.emit.live_numbers import live_argument, state_lines
from precc.backends.triton.emit.rounding import RoundingText, rounding_text
from precc.backends.triton.kernel_source import Argument
from precc.formats import FixedPoint, FloatFormat
from precc.rounding.row import row_of

__all__ = ["MOST_LEVELS", "ZEROS", "Sum", "Term", "levels_of"]

#: Of a pairwise sum: a kernel keeps one block of partial sums for each, so that 2**17 - 1 terms is the most.
MOST_LEVELS = 16

#: The expression for a block of zeros.
ZEROS = "tl.zeros((ITEMS, ROWS, COLUMNS), tl.float64)"

#: Lines that make the blocks `a` and `b`, of float64, for the term whose number is an expression.
Term = Callable[[str], list[str]]

_ODD_SUM = f"""{JIT}def odd_sum(x, y):
    # x + y rounded to odd: where a double cannot hold it, the one of the two around it whose last bit is odd
    total = x + y
    of_y = total - x
    error = (x - (total - of_y)) + (y - of_y)
    bits = total.to(tl.int64, bitcast=True)
    moves = ((error > 0.0) | (error < 0.0)) & ((bits & 1) == 0)
    step = tl.where((error > 0.0) == (total > 0.0), 1, -1)
    return tl.where(moves, bits + step, bits).to(tl.float64, bitcast=True)
"""

_EXPONENTS = f"""{JIT}def exponents(x, emin: tl.constexpr):
    # max(floor(log2 |x|), emin); of zeros, and of what is not finite, far less
    biased = ((x.to(tl.int64, bitcast=True) >> 52) & 0x7FF).to(tl.int32)
    found = tl.where(biased - 1023 < emin, emin, biased - 1023)
    return tl.where((x == 0.0) | (biased == 0x7FF), -9999, found)


{JIT}def power_of_two(exponent):
    return ((exponent.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


{JIT}def truncated(x):
    return tl.where(x < 0.0, tl.ceil(x), tl.floor(x))


{JIT}def special(x):
    # x where it is not finite, else 0
    return tl.where(x - x == 0.0, 0.0, x)
"""


def levels_of(depth: int) -> int:
    """Levels of the tree of a pairwise sum above its lowest nodes, which have one term or two."""
    return max(1, depth).bit_length() - 1


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


@dataclass(frozen=True)
class Sum:
    """The text of a sum.

    Args:
        accumulator: how it is rounded.
        wide: whether random bits have numbers of more than 32 bits.
        levels: of the tree of a pairwise sum.
        prefix: of the names of its streams' states, in a kernel with two sums.
        shape: of the block of sums.
    """

    accumulator: Accumulator
    wide: bool
    levels: int
    prefix: str = ""
    shape: str = "(ITEMS, ROWS, COLUMNS)"

    @cached_property
    def inner(self) -> "Sum":
        """That of the terms of a block."""
        own = self.accumulator.inner
        return self if own is None else replace(self, accumulator=own)

    @property
    def zeros(self) -> str:
        """The expression for a block of zeros."""
        return f"tl.zeros({self.shape}, tl.float64)"

    @cached_property
    def rounding(self) -> RoundingText | None:
        """To the format of the sum; None for float64, whose own additions round."""
        return self._rounding(self.accumulator.format)

    @cached_property
    def of_product(self) -> RoundingText | None:
        """To the format of the product."""
        return None if self.accumulator.product is None else self._rounding(self.accumulator.product)

    def _rounding(self, fmt: FloatFormat | FixedPoint) -> RoundingText | None:
        row = row_of(fmt, self.accumulator.rounding)
        return None if row.is_identity(torch.float64) else rounding_text(row, torch.float64, self.wide)

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The numbers of its live row, where it draws random ones."""
        return (live_argument(f"{self.prefix}sum"),) if self.stages else ()

    @property
    def before(self) -> list[str]:
        """Lines that read the states of its streams."""
        own, row = self.prefix, f"{self.prefix}sum"
        return [line for stage in self.stages for line in state_lines(f"{own}{stage}", row, STAGES[stage])]

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the streams that are drawn from, as in `precc.accumulation.tensor_ops.STAGES`."""
        if self.accumulator.order is Order.BLOCKED:
            inside = self.inner._own_stages
            return (*inside, "outer") if self.rounding is not None and self.rounding.draws else inside
        return self._own_stages

    @property
    def _own_stages(self) -> tuple[str, ...]:
        names = ["add"] if self.rounding is not None else []
        names += ["leaf"] if self.accumulator.order is Order.PAIRWISE and names else []
        names += ["correct", "recover", "error"] if self.accumulator.compensated and names else []
        names += ["multiply"] if self.of_product is not None else []
        draws = any(text is not None and text.draws for text in (self.rounding, self.of_product))
        return tuple(names) if draws else ()

    @property
    def functions(self) -> str:
        """What the lines call."""
        texts = [text.functions for own in (self, self.inner) for text in (own.rounding, own.of_product) if text]
        odd = any(own._is_odd for own in (self, self.inner) if own.accumulator.order is not Order.ALIGNED)
        aligned = self.inner.accumulator.order is Order.ALIGNED
        return joined(*([_ODD_SUM] if odd else []), *([_EXPONENTS] if aligned else []), *texts)

    @property
    def _is_odd(self) -> bool:
        grid = grid_of(self.accumulator.format)
        return not (grid.mantissa_bits == 52 and grid.emin < 0)

    def rounded(self, value: str, k: str, stage: str) -> str:
        """The expression for a value rounded to the format of the sum."""
        return value if self.rounding is None else self.rounding.call(value, f"outputs + {k}", self.prefix + stage)

    def added(self, x: str, y: str, k: str, stage: str = "add") -> str:
        """The expression for a rounded sum."""
        return self.rounded(f"odd_sum({x}, {y})" if self._is_odd else f"{x} + {y}", k, stage)

    def term(self, term: Term, k: str, name: str = "term") -> list[str]:
        """Lines for a product, rounded where it is."""
        product = "a * b"
        if self.of_product is not None:
            product = self.of_product.call(product, f"outputs + {k}", f"{self.prefix}multiply")
        return [*term(k), f"{name} = {product}"]

    def lines(self, term: Term) -> list[str]:
        """Lines for the whole sum."""
        if self.accumulator.compensated:
            return self._compensated(term)
        order = self.accumulator.order
        if order is Order.PAIRWISE:
            return self._pairwise(term)
        if order is Order.BLOCKED:
            return self._blocked(term)
        return self.of_terms(term, "total", "0", "depth")

    def of_terms(self, term: Term, name: str, begin: str, end: str) -> list[str]:
        """Lines for the sum of some terms in order."""
        if self.accumulator.order is Order.ALIGNED:
            return self._aligned(term, name, begin, end)
        step = f"{name} = {self.added(name, 'term', 'k')}"
        own = [step]
        if self.accumulator.chunk > 1:
            last = f"((k + 1 - {begin}) % {self.accumulator.chunk} == 0) | (k + 1 == {end})"
            own = [f"if {last}:", f"    {step}", "else:", f"    {name} = {name} + term"]
        loop = _indented([*self.term(term, "k"), *own])
        return [f"{name} = {self.zeros}", f"for k in range({begin}, {end}):", *loop]

    def _blocked(self, term: Term) -> list[str]:
        block = self.accumulator.block
        return [
            f"total = {self.zeros}",
            f"for block in range(0, depth, {block}):",
            f"    end = tl.minimum(block + {block}, depth)",
            *_indented(self.inner.of_terms(term, "part", "block", "end")),
            f"    total = {self.added('total', 'part', 'block', 'outer')}",
        ]

    def _aligned(self, term: Term, name: str, begin: str, end: str) -> list[str]:
        own, fmt = self.accumulator, self.accumulator.format
        assert own.operands is not None
        assert isinstance(fmt, FloatFormat)
        left, right = (operand.emin for operand in own.operands)
        load = term("k")
        return [
            f"{name} = {self.zeros}",
            f"for first in range({begin}, {end}, {own.block}):",
            f"    last = tl.minimum(first + {own.block}, {end})",
            f"    largest = exponents({name}, {fmt.emin})",
            "    for k in range(first, last):",
            *_indented(_indented(load)),
            f"        exponent = exponents(a, {left}) + exponents(b, {right})",
            "        largest = tl.where(exponent > largest, exponent, largest)",
            "    largest = tl.where(largest < -960, -960, tl.where(largest > 1023, 1023, largest))",
            f"    to_steps = power_of_two({own.fraction_bits} - largest)",
            f"    steps = truncated({name} * to_steps)",
            "    for k in range(first, last):",
            *_indented(_indented(load)),
            "        steps = steps + truncated((a * b) * to_steps)",
            "    finite = steps - steps == 0.0",
            f"    exact = steps * power_of_two(largest - {own.fraction_bits})",
            "    if tl.min(finite.to(tl.int32)) == 0:  # infinities and NaN: their IEEE sum",
            f"        found = special({name})",
            "        for k in range(first, last):",
            *_indented(_indented(_indented(load))),
            "            found = found + special(a * b)",
            "        exact = tl.where(finite, exact, found)",
            f"    {name} = {self.rounded('exact', 'first', 'add')} + 0.0  # a zero is +0",
        ]

    def _compensated(self, term: Term) -> list[str]:
        return [
            f"total = {self.zeros}",
            f"error = {self.zeros}",
            "for k in range(0, depth):",
            *_indented(self.term(term, "k")),
            f"    corrected = {self.added('term', 'error * -1.0', 'k', 'correct')}",
            f"    following = {self.added('total', 'corrected', 'k')}",
            f"    error = {self.added('following', 'total * -1.0', 'k', 'recover')}",
            f"    error = {self.added('error', 'corrected * -1.0', 'k', 'error')}",
            "    total = following",
        ]

    def _pairwise(self, term: Term) -> list[str]:
        """The tree is complete but for its lowest nodes, of one term or two: they are visited from left to right, and
        a node is added to its left neighbour where it is a right child. `begin` is its first term.
        """
        if not self.levels:
            return [f"total = {self.zeros}", "begin = 0", "count = depth", *self._node(term)]
        levels = range(self.levels)
        return [
            f"total = {self.zeros}",
            *(f"part{level} = total" for level in levels),
            *(f"begin{level} = 0" for level in levels),
            f"for node in range(0, tl.where(depth > 0, {1 << self.levels}, 0)):",
            "    begin = 0",
            "    count = depth",
            f"    for level in tl.static_range({self.levels}):",
            f"        right = (node >> ({self.levels - 1} - level)) & 1",
            "        begin += right * (count // 2)",
            "        count = tl.where(right == 1, count - count // 2, count // 2)",
            *_indented(self._node(term)),
            *(line for level in levels for line in _indented(self._carried(level))),
        ]

    def _node(self, term: Term) -> list[str]:
        """Lines for the sum of a lowest node, of `count` terms from `begin` on."""
        return [
            *self.term(term, "begin"),
            f"total = {self.rounded('term', 'begin', 'leaf')}",
            "if count == 2:",
            *_indented(self.term(term, "(begin + 1)")),
            f"    term = {self.rounded('term', '(begin + 1)', 'leaf')}",
            f"    total = {self.added('total', 'term', '(begin + 1)')}",
        ]

    def _carried(self, level: int) -> list[str]:
        """Lines that keep a left child of a level, or add a right one to it."""
        ones = (1 << level + 1) - 1
        return [
            f"if (node & {ones}) == {ones >> 1}:",
            f"    part{level} = total",
            f"    begin{level} = begin",
            f"if (node & {ones}) == {ones}:",
            f"    total = {self.added(f'part{level}', 'total', 'begin')}",
            f"    begin = begin{level}",
        ]
