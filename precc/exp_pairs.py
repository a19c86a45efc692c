"""e**x as a significand and an exponent that no float32 argument overflows, and the softmax made of such pairs.

``e**x = m 2**n``: n is the integer nearest to ``x log2 e``, as float64 (float32 has not the integers beyond 2**24, and
neighbours there would become one), t is ``x - n ln 2`` of magnitude ``ln 2 / 2``, and m a polynomial of t in float32. A
sum of pairs is a pair again, ``m_a 2**(n_a - n) + m_b 2**(n_b - n)`` with n the larger exponent: sums need no pass that
finds the maximum first (two-pass softmax: Dukhan and Ablavatski 2020, arXiv 2001.04438). Sums are float64.
"""

import math

import torch
from torch import Tensor

__all__ = ["COEFFICIENTS", "HALF_LN2", "LEAST", "LN2_HIGH", "LN2_LOW", "LOG2_E", "exp_pair", "softmax_of_pairs"]

LOG2_E = 1 / math.log(2)
#: In two parts, the upper one of 21 bits: its products with integers below 2**32 are exact in float64.
LN2_HIGH = float.fromhex("0x1.62e43p-1")
LN2_LOW = float.fromhex("-0x1.05c610ca86c39p-29")
HALF_LN2 = 0.34657359
#: Of e**t for ``|t| <= ln 2 / 2``, the constant first; float32 numbers, relative error below 2**-28.
COEFFICIENTS = tuple(
    float.fromhex(number)
    for number in (
        "0x1p0",
        "0x1p0",
        "0x1.fffffcp-2",
        "0x1.555494p-3",
        "0x1.5558bep-5",
        "0x1.123856p-7",
        "0x1.6a3d04p-10",
    )
)
#: The exponent of a zero: below that of every float32.
LEAST = -1e39


def exp_pair(x: Tensor) -> tuple[Tensor, Tensor]:
    """``e**x`` of float32 values: m as float32 (0 for -inf, NaN for inf and NaN), n as float64."""
    wide = x.double()
    n = torch.floor(wide * LOG2_E + 0.5)
    t = ((wide - n * LN2_HIGH) - n * LN2_LOW).float()
    t = torch.where(t > HALF_LN2, HALF_LN2, torch.where(t < -HALF_LN2, -HALF_LN2, t))
    m = torch.full_like(t, COEFFICIENTS[-1])
    for coefficient in COEFFICIENTS[-2::-1]:
        m = m * t + coefficient
    finite, zero = x.isfinite(), x == -math.inf
    n = torch.where(zero, n.new_tensor(LEAST), torch.where(finite, n, 0.0))
    return torch.where(finite, m, torch.where(zero, 0.0, math.nan)), n


def softmax_of_pairs(x: Tensor) -> Tensor:
    """The softmax along the last dimension, of which there is at least one, in the dtype of `x`: 16 bits or float32.

    The sums are torch's, of float64 numbers: in another order a last bit may differ.
    """
    m, n = exp_pair(x.float())
    largest = n.amax(-1, keepdim=True)
    total = (m.double() * _power_of_two((n - largest).clamp(min=-1000))).sum(-1, keepdim=True)
    quotient = (m.double() * (1 / total)).float()
    steps = (n - largest).clamp(min=-252)
    half = torch.floor(steps * 0.5)  # in two factors: each is a normal number
    return (quotient * _power_of_two(half).float() * _power_of_two(steps - half).float()).to(x.dtype)


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent.long() + 1023) << 52).view(torch.float64)
