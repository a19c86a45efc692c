"""What is done to a tensor before it is rounded, as data."""

from enum import Enum

from precc.errors import member_of

__all__ = ["Transform", "parse_transform"]


class Transform(Enum):
    """A transform of an operand; see `precc.random_hadamard` and `precc.ShiftSqueeze`."""

    HADAMARD = "hadamard"  #: mixes 16 neighbours along the contracted dimension of both operands; the product stays
    SHIFT_AND_SQUEEZE = "shift_and_squeeze"  #: bends the tensor's range to that of e5m2, and back after rounding


def parse_transform(transform: Transform | str | None) -> Transform | None:
    """A transform as it is, or by its name; None is none.

    Raises:
        FormatError: unknown name.
    """
    return None if transform is None else member_of(Transform, transform, "unknown transform")
