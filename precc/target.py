"""Targets: which precisions and sums a machine has without emulation."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import ACCUMULATORS, parse_accumulator
from precc.accumulation.sums import Sums
from precc.accumulation.two_passes import TwoPasses
from precc.cost.work import ProductWork
from precc.errors import PlanError, expected_one_of, member_of
from precc.formats import BlockFormat, FloatFormat, Format, Granularity, Overflow, parse_format
from precc.precision import Precision
from precc.rounding import NEAREST_EVEN

__all__ = ["TARGETS", "Target", "multiplied", "parse_target"]

_Pairs = Iterable[tuple[Format | str, Format | str]]
_Sums = Iterable[tuple[Accumulator | str, Format | str, Format | str]]


@dataclass(frozen=True, slots=True)
class Target:
    """What a machine multiplies and how it sums, as data. Natively it rounds to nearest even and transforms nothing.

    Formats are compared as grids: what overflows does not matter. An element format scaled by blocks is the block
    format that both make.

    Args:
        name: in messages.
        pairs: formats of the two operands of a product, or their names; None: everything is legal, as emulation.
        scalings: granularities of scales that it multiplies a product by, once it is summed.
        accumulators: how it may sum, beside the tensors' own way, and of which two operands.
        alignment: bytes, of which the contracted dimension has a multiple in formats of 8 bits and less. Libraries may
            want that of other dimensions too.
        layout: of 8-bit operands: ``"k-major"`` have the contracted dimension last in memory; ``"any"``.

    Raises:
        FormatError: an unknown name of a format or accumulator.
        PlanError: another layout, or an alignment that is none.

    >>> tiny = Target("tiny", pairs=[("e4m3", "bf16")])
    >>> tiny.pair_problem(Precision("e4m3"), Precision("bf16"))
    ''
    >>> tiny.pair_problem(Precision("e4m3"), Precision("e4m3"))
    'tiny multiplies float8_e4m3fn by bfloat16, not by float8_e4m3fn'
    """

    name: str
    pairs: frozenset[tuple[Format, Format]] | None = field(repr=False)
    scalings: frozenset[Granularity] = field(repr=False)
    accumulators: frozenset[tuple[Accumulator, Format, Format]] = field(repr=False)
    alignment: int
    layout: Literal["any", "k-major"]

    def __init__(
        self,
        name: str,
        *,
        pairs: _Pairs | None = None,
        scalings: Iterable[Granularity | str] = (),
        accumulators: _Sums = (),
        alignment: int = 1,
        layout: Literal["any", "k-major"] = "any",
    ) -> None:
        known = None if pairs is None else frozenset((_grid(first), _grid(second)) for first, second in pairs)
        sums = frozenset((parse_accumulator(own), _grid(first), _grid(second)) for own, first, second in accumulators)
        if type(alignment) is not int or alignment < 1:
            raise PlanError(f"alignment is a number of bytes, 1 or more, not {alignment!r}")
        if layout not in ("any", "k-major"):
            raise PlanError(f"unknown layout {layout!r}: {expected_one_of(('any', 'k-major'))}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "pairs", known)
        object.__setattr__(self, "scalings", frozenset(map(_granularity, scalings)))
        object.__setattr__(self, "accumulators", sums)
        object.__setattr__(self, "alignment", alignment)
        object.__setattr__(self, "layout", layout)

    def emulating(self) -> "Target":
        """The same machine, with emulation of what it has not: everything is legal.

        >>> TARGETS["sm_90"].emulating().pair_problem(Precision("e2m1"), Precision("bf16"))
        ''
        """
        return Target(self.name, layout=self.layout)

    def pair_problem(self, first: Precision, second: Precision) -> str:
        """Why it does not multiply the two operands of a product; empty if it does."""
        if self.pairs is None:
            return ""
        if problem := self._operand_problem(first) or self._operand_problem(second):
            return problem
        pair = (multiplied(first), multiplied(second))
        if pair in self.pairs:
            return ""
        partners = sorted(other.name for own, other in self.pairs if own == pair[0])
        if not partners:
            return f"{self.name} multiplies no {pair[0].name}"
        return f"{self.name} multiplies {pair[0].name} by {', '.join(partners)}, not by {pair[1].name}"

    def product_problem(self, work: ProductWork, first: Precision, second: Precision) -> str:
        """Why it does not run a product with these operands; empty if it does. Beside `pair_problem`, the alignment."""
        if problem := self.pair_problem(first, second):
            return problem
        narrow = [
            own for own in (first, second) if own.format.bits <= 8 and work.terms * own.format.bits / 8 % self.alignment
        ]
        if self.pairs is None or not narrow:
            return ""
        return (
            f"{self.name} reads rows of {self.alignment} bytes, not of {work.terms} values in {narrow[0].format.name}"
        )

    def accumulator_problem(self, accumulator: Sums | None, first: Precision, second: Precision) -> str:
        """Why it does not sum products of these operands so; empty if it does. None: as the tensors' own arithmetic."""
        if isinstance(accumulator, TwoPasses):
            return f"{self.name} has two passes only in emulation" if self.pairs is not None else ""
        found = (accumulator, multiplied(first), multiplied(second))
        if self.pairs is None or accumulator is None or found in self.accumulators:
            return ""
        operands = sorted(f"{a.name} x {b.name}" for own, a, b in self.accumulators if own == accumulator)
        if not operands:
            return f"{self.name} sums in {accumulator} only in emulation"
        pair = f"{found[1].name} x {found[2].name}"
        return f"{self.name} sums in {accumulator} only products {', '.join(operands)}, not {pair}"

    def result_problem(self, own: Precision) -> str:
        """Why it does not store results so; empty if it does: in formats that it multiplies, by scales known before."""
        if self.pairs is None:
            return ""
        if problem := self._operand_problem(own):
            return problem
        if own.granularity not in (None, Granularity.STATIC, Granularity.BLOCK, Granularity.TILE) and not own.history:
            return f"{own}: {self.name} stores results by scales that are known before: static or delayed ones"
        fmt = multiplied(own)
        return "" if any(fmt in pair for pair in self.pairs) else f"{self.name} stores no {fmt.name}"

    def _operand_problem(self, own: Precision) -> str:
        if own.rounding != NEAREST_EVEN:
            return f"{own}: {self.name} rounds operands to nearest even; {own.rounding} is emulation"
        if own.transform is not None:
            return f"{own}: {self.name} has no transforms of operands; {own.transform.value} is emulation"
        scaled = None if own.scaling is None or _is_blocked(own) else own.scaling.granularity
        if scaled is None or scaled in self.scalings:
            return ""
        known = ", ".join(sorted(have.value for have in self.scalings)) or "nothing"
        return f"{own}: {self.name} scales by {known}, not by {scaled.value}"


def _granularity(name: Granularity | str) -> Granularity:
    return member_of(Granularity, name, "unknown scaling of a target")


def _is_blocked(own: Precision) -> bool:
    return own.scaling is not None and own.scaling.granularity in (Granularity.BLOCK, Granularity.TILE)


@lru_cache(maxsize=1024)
def multiplied(own: Precision) -> Format:
    """The format of an operand, whatever overflows in it; of one scaled by blocks, with its scales."""
    if own.scaling is None or not _is_blocked(own) or isinstance(own.format, BlockFormat):
        return _grid(own.format)
    return _grid(BlockFormat(element=own.format, scaling=own.scaling))


def _grid(fmt: Format | str) -> Format:
    found = parse_format(fmt)
    return found.with_overflow(Overflow.SATURATE) if isinstance(found, FloatFormat) else found


def _same(*names: str) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


def _mixed(*names: str) -> list[tuple[str, str]]:
    return [(first, second) for first in names for second in names]


_TENSOR = (Granularity.STATIC, Granularity.TENSOR)
_EPILOGUE = (*_TENSOR, Granularity.ROW, Granularity.CHANNEL)
_HALF_SUMS: list[tuple[Accumulator | str, Format | str, Format | str]] = [("float16", "float16", "float16")]
_WGMMA_SUMS = [
    (own, *own.operand_formats)
    for name, own in ACCUMULATORS.items()
    if name.startswith("hopper_fp8") and own.operand_formats is not None
]

_SM_80 = _same("float64", "float32", "float16", "bfloat16")
_SM_89 = _SM_80 + _mixed("e4m3", "e5m2")
_SM_90 = _SM_89 + _same("tfloat32")
_SM_100 = (
    _SM_90
    + _mixed("e2m1", "e2m3", "e3m2", "e4m3", "e5m2")
    + _mixed("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2")
    + _same("nvfp4")
)

#: By name. ``"cpu-emulated"`` runs everything. The others are NVIDIA's, by the PTX ISA (9.0): ``mma`` multiplies
#: float64, float16, bfloat16 and, from sm_89, e4m3 and e5m2 in any pair; sm_90 does so by ``wgmma``, whose sums of
#: 8-bit operands are no float32 sums but the accumulators ``"hopper_fp8"``; sm_100 by ``tcgen05.mma``:
#: ``kind::f8f6f4`` mixes floats of 8, 6 and 4 bits, ``kind::mxf8f6f4`` the MX formats, ``kind::mxf4nvf4`` is nvfp4
#: by itself. float32 is that of the ordinary cores. tfloat32 is rounded to nearest even from sm_90 (``cvt.rn``;
#: before, ties away from zero). One scale a tensor is a factor of the product; those of rows and channels are
#: factors of its rows or columns, for the epilogues of sm_90 and later, if the scaled dimension is not contracted.
#: 16 bytes are the alignment of TMA and of cuBLAS.
TARGETS: dict[str, Target] = {
    own.name: own
    for own in (
        Target("cpu-emulated"),
        Target("sm_80", pairs=_SM_80, scalings=_TENSOR, accumulators=_HALF_SUMS, alignment=16),
        Target("sm_89", pairs=_SM_89, scalings=_TENSOR, accumulators=_HALF_SUMS, alignment=16, layout="k-major"),
        Target(
            "sm_90",
            pairs=_SM_90,
            scalings=_EPILOGUE,
            accumulators=[*_HALF_SUMS, *_WGMMA_SUMS],
            alignment=16,
            layout="k-major",
        ),
        Target("sm_100", pairs=_SM_100, scalings=_EPILOGUE, accumulators=_HALF_SUMS, alignment=16),
    )
}


def parse_target(target: Target | str) -> Target:
    """The target that a name means; a target is returned as it is.

    Raises:
        PlanError: an unknown name.

    >>> parse_target("sm_90")
    Target(name='sm_90', alignment=16, layout='k-major')
    """
    if isinstance(target, Target):
        return target
    if not isinstance(target, str) or target not in TARGETS:
        raise PlanError(f"unknown target {target!r}: {expected_one_of(TARGETS)}; or a precc.target.Target")
    return TARGETS[target]
