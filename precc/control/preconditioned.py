"""Squares of vectors of all parameters in the metric of a preconditioner."""

import math
from collections.abc import Mapping

from torch import Tensor

__all__ = ["difference", "square"]

Vector = Mapping[str, Tensor]


def square(vector: Vector, metric: Vector, *, inverse: bool = False) -> float:
    """``<v, P v>``, or with its inverse ``<v, v / P>``, in double precision; parameters that have no P have 1."""
    terms = []
    for name, own in vector.items():
        each = own.detach().double().square()
        weights = metric.get(name)
        if weights is not None:
            each = each / weights.double() if inverse else each * weights.double()
        terms.append(each.sum().item())
    return math.fsum(terms) if all(map(math.isfinite, terms)) else math.nan


def difference(first: Vector, second: Vector) -> dict[str, Tensor]:
    """Of the parameters that both have."""
    return {name: own.detach().double() - second[name].double() for name, own in first.items() if name in second}
