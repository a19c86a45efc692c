"""Timed work, and the rates that are fitted to it."""

from dataclasses import dataclass
from typing import Literal

from precc.checks import require_number
from precc.errors import FormatError, PlanError
from precc.formats import Format
from precc.precision import Precision
from precc.target import multiplied

__all__ = ["PairRate", "TimedWork"]

Kind = Literal["product", "cast", "launch"]


@dataclass(frozen=True, slots=True)
class TimedWork:
    """One piece of work, timed.

    Args:
        kind: "product", "cast" (whatever reads and writes a tensor once) or "launch".
        name: "<format> x <format>", or what it does.
        shape: of a product: rows, terms of each sum, columns; of others: rows and columns.
        flops: two a multiply-add.
        moved: bytes that are read and written.
        seconds: median of the rounds.

    Raises:
        PlanError: another kind, or numbers that are none.
    """

    kind: Kind
    name: str
    shape: tuple[int, ...]
    flops: float
    moved: float
    seconds: float

    def __post_init__(self) -> None:
        if self.kind not in ("product", "cast", "launch"):
            raise PlanError(f"kind is {self.kind!r}, not 'product', 'cast' or 'launch'")
        require_number(self.flops, "flops", zero=self.kind != "product")
        require_number(self.moved, "moved", zero=self.kind == "launch")
        require_number(self.seconds, "seconds")


@dataclass(frozen=True, slots=True)
class PairRate:
    """How fast a device multiplies two formats.

    Args:
        first: format of one operand, by name.
        second: of the other; either may come first.
        flops: a second, two a multiply-add.
        error: median relative error of the times that the figures give for what was measured; 0 where nothing was.

    Raises:
        PlanError: an unknown format, or numbers that are none.

    >>> PairRate("bfloat16", "bfloat16", 732e12).name
    'bfloat16 x bfloat16'
    """

    first: str
    second: str
    flops: float
    error: float = 0.0

    def __post_init__(self) -> None:
        try:
            _ = self.formats
        except (FormatError, TypeError) as error:
            raise PlanError(f"{self.first!r} x {self.second!r}: {error}") from None
        require_number(self.flops, f"flops of {self.name}")
        require_number(self.error, f"error of {self.name}", zero=True)

    @property
    def name(self) -> str:
        """As measurements have it."""
        return f"{self.first} x {self.second}"

    @property
    def formats(self) -> tuple[Format, Format]:
        """Of both operands."""
        return multiplied(Precision(self.first)), multiplied(Precision(self.second))
