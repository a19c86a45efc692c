"""ALRS: the learning rate of quantisation scales, by the width that they are trained for.

In a training of several widths, scales of narrow ones have larger and wilder gradients. With h bits the widest width,
``D = h - b``, and the gradients of the scales s_i of L layers,

    rate_b = eta_b * max(0, rate - 1/L * sum_i min(max |clip(ds_i, 1)|, 1))
    eta_b  = 10**(-D/2) for even D, 5 * 10**(-(D+1)/2) for odd D:     1, 0.5, 0.1, 0.05, 0.01 ... for D = 0, 1, 2, 3, 4

The clip is of values, so it and the outer minimum are one. The source does not say what happens where the parenthesis
is negative, as it is for any rate below the mean gradient: here the rate is then 0, and the scales wait.

Source: Huang et al., Double Rounding (2024), Adaptive Learning Rate Scaling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from precc.checks import checked_count
from precc.errors import ControllerError

__all__ = ["ALRSRule"]


@dataclass(frozen=True, slots=True)
class ALRSRule:
    """The rule, for one widest width.

    Args:
        highest_bits: of the widest width, h.

    Raises:
        ControllerError: no whole number above 0.

    >>> rule = ALRSRule(8)
    >>> [rule.eta(bits) for bits in (8, 7, 6, 4)], rule.rate(0.75, 8, [0.25, 2.0])
    ([1.0, 0.5, 0.1, 0.01], 0.125)
    """

    highest_bits: int

    def __post_init__(self) -> None:
        checked_count("highest_bits", self.highest_bits, 1)

    def eta(self, bits: int) -> float:
        """The factor of a width.

        Raises:
            ControllerError: it is none, or wider than the widest.
        """
        if checked_count("bits", bits, 1) > self.highest_bits:
            raise ControllerError(f"{bits} bits are more than the highest, {self.highest_bits}")
        apart = self.highest_bits - bits
        return (5.0 if apart % 2 else 1.0) / float(10 ** ((apart + 1) // 2))

    def rate(self, rate: float, bits: int, magnitudes: Sequence[float]) -> float:
        """The learning rate of a step.

        Args:
            rate: of the optimizer.
            bits: of the width that the gradients are of.
            magnitudes: the largest of each layer's gradients; one that is not finite counts as 1, as it is clipped.
        """
        clipped = [min(own, 1.0) if own == own else 1.0 for own in magnitudes]
        mean = math.fsum(clipped) / len(clipped) if clipped else 0.0
        return self.eta(bits) * max(0.0, rate - mean)
