"""Condition numbers of a node's elements, and what is kept of them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Condition", "summaries"]


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


def summaries(kappas: Tensor, values: Tensor) -> list[tuple[Any, ...]]:
    """The numbers of `Condition` up to `elements`, of rows of condition numbers and of samples of the values.

    >>> kappas = torch.tensor([[1.0, 3.0, torch.inf, 2.0]], dtype=torch.float64)
    >>> [(mean, maximum, median, *_, infinite, nonfinite, elements)] = summaries(kappas, torch.ones(1, 4))
    >>> mean, maximum, median, infinite
    (2.0, 3.0, 2.0, 0.25)
    """
    found = _numbers(kappas.cpu())
    found[:, -1:] = torch.maximum(found[:, -1:], _nonfinite(values).cpu())
    return [(*own, kappas.shape[1]) for own in found.tolist()]


def _nonfinite(values: Tensor) -> Tensor:
    if values.sum(1).isfinite().all():  # then they all are
        return torch.zeros(len(values), 1, dtype=torch.float64)
    return _share(~values.isfinite())


def _share(chosen: Tensor) -> Tensor:
    return chosen.sum(1, keepdim=True, dtype=torch.float64) / max(1, chosen.shape[1])


def _numbers(kappas: Tensor) -> Tensor:
    """Mean, maximum, three quantiles, root mean square, and the shares of infinite and undefined ones."""
    if not kappas.shape[1]:
        return torch.tensor([math.nan] * 6 + [0.0] * 2, dtype=torch.float64).repeat(len(kappas), 1)
    ordered = torch.from_numpy(np.sort(kappas.numpy(), axis=1))
    infinite = undefined = torch.zeros(len(kappas), 1, dtype=torch.float64)
    count = torch.full((len(kappas), 1), kappas.shape[1])
    if not ordered[:, -1].isfinite().all():  # infinite ones are last but for NaN
        left_out = ~ordered.isfinite()
        infinite, undefined, count = (
            _share(ordered == math.inf),
            _share(ordered.isnan()),
            (~left_out).sum(1, keepdim=True),
        )
        ordered.masked_fill_(left_out, 0.0)
    ranks = [((count * q).ceil().long() - 1).clamp_min(0) for q in (1.0, 0.5, 0.9, 0.99)]
    picked = ordered.gather(1, torch.cat(ranks, 1))
    scale = torch.where((picked[:, :1] > 0) & (count > 0), picked[:, :1], 1.0)  # so that no square overflows
    scaled = ordered / scale
    sums = torch.cat([scaled.sum(1, keepdim=True), scaled.square_().sum(1, keepdim=True)], 1) / count
    known = torch.cat([sums[:, :1] * scale, picked, sums[:, 1:].sqrt() * scale], 1)
    return torch.cat([torch.where(count > 0, known, math.nan), infinite, undefined], 1)
