"""One slot of a report."""

from collections.abc import Iterable
from dataclasses import dataclass

from precc.report.error_figures import ErrorFigures
from precc.slots import Slot

__all__ = ["Band", "SlotRow", "SlotValues", "rows_by_op"]


@dataclass(frozen=True, slots=True)
class SlotValues:
    """The values of a slot in the batch that was analysed.

    Args:
        elements: how many.
        zeros: of them, 0 or -0.
        nonfinite: of them, infinite or NaN.
        amax: largest finite magnitude.
        amin: smallest magnitude that is not 0.
        histogram: pairs of a binary exponent ``floor(log2 |x|)`` and the number of values that have it, ascending.
        underflow: share of the values that become 0 in the slot's precision, 0 to 1; None if it was not counted.
        overflow: likewise of those beyond its ends.
    """

    elements: int
    zeros: int
    nonfinite: int
    amax: float
    amin: float
    histogram: tuple[tuple[int, int], ...]
    underflow: float | None = None
    overflow: float | None = None


@dataclass(frozen=True, slots=True)
class Band:
    """The magnitudes that a precision can tell apart from 0 and from its ends, under the scale that it has.

    Args:
        lowest: binary logarithm of the smallest magnitude that is not 0.
        normal: of the smallest normal one; below it digits are lost.
        highest: of the largest finite one.
        approximate: whether values have several scales, as of channels or blocks, of which this is the tensor's.
    """

    lowest: float
    normal: float
    highest: float
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class SlotRow:
    """One slot of a net, with what is known of it; None is what is not known.

    Args:
        slot: where it is; operands, accumulators and results.
        precision: what it is rounded in, or the format of the tensors, as text.
        format: the name of that format alone, by which it is coloured.
        bits: of a value in it.
        rounded: whether the plan changes its values.
        multiply_adds: of its product.
        values: of an analysed step.
        band: of its precision; None where nothing is rounded.
        condition: median componentwise condition number of its product.
        condition_p99: the number that 99% of its product's results do not exceed.
        predicted: error of the step if this slot alone rounds.
        measured: the same, observed.
    """

    slot: Slot
    precision: str
    format: str
    bits: float
    rounded: bool
    multiply_adds: int
    values: SlotValues | None = None
    band: Band | None = None
    condition: float | None = None
    condition_p99: float | None = None
    predicted: ErrorFigures | None = None
    measured: ErrorFigures | None = None

    @property
    def name(self) -> str:
        """Of the slot."""
        return self.slot.name


def rows_by_op(rows: Iterable[SlotRow]) -> dict[str, list[SlotRow]]:
    """By name of the op."""
    found: dict[str, list[SlotRow]] = {}
    for row in rows:
        found.setdefault(row.slot.op, []).append(row)
    return found
