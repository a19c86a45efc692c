"""How one product is computed: what its operands are rounded to, and its sums."""

from dataclasses import dataclass

from precc.accumulator import Accumulator
from precc.errors import FormatError
from precc.formats import FixedPoint, FloatFormat, Format, parse_format
from precc.precision import Precision
from precc.rounding import RoundingMode

__all__ = ["ProductArithmetic"]


@dataclass(frozen=True, slots=True)
class ProductArithmetic:
    """Both operands are rounded to `operands`, products summed as `accumulator` says.

    Args:
        operands: a Precision, a format, or the name of one. Rows, blocks and tiles of a scaling run along the
            contracted dimension.
        accumulator: an Accumulator, or a format (or its name) to which every fused multiply-add is rounded.

    Raises:
        FormatError: unknown formats, or one that sums cannot have.

    >>> ProductArithmetic("e4m3", "e5m10").accumulator
    Accumulator(format='float16', rounding=nearest_even)
    """

    operands: Precision
    accumulator: Accumulator

    def __init__(
        self, operands: Precision | Format | str, accumulator: Accumulator | FloatFormat | FixedPoint | str
    ) -> None:
        if not isinstance(accumulator, Accumulator):
            accumulator = Accumulator(format=accumulator)
        object.__setattr__(self, "operands", Precision.of(operands))
        object.__setattr__(self, "accumulator", accumulator)

    @classmethod
    def of(cls, choice: "ProductArithmetic | FloatFormat | FixedPoint | str") -> "ProductArithmetic":
        """An arithmetic as it is; a format or its name means that format for operands and sums.

        Raises:
            FormatError: neither, or a format that sums cannot have.
        """
        if isinstance(choice, ProductArithmetic):
            return choice
        fmt = parse_format(choice)
        if not isinstance(fmt, (FloatFormat, FixedPoint)):
            raise FormatError(f"{fmt.name!r} is no format of sums: pass ProductArithmetic({fmt.name!r}, accumulator)")
        return cls(fmt, fmt)

    @property
    def is_stochastic(self) -> bool:
        """Whether it draws random bits."""
        return self.operands.is_stochastic or self.accumulator.rounding.mode is RoundingMode.STOCHASTIC
