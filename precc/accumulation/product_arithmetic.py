"""How one product is computed: what its operands are rounded to, and its sums."""

from dataclasses import dataclass

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.named import ACCUMULATORS, parse_accumulator
from precc.errors import FormatError
from precc.formats import Format
from precc.precision import Precision, misfit

__all__ = ["Arithmetic", "ProductArithmetic"]


@dataclass(frozen=True, slots=True)
class ProductArithmetic:
    """Both operands are rounded to `operands`, products summed as `accumulator` says.

    Args:
        operands: a Precision, a format, or the name of one. Rows, blocks and tiles of a scaling run along the
            contracted dimension.
        accumulator: an Accumulator, or a format (or its name) to which every fused multiply-add is rounded.

    Raises:
        FormatError: unknown formats, one that sums cannot have, operands that the accumulator does not take, or a
            transform.

    >>> ProductArithmetic("e4m3", "e5m10").accumulator
    Accumulator(format='float16', rounding=nearest_even)
    """

    operands: Precision
    accumulator: Accumulator

    def __init__(self, operands: Precision | Format | str, accumulator: Accumulator | Format | str) -> None:
        object.__setattr__(self, "operands", Precision.of(operands))
        object.__setattr__(self, "accumulator", parse_accumulator(accumulator))
        if self.operands.transform is not None:
            raise FormatError(f"operands {self.operands}: a product by hand has no transforms; transform them before")
        if why := misfit([self.operands] * 2, self.accumulator.operand_formats):
            raise FormatError(f"sums in {self.accumulator}, {why}")

    @classmethod
    def of(cls, choice: "ProductArithmetic | Format | str") -> "ProductArithmetic":
        """An arithmetic as it is; a format or its name means that format for operands and sums.

        Raises:
            FormatError: neither, or a format that sums cannot have.
        """
        if isinstance(choice, str) and choice in ACCUMULATORS:
            raise FormatError(f"{choice!r} is an accumulator: write ProductArithmetic(operands, {choice!r})")
        return choice if isinstance(choice, ProductArithmetic) else cls(choice, choice)

    @property
    def is_stochastic(self) -> bool:
        """Whether it draws random bits."""
        return self.operands.is_stochastic or self.accumulator.is_stochastic

    def __str__(self) -> str:
        operands, sums = str(self.operands), str(self.accumulator)
        return operands if operands == sums else f"{operands} summed in {sums}"


#: What says how a product is computed; a format means: operands and sums in it.
Arithmetic = ProductArithmetic | Format | str
