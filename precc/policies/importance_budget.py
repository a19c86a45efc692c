"""Formats of weights by the first derivative of the loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from precc.analysis.weight import Weight
from precc.errors import AnalysisError
from precc.policies.weight_budget import WeightBudget
from precc.precision import Precision

__all__ = ["ImportanceBudget"]


@dataclass(frozen=True, kw_only=True, repr=False)
class ImportanceBudget(WeightBudget):
    """The formats of weights, within an average of storage bits, that keep the most important ones finest.

    Minimises ``sum_l I_l ||Q_b(W_l) - W_l|| / ||W_l||`` with the importance ``I_l = sum(|w dL/dw|)``. If all elements
    of a weight err by a share r of themselves, whatever the signs, the loss changes by no more than ``r I_l`` to first
    order; r is taken as the root mean square of what a format does to this very tensor, which tells formats of equal
    width apart, as 2**-b does not. It knows no second order: near a minimum, where dL/dw is small and mostly noise of
    the batch, `HessianBudget` has better reasons.

    The source (importance-based mixed precision of gradient-based post-training quantisation) leaves its definition
    open: this is a stand-in. Of two candidates it keeps the more important weights an element in the wider one.

    Args: as `WeightBudget`: ``average_bits``, ``candidates``, ``others``, ``solver``.

    >>> ImportanceBudget(4, others="bf16")
    ImportanceBudget(average_bits=4, others='bfloat16')
    """

    def _error(self, weight: Weight, precision: Precision) -> float:
        if not weight.square:
            return 0.0
        return weight.importance * math.sqrt(weight.squared_error(precision) / weight.square)

    def _check(self, weights: Sequence[Weight]) -> None:
        for own in weights:
            if not math.isfinite(own.importance):
                raise AnalysisError(f"the derivative of the loss by {own.name} is not finite: it has no importance")
