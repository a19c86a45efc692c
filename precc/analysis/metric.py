"""The norm of a vector of all parameters: the 2-norm, or that of a diagonal metric."""

import math
from collections.abc import Mapping

from torch import Tensor

__all__ = ["metric_norm"]


def metric_norm(vector: Mapping[str, Tensor], metric: Mapping[str, Tensor]) -> float:
    """``sqrt(sum of M v**2)`` in float64; parameters that the metric does not name have M = 1."""
    squares = {name: own.detach().double().square() for name, own in vector.items()}
    weighted = (own * metric[name] if name in metric else own for name, own in squares.items())
    return math.sqrt(sum(float(own.sum()) for own in weighted))
