"""Products in two passes, as plans name them."""

import math
import sys
from dataclasses import dataclass

from precc.accumulation.magnitudes import Numerator
from precc.accumulation.product_arithmetic import Arithmetic, ProductArithmetic
from precc.condition_numbers import ACTIVATIONS
from precc.errors import FormatError, expected_one_of, member_of

__all__ = ["TwoPasses"]


@dataclass(frozen=True, slots=True)
class TwoPasses:
    """A product of the forward in low precision, and once more in high precision where that says too little.

    It stands in a plan where a product has its accumulator, ``accumulators={"fc/product/fprop.accumulator": ...}``, and
    computes as `precc.matmul_two_pass` does, of operands as their slots give them: slots in float32 leave the rounding
    to the two passes. The condition number is that of the sum with its bias: ``|W| |h|`` over ``|W h + b|``.

    Args:
        low: a `ProductArithmetic`; or a format, for operands and sums.
        high: likewise.
        tau: the largest condition number that stays low; 0 or more.
        channels: in the place of tau: the channels of the result (columns, of a matrix product) that are in high
            precision, by their numbers, and no others.
        activation: what follows, by its name in `precc.condition_numbers.ACTIVATIONS`.
        numerator: ``"absolute"`` or ``"norms"``, as in `precc.matmul_two_pass`.

    Raises:
        FormatError: both of `tau` and `channels`, or none, or what makes no sense; roundings that draw.

    >>> print(TwoPasses("e4m3", "e5m10", tau=10.0, activation="relu"))
    float8_e4m3fn, and float16 where the condition with relu is above 10
    """

    low: ProductArithmetic
    high: ProductArithmetic
    tau: float | None
    channels: tuple[int, ...] | None
    activation: str
    numerator: Numerator

    def __init__(
        self,
        low: Arithmetic,
        high: Arithmetic,
        *,
        tau: float | None = None,
        channels: tuple[int, ...] | None = None,
        activation: str = "identity",
        numerator: Numerator | str = Numerator.ABSOLUTE,
    ) -> None:
        if (tau is None) is (channels is None):
            raise FormatError("two passes: give tau, or channels in its place")
        object.__setattr__(self, "low", ProductArithmetic.of(low))
        object.__setattr__(self, "high", ProductArithmetic.of(high))
        object.__setattr__(self, "tau", None if tau is None else checked_tau(tau))
        object.__setattr__(self, "channels", None if channels is None else _checked_channels(channels))
        object.__setattr__(self, "activation", activation)
        own = member_of(Numerator, numerator, "unknown numerator of a condition number")
        object.__setattr__(self, "numerator", own)
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise FormatError(f"two passes: unknown activation {activation!r}: {expected_one_of(ACTIVATIONS)}")
        for arithmetic in (self.low, self.high):
            if arithmetic.is_stochastic:
                raise FormatError(f"two passes in a plan round to nearest or towards zero; {arithmetic} draws")

    @property
    def is_stochastic(self) -> bool:
        """Whether any of its roundings draws random numbers: none does."""
        return False

    @property
    def operand_formats(self) -> None:
        """The formats whose values it multiplies: any, for it rounds them itself."""

    def __str__(self) -> str:
        if self.channels is not None:
            return f"{self.low}, and {self.high} in {len(self.channels)} channels" if self.channels else str(self.low)
        behind = "" if self.activation == "identity" else f" with {self.activation}"
        return f"{self.low}, and {self.high} where the condition{behind} is above {self.tau:.4g}"


def checked_tau(tau: float) -> float:
    """A threshold of condition numbers.

    Raises:
        FormatError: it is no number of at least 0.
    """
    if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not tau >= 0:
        raise FormatError(f"tau is a number of at least 0, not {tau!r}")
    return math.inf if tau > sys.float_info.max else float(tau)


def _checked_channels(channels: tuple[int, ...]) -> tuple[int, ...]:
    numbers = tuple(channels) if isinstance(channels, (tuple, list)) else ()
    whole = all(type(number) is int and 0 <= number < 2**31 for number in numbers)
    if not isinstance(channels, (tuple, list)) or not whole or list(numbers) != sorted(set(numbers)):
        raise FormatError(f"two passes: channels are numbers from 0, ascending, each once; not {channels!r}")
    return numbers
