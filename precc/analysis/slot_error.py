"""The error of one slot, or of one sum, by itself: what a plan's error is nearly the sum of."""

from dataclasses import dataclass

__all__ = ["SlotError"]


@dataclass(frozen=True, slots=True)
class SlotError:
    """What one precision in one slot, or one accumulator, does to a step.

    Args:
        loss_mean: mean of the loss error; absolute.
        loss_variance: of the loss error.
        gradient: mean square of the norm of the gradient's error, relative to that of the gradient, without what flips.
        mean_square: of the errors of the values, corrected as the record of calibrations says; 0 in the backward.
        lost: share of the slot's sum of squares that becomes 0 or lies beyond the ends.
        coherent: what of `gradient` comes from the means of errors, which are alike in all batches.
    """

    loss_mean: float
    loss_variance: float
    gradient: float
    mean_square: float
    lost: float
    coherent: float = 0.0
