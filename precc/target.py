"""Targets: what a machine's matrix units multiply and sum natively, as data.

Casts are kernels of our own, so an operand may be rounded in any way; what counts is the format that the unit reads,
scales that can be taken out of a sum, and the sum. Sources: NVIDIA, PTX ISA 8.8, sections on ``mma``,
``wgmma.mma_async`` and ``tcgen05.mma``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import ACCUMULATORS
from precc.cost.work import ProductWork
from precc.errors import PlanError, expected_one_of
from precc.formats import BlockFormat, FloatFormat, Granularity, parse_format
from precc.precision import Precision, misfit

__all__ = ["TARGETS", "MatrixUnit", "Target", "parse_target"]

#: Scales that are factors of whole dot products: the epilogue multiplies by them.
_OUTSIDE = (None, Granularity.STATIC, Granularity.TENSOR, Granularity.ROW)


@dataclass(frozen=True, slots=True)
class MatrixUnit:
    """One kind of product.

    Args:
        formats: names of the operands' formats.
        mixed: whether both operands may differ.
        accumulators: names of sums beside the tensors' own float32.
        alignment: bytes that the summed dimension is a multiple of; 1: any.
        layout: "any", or "k-major": both operands lie along the summed dimension, so that dgrad and wgrad read
            transposed copies.
    """

    formats: frozenset[str]
    mixed: bool = False
    accumulators: frozenset[str] = frozenset()
    alignment: int = 1
    layout: str = "any"

    @classmethod
    def of(cls, *formats: str, mixed: bool = False, sums: tuple[str, ...] = (), alignment: int = 1) -> "MatrixUnit":
        """From names of formats in any spelling; narrow ones are k-major."""
        names = frozenset(parse_format(name).name for name in formats)
        return cls(names, mixed, frozenset(sums), alignment, "k-major" if alignment > 1 else "any")

    def multiplies(self, first: Precision, second: Precision) -> bool:
        """Whether it has this pair of formats."""
        pair = {first.format.name, second.format.name}
        return pair <= self.formats and (self.mixed or len(pair) == 1)


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of machine.

    Args:
        name: such as ``"sm_90"``.
        units: what it multiplies natively; none: everything is emulated, and allowed.

    >>> TARGETS["sm_90"].problem(None, Precision("e4m3"), Precision("e5m2"))
    ''
    >>> TARGETS["sm_80"].problem(None, Precision("e4m3"), Precision("e5m2"))
    'sm_80 multiplies no float8_e4m3fn by float8_e5m2'
    """

    name: str
    units: tuple[MatrixUnit, ...] = ()

    def problem(self, work: ProductWork | None, first: Precision, second: Precision) -> str:
        """Why it does not multiply two operands, in the product `work` if one is given; empty if it does."""
        if not self.units:
            return ""
        unit = self._unit(first, second)
        if unit is None:
            return f"{self.name} multiplies no {first.format.name} by {second.format.name}"
        inside = [own for own in (first, second) if not _is_factor(own)]
        if inside:
            return f"{self.name} has no scales inside a sum, as {inside[0]} needs"
        wide = [
            own for own in (first, second) if work is not None and work.terms * own.format.bits / 8 % unit.alignment
        ]
        if wide and work is not None:
            return (
                f"{self.name} reads {wide[0].format.name} in rows of {unit.alignment} bytes, not of {work.terms} values"
            )
        return ""

    def sum_problem(self, accumulator: Accumulator | None, operand: Precision, position: int) -> str:
        """Why it does not sum products of an operand, the first or the second, by an accumulator; empty if it does."""
        if accumulator is None or not self.units:
            return ""
        names = {name for unit in self.units if operand.format.name in unit.formats for name in unit.accumulators}
        known = any(_named(name) == accumulator for name in names)
        formats = accumulator.operand_formats
        wrong = misfit([operand], None if formats is None else formats[position : position + 1])
        return "" if known and not wrong else f"{self.name} does not sum {operand.format.name} in {accumulator}"

    def _unit(self, first: Precision, second: Precision) -> MatrixUnit | None:
        return next((unit for unit in self.units if unit.multiplies(first, second)), None)


def _is_factor(own: Precision) -> bool:
    """Whether its scales can be taken out of a dot product, or are those of a block format that a unit reads."""
    return isinstance(own.format, BlockFormat) or own.granularity in _OUTSIDE


def _named(name: str) -> Accumulator:
    fmt = parse_format(name) if name not in ACCUMULATORS else None
    if fmt is None:
        return ACCUMULATORS[name]
    assert isinstance(fmt, FloatFormat)
    return Accumulator(format=fmt)


_HALF = (
    MatrixUnit.of("float32"),
    MatrixUnit.of("tf32"),
    MatrixUnit.of("fp16", sums=("float16",)),
    MatrixUnit.of("bf16"),
)
_NARROW = ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1")
_BLOCKS = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_e2m1")

#: By name. ``"cpu-emulated"`` allows everything. float32 is multiplied outside of the matrix units. Sums of ``wgmma``
#: are those of `precc.ACCUMULATORS`; sums of ``mma`` and ``tcgen05`` in fp8 are not known to the bit, and count as
#: float32.
TARGETS: Mapping[str, Target] = {
    own.name: own
    for own in (
        Target("cpu-emulated"),
        Target("sm_80", _HALF),
        Target("sm_89", (*_HALF, MatrixUnit.of("e4m3", "e5m2", mixed=True, alignment=16))),
        Target("sm_90", (*_HALF, MatrixUnit.of("e4m3", "e5m2", mixed=True, sums=tuple(ACCUMULATORS), alignment=16))),
        Target(
            "sm_100",
            (
                *_HALF,
                MatrixUnit.of(*_NARROW, mixed=True, alignment=16),
                MatrixUnit.of(*_BLOCKS, mixed=True, alignment=16),
                MatrixUnit.of("nvfp4", alignment=16),
            ),
        ),
    )
}


def parse_target(target: Target | str) -> Target:
    """A target as it is, or the one of that name.

    Raises:
        PlanError: there is none.
    """
    if isinstance(target, Target):
        return target
    if not isinstance(target, str) or target not in TARGETS:
        raise PlanError(f"unknown target {target!r}: {expected_one_of(TARGETS)}, or a precc.Target")
    return TARGETS[target]
