"""What the graphs of a net have executed so far."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Tally"]


@dataclass(eq=False)
class Tally:
    """Multiply-adds of products, evaluations included.

    Args:
        by_format: multiply-adds by the formats of the operands.
        bits: sum of multiply-adds times the mean storage bits of the two operands, with their share of the scales.
        weighed: multiply-adds in that sum; those of plans that are no longer known are not.

    >>> print(Tally(Counter({"bfloat16": 10}), bits=160.0, weighed=10).average_bits)
    16.0
    """

    by_format: Counter[str] = field(default_factory=Counter)
    bits: float = 0.0
    weighed: int = 0

    @property
    def average_bits(self) -> float | None:
        """Storage bits of an operand, averaged over all that was executed, weighted by multiply-adds; None: nothing."""
        return self.bits / self.weighed if self.weighed else None

    def add(self, other: "Tally") -> None:
        """Count what was executed beside."""
        self.by_format.update(other.by_format)
        self.bits += other.bits
        self.weighed += other.weighed

    def replace_by(self, by_format: Mapping[str, int], bits: float, weighed: int) -> None:
        """Go on from other counts."""
        self.by_format.clear()
        self.by_format.update(by_format)
        self.bits, self.weighed = bits, weighed
