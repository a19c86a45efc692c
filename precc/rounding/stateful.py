"""Roundings that look at more than the value: the previous rounding, or a variance. Tensor operations on any device."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from precc.errors import FormatError
from precc.rounding.modes import RoundingMode
from precc.rounding.random_bits import hashed
from precc.rounding.row import Row
from precc.rounding.scales import divisor_of, scale_of
from precc.rounding.tensor_ops import carrier_of, round_elements

__all__ = ["round_corrected", "round_with_hysteresis"]


def round_with_hysteresis(x: Tensor, row: Row, previous: Tensor) -> Tensor:
    """Down on the grid where ``x > previous``, else up: a value that hovers about a midpoint stays where it was.

    ``Q_t = floor(w_t) if w_t > Q_(t-1) else ceil(w_t)`` on the grid (FP134; Lee et al. 2022).
    """
    values, scale, divisor = _scaled(x, row)
    down = x.double() > previous.double()
    away = torch.where(values < 0, down, ~down)
    return (round_elements(values / divisor, row, away=away) * scale).to(x.dtype)


def round_corrected(mean: Tensor, row: Row, variance: Tensor | float, key: int) -> Tensor:
    """A draw on the grid with this mean and variance (Zhang, Wilson and De Sa 2022, algorithm 2: Q^vc).

    With the quantum D at the value: above ``D**2 / 4``, the largest variance of stochastic rounding, Gaussian noise
    makes up the rest; below it, a draw of +-D. The mean is exact, and the variance unless it is below what stochastic
    rounding of the mean has by itself. Gaussian numbers are Box-Muller's of the hash, in float64.
    """
    values, scale, divisor = _scaled(mean, row)
    means, scales = values.double() / divisor.double(), scale.double()
    wanted = torch.as_tensor(variance, device=mean.device).double() / scales**2
    wanted = torch.where(scales == 0, 0.0, wanted).expand(mean.shape)
    noise, uniform = _draws(mean, row, key)
    largest = _quantum(means, row) ** 2 / 4
    noisy = means + (wanted - largest).clamp(min=0).sqrt() * noise
    drawn = torch.where(wanted > largest, _noisy(noisy, row, uniform), _plain(means, wanted, row, key, uniform))
    limited = round_elements(drawn.to(values.dtype), replace(row, mode=RoundingMode.NEAREST_EVEN))
    return (limited * scale).to(mean.dtype)


def _scaled(x: Tensor, row: Row) -> tuple[Tensor, Tensor, Tensor]:
    values = x.to(carrier_of(x, row).dtype)
    scale = scale_of(values, row)
    return values, scale, divisor_of(scale)


def _noisy(x: Tensor, row: Row, uniform: Tensor) -> Tensor:
    quantum = _quantum(x, row)
    nearest = _rounded(x, row, RoundingMode.NEAREST_EVEN)
    rest = x - nearest
    return nearest + torch.sign(rest) * _three_way(rest.abs(), quantum**2 / 4, quantum, uniform)


def _plain(mean: Tensor, wanted: Tensor, row: Row, key: int, uniform: Tensor) -> Tensor:
    quantum = _quantum(mean, row)
    rounded = _rounded(mean, row, RoundingMode.STOCHASTIC, key)
    rest = mean - rounded
    share = rest.abs() / quantum
    own = (1 - share) * rest**2 + share * (torch.sign(rest) * quantum - rest) ** 2
    return rounded + _three_way(torch.zeros_like(rest), (wanted - own).clamp(min=0), quantum, uniform)


def _three_way(mean: Tensor, variance: Tensor, quantum: Tensor, uniform: Tensor) -> Tensor:
    """A quantum up, down or nothing, with this mean and variance."""
    up = (variance + mean**2 + mean * quantum) / (2 * quantum**2)
    down = (variance + mean**2 - mean * quantum) / (2 * quantum**2)
    return torch.where(uniform < up, quantum, torch.where(uniform < up + down, -quantum, 0.0))


def _quantum(x: Tensor, row: Row) -> Tensor:
    exponent = torch.frexp(x.abs())[1] - 1
    exponent = torch.where(x == 0, row.grid.k_min, exponent)
    k = torch.where(exponent < row.grid.emin, row.grid.k_min, exponent - row.grid.mantissa_bits)
    return torch.exp2(k.double())


def _rounded(x: Tensor, row: Row, mode: RoundingMode, key: int = 0) -> Tensor:
    return round_elements(x, replace(row, mode=mode, random_bits=31), key)


def _draws(like: Tensor, row: Row, key: int) -> tuple[Tensor, Tensor]:
    """Gaussian and uniform numbers, apart from those of stochastic rounding."""
    if row.power or row.shift:
        raise FormatError("variance_corrected rounding needs a grid with a quantum: a float or fixed-point format")
    streams = (hashed(like.numel(), key, row.slot + stage, like.device) for stage in (1, 2, 3))
    first, second, third = ((stream.double() + 0.5) / 2.0**32 for stream in streams)
    gaussian = (-2 * first.log()).sqrt() * torch.cos(2 * math.pi * second)
    return gaussian.reshape(like.shape), third.reshape(like.shape)
