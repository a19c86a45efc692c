"""Scales of a product's operands: multiplied into values, into the sums of a block of terms, or into whole sums."""

from dataclasses import dataclass

from precc.backends.triton.emit.live_numbers import live_argument, scale_line
from precc.backends.triton.kernel_source import Argument
from precc.backends.triton.native import Arithmetic, KnownValues
from precc.errors import BackendError
from precc.packing import PackedLayout
from precc.rounding.scales import block_shape

__all__ = ["FACTORS_APART", "ScalePart", "given_scale", "packed_scale", "scale_terms"]

#: Kinds of operands that do not hold a value times its scale, in general.
FACTORS_APART = frozenset({Arithmetic.FP8, Arithmetic.BF16, Arithmetic.FP16, Arithmetic.TF32})


@dataclass(frozen=True, slots=True)
class ScalePart:
    """Text for the scales of an operand.

    Args:
        name: the expression of the scales; empty if there are none.
        arguments: that it needs.
        before: lines before the loop over terms, which it needs.
        lines: of the loop over terms, behind the load of the values, which it needs.
        factor: the expression by which sums are multiplied at last; empty if values are.
        partial: that by which the sum of each block of terms is; empty if there are no such blocks.
        terms: of such a block; 0: none.
    """

    name: str = ""
    arguments: tuple[Argument, ...] = ()
    before: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    factor: str = ""
    partial: str = ""
    terms: int = 0


def scale_terms(shape: tuple[int, ...], known: KnownValues, contracted: int) -> int | None:
    """How many consecutive terms have one scale; 0: all; None: scales that a kernel does not find apart from values."""
    row = known.rounded
    if row is None or row.granularity is None or not row.finds_scales:
        return 0
    extent = block_shape(shape, row)
    if len(shape) > 2 and 1 < extent[0] < shape[0]:
        return None
    terms, length = extent[contracted], shape[contracted]
    return 0 if terms >= length else terms


def given_scale(side: str, carrier: str, *, apart: bool) -> ScalePart:
    """One number that is given as the kernel runs."""
    name = f"{side}_given"
    before = (scale_line(name, side, carrier),)
    return ScalePart(name, (live_argument(side),), before, (), name if apart else "")


def packed_scale(side: str, known: KnownValues, layout: PackedLayout, kind: Arithmetic) -> ScalePart:
    """The scales that a packed matrix holds, or the given one."""
    row = known.row
    assert row is not None
    if layout.scale_count == 0:
        return ScalePart() if row.granularity is None else given_scale(side, "tl.float32", apart=kind in FACTORS_APART)
    pointer = Argument(f"{side}_scale_ptr", "*fp32")
    if layout.marks_nan:
        value = f"tl.load({side}_scale_ptr)"
        if row.granularity is None:
            return ScalePart(value, (pointer,), factor=value)
        given = given_scale(side, "tl.float32", apart=True)
        return ScalePart(given.name, (*given.arguments, pointer), given.before, (), f"({given.name} * {value})")
    return _Blocks(side, known, layout).part(kind)


class _Blocks:
    """The scales of blocks of a matrix, or of each matrix of a batch."""

    def __init__(self, side: str, known: KnownValues, layout: PackedLayout) -> None:
        assert known.row is not None
        self.known, self.side = known, side
        self.pointer = Argument(f"{side}_scale_ptr", "*fp32")
        extent = block_shape(layout.shape, known.row)
        if len(layout.shape) > 2 and 1 < extent[0] < layout.shape[0]:
            raise BackendError("triton: a product of batches reads no scales of several matrices of a batch together")
        contracted = -1 if side == "a" else -2
        kept = -3 - contracted
        self.name, self.size = ("rows", "M") if side == "a" else ("columns", "N")
        self.terms = extent[contracted] if extent[contracted] < layout.shape[contracted] else 0
        counts = layout.blocks[-2:]
        self.step = 1 if side == "a" else counts[1]
        at = [f"z * {counts[0] * counts[1]}"] if len(layout.shape) > 2 and layout.blocks[0] > 1 else []
        self.whole = extent[kept] >= layout.shape[kept]
        if not self.whole:
            each = counts[1] if side == "a" else 1
            index = self.name if extent[kept] == 1 else f"({self.name} // {extent[kept]})"
            at.append(index if each == 1 else f"{index} * {each}")
        self.at = " + ".join([f"{side}_scale_ptr", *at])

    def part(self, kind: Arithmetic) -> ScalePart:
        apart = kind in FACTORS_APART and self.known.is_apart(kind)
        if not self.terms:
            value = self.load(self.at)
            return ScalePart(value, (self.pointer,), factor=value if apart else "")
        name = f"{self.side}_scale"
        if apart and not self.known.holds_scaled(kind):
            line = f"{name} = {self.load(f'{self.at} + k // {self.terms} * {self.step}')}"
            return ScalePart(name, (self.pointer,), lines=(line,), partial=name, terms=self.terms)
        spread = "[None, :]" if self.side == "a" else "[:, None]"
        kept = "" if self.whole else "[:, None]" if self.side == "a" else "[None, :]"
        first = f"({self.at}){kept}" if kept else self.at
        at = f"{first} + (terms // {self.terms} * {self.step}){spread}"
        mask = f"terms{spread} < K" if self.whole else f"{self.side}_in"
        return ScalePart(name, (self.pointer,), lines=(f"{name} = tl.load({at}, mask={mask}, other=0.0)",))

    def load(self, at: str) -> str:
        """One scale for each row or column of a tile, or one for all."""
        if self.whole:
            return f"tl.load({at})"
        spread = "[:, None]" if self.side == "a" else "[None, :]"
        return f"tl.load({at}, mask={self.name} < {self.size}, other=0.0){spread}"
