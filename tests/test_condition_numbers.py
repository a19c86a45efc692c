"""Condition numbers of activations: the definition by autograd, limits, and float64 functions to the bit."""

import math
import struct
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from precc.condition_numbers import ACTIVATIONS, activation_condition, inner_product_condition
from precc.errors import FormatError
from precc.float64_functions import _ERF, _MIDDLE, _TAIL, exp_minus, root, scaled_erfc, x_over_sinh

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda v: v,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "exp": torch.exp,
}
INF, NAN = math.inf, math.nan


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_named_ones_are_the_quotient_by_autograd(name: str) -> None:
    v = torch.cat([torch.linspace(-4, 4, 1601, dtype=torch.float64), double(-1e-6, 1e-6, -1e-3, 1e-3, 5.5)])
    v = v[v.abs() > 1e-9].requires_grad_()
    phi = FUNCTIONS[name](v)
    (slope,) = torch.autograd.grad(phi.sum(), v)
    wanted = torch.where(slope == 0, 0.0, (v * slope / phi).abs())
    torch.testing.assert_close(activation_condition(v, name), wanted.detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "values"),
    [  # at 0, -0, the smallest numbers, 1000, -1000, 1e200, inf, -inf, NaN
        ("identity", (1, 1, 1, 1, 1, 1, 1, 1, 1, NAN)),
        ("relu", (1, 1, 1, 0, 1, 0, 1, 1, 0, NAN)),
        ("tanh", (1, 1, 1, 1, 0, 0, 0, 0, 0, NAN)),
        ("sigmoid", (0, 0, 0, 0, 0, 1000, 0, 0, INF, NAN)),
        ("silu", (1, 1, 1, 1, 1, 999, 1, 1, INF, NAN)),
        ("gelu", (1, 1, 1, 1, 1, 1e6 - 2e-6, 1, 1, INF, NAN)),
        ("exp", (0, 0, 0, 0, 1000, 1000, 1e200, INF, INF, NAN)),
    ],
)
def test_limits(name: str, values: tuple[float, ...]) -> None:
    v = double(0.0, -0.0, 5e-324, -5e-324, 1000, -1000, 1e200, INF, -INF, NAN)
    torch.testing.assert_close(activation_condition(v, name), double(*values), rtol=1e-15, atol=1e-300, equal_nan=True)


def test_far_from_zero() -> None:
    v = torch.linspace(-30, 700, 7301, dtype=torch.float64)
    log_pdf = -v * v / 2 - math.log(2 * math.pi) / 2
    wanted = {
        "gelu": (1 + v * torch.exp(log_pdf - torch.special.log_ndtr(v))).abs(),
        "sigmoid": torch.where(v < 0, v.abs() / (1 + v.exp()), v * (-v).exp() / (1 + (-v).exp())),
        "tanh": torch.where(v == 0, 1, (2 * v / torch.sinh(2 * v)).abs()),
    }
    for name, expected in wanted.items():
        torch.testing.assert_close(activation_condition(v, name), expected, rtol=1e-11, atol=1e-12)


def test_functions_are_accurate() -> None:
    x = torch.cat([torch.logspace(-300, 2.84, 5001, dtype=torch.float64), torch.rand(20_000, dtype=torch.float64) * 10])
    pairs = (
        (exp_minus, torch.exp(-x), 51),
        (x_over_sinh, x / x.sinh(), 50),
        (root, x.sqrt(), 52),
        (scaled_erfc, torch.special.erfcx(x), 48),
    )
    for function, wanted, bits in pairs:
        torch.testing.assert_close(function(x), wanted, rtol=2.0**-bits + 2.0**-52, atol=0)


def test_roots_at_the_ends() -> None:
    x = double(0.0, 5e-324, 2.0**-1022, 2.0**-1020, 2.0**1023, 1.7e308, INF, NAN)
    wanted = double(0.0, 2.0**-511, 2.0**-511, 2.0**-510, math.sqrt(2.0**1023), math.sqrt(1.7e308), INF, NAN)
    torch.testing.assert_close(root(x), wanted, rtol=2.0**-51, atol=0, equal_nan=True)


def horner(x: float, coefficients: list[float]) -> float:
    total = coefficients[0]
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def scalar_exp_minus(x: float) -> float:
    if x >= 708:
        return 0.0
    steps = float(round(x * (1 / math.log(2))))
    rest = (steps * 6.93147180369123816490e-01 - x) + steps * 1.90821492927058770002e-10
    return horner(rest, [1 / math.factorial(n) for n in range(13, -1, -1)]) * 2.0**-steps


def scalar_root(x: float) -> float:
    if x == 0:
        return x
    (bits,) = struct.unpack("q", struct.pack("d", x))
    (near,) = struct.unpack("d", struct.pack("q", (bits >> 1) + (1023 << 51)))
    for _ in range(5):
        near = (near + x / near) * 0.5
    return float(near)


def scalar_x_over_sinh(x: float) -> float:
    if x < 1:
        return 1 / horner(x * x, [1 / math.factorial(2 * n + 1) for n in range(9, -1, -1)])
    power = scalar_exp_minus(x)
    return 2 * x * power / (1 - power * power) if power > 0 else 0.0


def scalar_scaled_erfc(x: float) -> float:
    def ratio(y: float, texts: tuple[str, str]) -> float:
        above, below = ([float(number) for number in text.split()] for text in texts)
        return horner(y, above) / horner(y, below)

    if x <= 0.46875:
        return (1 - x * ratio(x * x, _ERF)) / scalar_exp_minus(x * x)
    if x <= 4:
        return ratio(x, _MIDDLE)
    inverse = 1 / (x * x)
    return (1 / math.sqrt(math.pi) - inverse * ratio(inverse, _TAIL)) / x


def test_functions_equal_scalar_loops_with_any_strides() -> None:
    x = torch.cat([torch.rand(2000, dtype=torch.float64) * 2, torch.rand(1000, dtype=torch.float64) * 800])
    x = torch.cat([x, double(0.0, 0.46875, 1.0, 4.0, 707.9999, 708.0, 1e10)])
    pairs = (
        (exp_minus, scalar_exp_minus),
        (root, scalar_root),
        (x_over_sinh, scalar_x_over_sinh),
        (scaled_erfc, scalar_scaled_erfc),
    )
    for function, scalar in pairs:
        wanted = double(*(scalar(value) for value in x.tolist()))
        assert torch.equal(function(x), wanted)
        assert torch.equal(function(x[::3]), wanted[::3])
        assert torch.equal(function(x.expand(3, -1).t())[:, 1], wanted)


def test_a_function_of_the_user() -> None:
    v = torch.tensor([-1.0, 2.0])
    assert activation_condition(v, lambda x: x.abs() * 2).tolist() == [2.0, 4.0]
    for bad in (lambda x: x, lambda x: x.float().abs(), lambda x: x[:1].abs(), lambda x: 1.0):
        with pytest.raises(FormatError, match="returns float64 numbers"):
            activation_condition(v, bad)  # type: ignore[arg-type]
    for unknown in ("softmax", 3):
        with pytest.raises(FormatError, match="expected one of 'identity'"):
            activation_condition(v, unknown)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="tensor of floats"):
        activation_condition(torch.tensor([1]), "relu")


def test_condition_of_inner_products() -> None:
    v, magnitude = double(2.0, -0.5, 0.0, 0.0, INF, NAN, 1.0), double(3.0, 1.0, 2.0, 0.0, 1.0, 1.0, INF)
    assert inner_product_condition(v, magnitude).tolist() == [1.5, 2.0, INF, 1.0, INF, INF, INF]
