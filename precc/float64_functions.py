"""Functions that are specified to the bit: float64 operations of IEEE 754 in a fixed order, each rounded by itself.

A library's exp, and torch's square root by MKL, differ in the last bit from one processor to the next, and with it
whatever is decided by a comparison. These give the same bits on every device, with any strides, and in a scalar loop.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["exp_minus", "root", "scaled_erfc", "x_over_sinh"]

# The upper part has 32 zeros at its end, so that its products with whole numbers below 2**21 are exact (fdlibm).
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_EXP = [1 / math.factorial(n) for n in range(13, -1, -1)]
_SINH = [1 / math.factorial(2 * n + 1) for n in range(9, -1, -1)]
_FARTHEST = 708.0  # e**-x is a normal number up to here

# Rational approximations (Cody 1969), numerator and denominator, the highest power first: of erf x / x in x**2 up to
# 0.46875, of e**(x**2) erfc x in x up to 4, and beyond it of what that lacks to 1 / (x sqrt(pi)), in 1 / x**2.
_ERF = (
    "1.85777706184603153e-1 3.16112374387056560 1.13864154151050156e2 3.77485237685302021e2 3.20937758913846947e3",
    "1 2.36012909523441209e1 2.44024637934444173e2 1.28261652607737228e3 2.84423683343917062e3",
)
_MIDDLE = (
    "2.15311535474403846e-8 5.64188496988670089e-1 8.88314979438837594 6.61191906371416295e1 2.98635138197400131e2 "
    "8.81952221241769090e2 1.71204761263407058e3 2.05107837782607147e3 1.23033935479799725e3",
    "1 1.57449261107098347e1 1.17693950891312499e2 5.37181101862009858e2 1.62138957456669019e3 "
    "3.29079923573345963e3 4.36261909014324716e3 3.43936767414372164e3 1.23033935480374942e3",
)
_TAIL = (
    "1.63153871373020978e-2 3.05326634961232344e-1 3.60344899949804439e-1 1.25781726111229246e-1 "
    "1.60837851487422766e-2 6.58749161529837803e-4",
    "1 2.56852019228982242 1.87295284992346725 5.27905102951428412e-1 6.05183413124413191e-2 2.33520497626869185e-3",
)


def exp_minus(x: Tensor) -> Tensor:
    """``e**-x`` of ``x >= 0`` in float64, with a relative error below 2**-51; 0 from 708 on.

    >>> exp_minus(torch.tensor([0.0, 1.0, 800.0], dtype=torch.float64))
    tensor([1.0000, 0.3679, 0.0000], dtype=torch.float64)
    """
    near = torch.where(x < _FARTHEST, x, 0.0)
    steps = (near * (1 / math.log(2))).round()
    rest = (steps * _LN2_HIGH - near) + steps * _LN2_LOW
    power = ((1023 - steps.long()) << 52).view(torch.float64)
    return torch.where(x < _FARTHEST, _polynomial(rest, _EXP) * power, torch.where(x.isnan(), x, 0.0))


def root(x: Tensor) -> Tensor:
    """The square root of ``x >= 0`` in float64, with a relative error below 2**-52; of 2**-1022 where x is between.

    Five of Heron's steps from half the exponent, which is at most 7 % off.

    >>> root(torch.tensor([0.0, 2.0, 1e300], dtype=torch.float64)).tolist()
    [0.0, 1.414213562373095, 1e+150]
    """
    normal = x.clamp(min=2.0**-1022)
    near = ((normal.view(torch.int64) >> 1) + (1023 << 51)).view(torch.float64)
    for _ in range(5):
        near = (near + normal / near) * 0.5
    return torch.where((x > 0) & (x < math.inf), near, x)


def x_over_sinh(x: Tensor) -> Tensor:
    """``x / sinh x`` of ``x >= 0`` in float64, with a relative error below 2**-50; 1 at 0, 0 from 708 on."""
    power = exp_minus(x)
    far = torch.where(power > 0, 2 * x * power / (1 - power * power), power)
    return torch.where(x < 1, 1 / _polynomial(x * x, _SINH), far)


def scaled_erfc(x: Tensor) -> Tensor:
    """``e**(x**2) erfc x`` of ``x >= 0`` in float64, with a relative error below 2**-48 (Cody 1969)."""
    square = x * x
    small = (1 - x * _ratio(square, _ERF)) / exp_minus(torch.where(x < 1, square, 0.0))
    inverse = 1 / square
    tail = (1 / math.sqrt(math.pi) - inverse * _ratio(inverse, _TAIL)) / x
    return torch.where(x <= 0.46875, small, torch.where(x <= 4, _ratio(x, _MIDDLE), tail))


def _ratio(x: Tensor, coefficients: tuple[str, str]) -> Tensor:
    above, below = ([float(number) for number in part.split()] for part in coefficients)
    return _polynomial(x, above) / _polynomial(x, below)


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """By Horner's rule, the highest power first."""
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total
