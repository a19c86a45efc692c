"""How large the terms of a sum are, beside which its value may be small: numerators of condition numbers.

The functions take batches of matrices, ``a`` [A, M, K] and ``b`` [B, K, N], matrix i of ``b`` with ``a[i % A]``, both
float64, and return [B, M, N].
"""

import math
from enum import Enum

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.kernels import Accumulate
from precc.float64_functions import root

__all__ = ["Numerator", "absolute_product", "magnitude", "norm_product", "vector_norms"]

_FLOAT64 = Accumulator(format="float64")


class Numerator(Enum):
    """What stands for the magnitude of the terms of ``c_ij = sum over k of a_ik b_kj``; all in float64, k ascending."""

    ABSOLUTE = "absolute"  #: ``sum over k of |a_ik| |b_kj|``: a second product
    NORMS = "norms"  #: ``||a_i|| ||b_j||``, never less (Cauchy and Schwarz) but for rounding; a sum a row and column


def magnitude(numerator: Numerator, a: Tensor, b: Tensor, accumulate: Accumulate) -> Tensor:
    """What the numerator says, with sums by `accumulate`."""
    return absolute_product(a, b, accumulate) if numerator is Numerator.ABSOLUTE else norm_product(a, b)


def absolute_product(a: Tensor, b: Tensor, accumulate: Accumulate) -> Tensor:
    """``|a| |b|``; each sum as float64 additions give it, k ascending."""
    left, right = a.abs(), b.abs()
    return _per_item(left, b) @ right if _sums_are_exact(left, right) else accumulate(left, right, _FLOAT64)


def norm_product(a: Tensor, b: Tensor) -> Tensor:
    """The rows' times the columns' norms: sums of squares as float64 additions give them, and `root` of these.

    Each row and column is first divided by the power of two below its largest magnitude: no square underflows.
    """
    rows, columns = vector_norms(a.transpose(1, 2)), vector_norms(b)
    return _per_item(rows[:, :, None], b) * columns[:, None, :]


def _per_item(a: Tensor, b: Tensor) -> Tensor:
    """`a` with a matrix for each of `b`."""
    return a if a.shape[0] == b.shape[0] else a.repeat(b.shape[0] // max(1, a.shape[0]), 1, 1)


def vector_norms(x: Tensor) -> Tensor:
    """The norms of the vectors along dimension 1 of [A, K, N], float64: [A, N]."""
    if not x.shape[1]:
        return x.new_zeros(x.shape[0], x.shape[2])
    exponents = torch.frexp(x.abs().amax(1, keepdim=True)).exponent - 1
    scaled = torch.ldexp(torch.ldexp(x, -(exponents // 2)), -(exponents - exponents // 2))
    norms = root(_sums_of_squares(scaled))
    return torch.ldexp(torch.ldexp(norms, exponents[:, 0] // 2), (exponents - exponents // 2)[:, 0])


def _sums_of_squares(x: Tensor) -> Tensor:
    total = x.new_zeros(x.shape[0], x.shape[2])
    for k in range(x.shape[1]):
        total = total + x[:, k] * x[:, k]
    return total


def _sums_are_exact(a: Tensor, b: Tensor) -> bool:
    """Whether no sum can need more than float64's 53 bits, so that any order of its terms gives the same."""
    bits = (53 - math.ceil(math.log2(max(1, a.shape[-1])))) // 2
    return _has_bits(a, bits) and _has_bits(b, bits)


def _has_bits(x: Tensor, bits: int) -> bool:
    """Whether all values are multiples of ``2**-bits`` of a power of two above the largest magnitude."""
    if not x.numel():
        return True
    largest = float(x.abs().max())
    exponent = math.frexp(largest)[1]
    if not math.isfinite(largest) or abs(exponent) > 400:
        return False
    steps = x * 2.0 ** (bits - exponent)
    return torch.equal(steps, steps.round())
