"""Rounding modes: which neighbour on the grid a value goes to."""

import re
from dataclasses import dataclass
from enum import Enum

from precc.errors import FormatError, member_of

__all__ = ["MAX_RANDOM_BITS", "NEAREST_EVEN", "Rounding", "RoundingMode", "parse_rounding"]

#: Random bits of a stochastic rounding, unless fewer are asked for: with t the distance to the grid point below,
#: in quanta, the probability of going up is t truncated to that many bits.
MAX_RANDOM_BITS = 31


class RoundingMode(Enum):
    """Which neighbour on the grid a value goes to. A value on the grid stays, in every mode."""

    NEAREST_EVEN = "nearest_even"  #: the nearest, ties to an even significand (p = 1: away from zero)
    NEAREST_AWAY = "nearest_away"  #: the nearest, ties away from zero
    TOWARD_ZERO = "toward_zero"  #: the one of smaller magnitude; finite values never overflow
    STOCHASTIC = "stochastic"  #: away from zero with the probability of the distance, else toward zero: unbiased
    HYSTERESIS = "hysteresis"  #: down if above the previous rounding, else up (FP134; Lee et al. 2022)
    VARIANCE_CORRECTED = "variance_corrected"  #: a draw with given mean and variance (Zhang et al. 2022, algorithm 2)


@dataclass(frozen=True, slots=True)
class Rounding:
    """A mode, and how many random bits a stochastic one uses.

    >>> Rounding("stochastic", random_bits=8), parse_rounding("nearest_away")
    (stochastic:8, nearest_away)
    """

    mode: RoundingMode
    random_bits: int = MAX_RANDOM_BITS

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", member_of(RoundingMode, self.mode, "unknown rounding"))
        if type(self.random_bits) is not int or not 1 <= self.random_bits <= MAX_RANDOM_BITS:
            raise FormatError(f"random_bits is from 1 to {MAX_RANDOM_BITS}, not {self.random_bits!r}")
        if self.random_bits != MAX_RANDOM_BITS and self.mode is not RoundingMode.STOCHASTIC:
            raise FormatError(f"random_bits goes with 'stochastic', not with {self.mode.value!r}")

    @property
    def needs_state(self) -> bool:
        """Whether it needs more than the value: the previous rounding, or a variance."""
        return self.mode in (RoundingMode.HYSTERESIS, RoundingMode.VARIANCE_CORRECTED)

    def __str__(self) -> str:
        bits = "" if self.random_bits == MAX_RANDOM_BITS else f":{self.random_bits}"
        return self.mode.value + bits

    __repr__ = __str__


_NAME = re.compile(r"([a-z_]+)(?::([1-9]\d{0,3}))?")


def parse_rounding(rounding: Rounding | RoundingMode | str) -> Rounding:
    """The rounding that a name means; ``"stochastic:8"`` uses 8 random bits.

    Raises:
        FormatError: the name is unknown; the message lists the valid ones.
    """
    if isinstance(rounding, Rounding):
        return rounding
    if isinstance(rounding, RoundingMode):
        return Rounding(rounding)
    parts = _NAME.fullmatch(rounding) if isinstance(rounding, str) else None
    mode = member_of(RoundingMode, parts[1] if parts is not None else rounding, "unknown rounding")
    return Rounding(mode, int(parts[2])) if parts is not None and parts[2] else Rounding(mode)


NEAREST_EVEN = Rounding(RoundingMode.NEAREST_EVEN)
