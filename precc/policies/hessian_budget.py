"""Formats of weights by the trace of the Hessian."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from precc.analysis.weight import Weight
from precc.errors import AnalysisError
from precc.policies.weight_budget import WeightBudget
from precc.precision import Precision

__all__ = ["HessianBudget"]


@dataclass(frozen=True, kw_only=True, repr=False)
class HessianBudget(WeightBudget):
    """The formats of weights, within an average of storage bits, that raise the loss least to second order.

    Minimises ``1/2 sum_l |tr H_l| / n_l * ||Q_b(W_l) - W_l||**2``: H_l is the second derivative of the loss by weight
    l, taken as its mean diagonal (HAWQ-V2: Dong et al. 2020, arXiv 1911.03852), n_l the number of its elements. The
    average of bits as a constraint of an integer program is that of HASB (Double Rounding), whose printed objective
    ``sum_l (tr H_l / n_l) b_l``, minimised, gives the most sensitive weights the *fewest* bits; with the error of b_l
    bits in the place of b_l it gives them the most.

    A trace is an estimate from the probes of the analysis, better with more: ``AnalysisOptions(probes=16)``. The
    Hessian of a batch is not positive: a negative trace counts by its magnitude, for at 0 rounding that weight would be
    free, and as it is a gain. The plan's ``provenance.budget`` names the weights with one.
    `precc.analysis.weight.weights_of` has traces with their standard errors.

    Args: as `WeightBudget`: ``average_bits``, ``candidates``, ``others``, ``solver``.

    >>> HessianBudget(4, candidates=["e2m1", "e4m3"])
    HessianBudget(candidates=['float4_e2m1fn/tensor:float32', 'float8_e4m3fn/tensor:float32'], average_bits=4)
    """

    def _error(self, weight: Weight, precision: Precision) -> float:
        return abs(weight.mean_curvature) * weight.squared_error(precision) / 2

    def _check(self, weights: Sequence[Weight]) -> None:
        for own in weights:
            if not math.isfinite(own.trace.value):
                raise AnalysisError(f"the second derivative of the loss by {own.name} is not finite: it has no trace")

    def _said(self, weights: Sequence[Weight]) -> str:
        negative = [own.name for own in weights if own.trace.value < 0]
        told = f"; negative traces, counted by magnitude: {', '.join(negative)}" if negative else ""
        return super()._said(weights) + told
