"""What rounding a tensor does to the distribution of its values: a divergence of two histograms.

``KL = sum_i p_i ln(p_i / q_i)`` in nats, p and q the shares of r equal bins over the range of the tensor, before and
after; what is rounded out of the range falls into the end bins. Each bin has half a count more (Jeffreys 1946), so no
share is 0 and the divergence is finite.
"""

import torch
from torch import Tensor

__all__ = ["histogram_divergence"]

#: Added to the count of each bin.
_PRIOR = 0.5


def histogram_divergence(values: Tensor, rounded: Tensor, bins: int) -> float:
    """The divergence, 0 for an empty tensor; one of a single value c has the range from 0 to 2 c.

    Args:
        values: finite.
        rounded: the same ones, rounded.
        bins: r.

    >>> values = torch.tensor([0.0, 0.0, 1.0, 1.0])
    >>> histogram_divergence(values, values, 2), round(histogram_divergence(values, torch.zeros(4), 2), 4)
    (0.0, 0.5108)
    """
    if not values.numel():
        return 0.0
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = min(0.0, 2 * low), max(0.0, 2 * low)
    before, after = (_shares(own, low, high, bins) for own in (values, rounded))
    return max(0.0, float((before * (before / after).log()).sum()))


def _shares(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    width = (high - low) / bins
    where = (values.flatten().double() - low) / width if width > 0.0 else torch.zeros(values.numel())
    counts = torch.bincount(where.long().clamp(0, bins - 1).cpu(), minlength=bins).double()
    return (counts + _PRIOR) / (counts.sum() + bins * _PRIOR)
