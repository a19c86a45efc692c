"""Condition numbers of a node's elements, and what is kept of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Condition", "conditions_of"]


@dataclass(frozen=True, slots=True)
class Condition:
    """Componentwise relative condition numbers ``kappa_i = sum_j |x_j dy_i/dx_j| / |y_i|`` of one result y of an op.

    The sum is over all elements of all floating-point arguments, each perturbed by itself: relative errors of at most
    epsilon in all of them move y_i by at most ``kappa_i * epsilon`` of itself, to first order (Higham 2002, 1.6). Of
    products it is ``|A||B| / |A B|``, that of their terms: errors of A and of B each count once (Higham 2002, 3.1 and
    3.5). ``kappa_i = 0`` where the numerator is 0, infinite where y_i alone is. Mean, maximum, quantiles and root mean
    square are of the finite ones; NaN if there is none.

    Args:
        mean: of the finite ones, as all up to `rms`.
        maximum: the largest.
        median: the smallest that at least half of them do not exceed.
        p90: likewise of nine in ten.
        p99: of 99 in a hundred.
        rms: root mean square.
        infinite: share of elements with y_i = 0 and another numerator.
        nonfinite: share of elements that are no finite numbers, or whose kappa is NaN, whichever is larger.
        elements: how many were looked at, a sample.
        rule: by which they were found, with its source.
        bound: whether they are upper bounds, not the numbers themselves.
    """

    mean: float
    maximum: float
    median: float
    p90: float
    p99: float
    rms: float
    infinite: float
    nonfinite: float
    elements: int
    rule: str
    bound: bool


def conditions_of(found: Sequence[tuple[Tensor, Tensor, str, bool]]) -> list[Condition]:
    """The records of many nodes, in order.

    Args:
        found: of each the condition numbers, a sample of its values, the rule, and whether it is a bound.

    >>> kappas = torch.tensor([1.0, 3.0, torch.inf, 2.0], dtype=torch.float64)
    >>> [record] = conditions_of([(kappas, torch.ones(4), "by hand", False)])
    >>> record.mean, record.maximum, record.median, record.infinite
    (2.0, 3.0, 2.0, 0.25)
    """
    numbers = _by_length([kappas for kappas, *_ in found], _numbers)
    shares = _by_length([values for _, values, *_ in found], _nonfinite)
    records = []
    for (kappas, _, rule, bound), own, (share,) in zip(found, numbers, shares, strict=True):
        *finite, infinite, nonfinite = own
        mean, maximum, median, p90, p99, rms = finite
        shares_of = (infinite, max(nonfinite, share))
        records.append(Condition(mean, maximum, median, p90, p99, rms, *shares_of, kappas.numel(), rule, bound))
    return records


def _by_length(rows: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[list[float]]:
    """A function from ``[rows, n]`` to ``[rows, numbers]`` of each: those of one length together, which is faster."""
    groups: dict[tuple[int, torch.dtype], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault((row.numel(), row.dtype), []).append(position)
    found: list[list[float]] = [[] for _ in rows]
    for positions in groups.values():
        results = function(torch.stack([rows[position].flatten().cpu() for position in positions]))
        for position, own in zip(positions, results.tolist(), strict=True):
            found[position] = own
    return found


def _nonfinite(values: Tensor) -> Tensor:
    return _share(~values.isfinite())


def _share(chosen: Tensor) -> Tensor:
    return chosen.sum(1, keepdim=True, dtype=torch.float64) / max(1, chosen.shape[1])


def _numbers(kappas: Tensor) -> Tensor:
    """Mean, maximum, three quantiles, root mean square, and the shares of infinite and undefined ones."""
    if not kappas.shape[1]:
        return torch.tensor([math.nan] * 6 + [0.0] * 2, dtype=torch.float64).expand(len(kappas), -1)
    ordered = torch.from_numpy(np.sort(kappas.numpy(), axis=1))  # infinite ones are last but for NaN
    infinite, undefined = ordered == math.inf, ordered.isnan()
    left_out = infinite | undefined
    count = (~left_out).sum(1, keepdim=True)
    ranks = [((count * q).ceil().long() - 1).clamp_min(0) for q in (1.0, 0.5, 0.9, 0.99)]
    picked = ordered.gather(1, torch.cat(ranks, 1))
    scale = torch.where((picked[:, :1] > 0) & (count > 0), picked[:, :1], 1.0)  # so that no square overflows
    scaled = ordered.masked_fill_(left_out, 0.0) / scale
    sums = torch.cat([scaled.sum(1, keepdim=True), scaled.square().sum(1, keepdim=True)], 1) / count
    known = torch.cat([sums[:, :1] * scale, picked, sums[:, 1:].sqrt() * scale], 1)
    return torch.cat([torch.where(count > 0, known, math.nan), _share(infinite), _share(undefined)], 1)
