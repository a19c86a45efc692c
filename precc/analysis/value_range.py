"""What the values of a slot are: their magnitudes, and how many of them each precision loses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from precc.precision import Precision

__all__ = ["RangeLoss", "RangeLosses", "ValueRange"]


@dataclass(frozen=True, slots=True)
class RangeLoss:
    """What a precision with its own scale loses of a tensor, counted exactly.

    Args:
        underflow: values other than 0 that become 0; under stochastic rounding those that can.
        overflow: finite values that become infinite or NaN, or would go beyond the format's ends if it had more
            exponents (or integer bits); under stochastic rounding those that can. An unsigned format takes a negative
            value for an overflow, also where it becomes 0; 0 overflows only where it becomes NaN.
        elements: of the tensor.
    """

    underflow: int
    overflow: int
    elements: int

    @property
    def underflow_share(self) -> float:
        """Of all elements, 0 to 1."""
        return self.underflow / self.elements if self.elements else 0.0

    @property
    def overflow_share(self) -> float:
        """Of all elements, 0 to 1."""
        return self.overflow / self.elements if self.elements else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class RangeLosses(Mapping[Precision, RangeLoss]):
    """What each of some precisions loses of a tensor; a record is made when it is asked for.

    Args:
        positions: where a precision stands in the lists below, which tensors share.
        underflow: of each.
        overflow: of each.
        elements: of the tensor.
    """

    positions: Mapping[Precision, int]
    underflow: Sequence[int]
    overflow: Sequence[int]
    elements: int

    def __getitem__(self, precision: Precision) -> RangeLoss:
        position = self.positions[precision]
        return RangeLoss(self.underflow[position], self.overflow[position], self.elements)

    def __iter__(self) -> Iterator[Precision]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)

    def times(self, often: int) -> "RangeLosses":
        """Of a tensor that shows the values that often."""
        underflow, overflow = ([own * often for own in counts] for counts in (self.underflow, self.overflow))
        return RangeLosses(self.positions, underflow, overflow, self.elements * often)


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The values of a slot on one batch.

    Args:
        elements: how many.
        zeros: of them, 0 or -0.
        nonfinite: of them, infinite or NaN.
        amax: largest finite magnitude; 0 where there is none.
        amin: smallest magnitude that is not 0; 0 where there is none.
        histogram: pairs of a binary exponent ``floor(log2 |x|)`` and the number of finite values other than 0 that have
            it, ascending; only those that occur.
        losses: by precision.

    >>> ValueRange(4, 1, 0, 6.0, 0.75, ((-1, 1), (2, 2)), {}).binades
    4
    """

    elements: int
    zeros: int
    nonfinite: int
    amax: float
    amin: float
    histogram: tuple[tuple[int, int], ...]
    losses: Mapping[Precision, RangeLoss] = field(repr=False)

    @property
    def binades(self) -> int:
        """From the smallest exponent to the largest, both counted."""
        return self.histogram[-1][0] - self.histogram[0][0] + 1 if self.histogram else 0
