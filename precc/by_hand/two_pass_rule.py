"""The rule of products in two passes, for whatever is made of products of matrices."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.backends.cpp import compiled_or_tensor_ops
from precc.by_hand.magnitudes import Numerator, absolute_product, norm_product
from precc.by_hand.numerics import accumulated, checked_key
from precc.by_hand.product_arithmetic import ProductArithmetic
from precc.by_hand.selected_products import selected_product
from precc.condition_numbers import Activation, activation_condition, check_activation, inner_product_condition
from precc.errors import FormatError, member_of
from precc.formats import Format
from precc.rounding import slot_number

__all__ = ["Arithmetic", "Choice", "MatrixProduct", "Problem", "TwoPass", "compute"]

Arithmetic = ProductArithmetic | Format | str

#: How matrices [A, M, K] and [B, K, N] are multiplied; the last argument is the number of the first output.
MatrixProduct = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class TwoPass:
    """What two passes gave.

    Args:
        result: the product, in the dtype of the operands.
        recomputed: bool, in the shape of the result: which components are those of the high precision.
        condition: float64, in that shape: the estimates of ``kappa_phi * kappa_v``; None where `select` chose.
    """

    result: Tensor
    recomputed: Tensor
    condition: Tensor | None

    @property
    def share(self) -> float:
        """The fraction of components that was recomputed; 0 where there are none."""
        return float(self.recomputed.double().mean()) if self.recomputed.numel() else 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """A product, and how it is made of matrices.

    Args:
        operands: both.
        axes: of each operand the contracted dimension, and that of channels.
        shape: of the result.
        product: from rounded operands, and a function that multiplies matrices, to the result.
    """

    operands: tuple[Tensor, Tensor]
    axes: tuple[tuple[int, int], tuple[int, int]]
    shape: tuple[int, ...]
    product: Callable[[Tensor, Tensor, MatrixProduct], Tensor]

    def rounded(self, arithmetic: ProductArithmetic, key: int, name: str) -> tuple[Tensor, Tensor]:
        first, second = (
            compiled_or_tensor_ops(x.resolve_neg(), arithmetic.operands.row(axis=axis, channel=channel, slot=slot), key)
            for x, (axis, channel), slot in zip(
                self.operands, self.axes, (_slot(f"{name}.a"), _slot(f"{name}.b")), strict=True
            )
        )
        return first, second


@dataclass(frozen=True, slots=True)
class Choice:
    """What is recomputed: what has a condition above `tau`, or what is selected."""

    tau: float
    select: Tensor | None
    activation: Activation
    numerator: Numerator

    @classmethod
    def of(
        cls, tau: float | None, select: Tensor | None, activation: Activation, numerator: object, problem: Problem
    ) -> "Choice":
        if (tau is None) is (select is None):
            raise FormatError("pass tau, or select in its place")
        check_activation(activation)
        kind = member_of(Numerator, numerator, "unknown numerator of a condition number")
        if select is not None:
            _check_select(select, problem)
            return cls(math.inf, select, activation, kind)
        if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not tau >= 0:
            raise FormatError(f"tau is a number of at least 0, not {tau!r}")
        bound = math.inf if tau > sys.float_info.max else float(tau)
        return cls(bound, None, activation, kind)

    def condition(self, problem: Problem, v: Tensor, a: Tensor, b: Tensor, low: ProductArithmetic) -> Tensor:
        """The estimates, from the low result and the low operands."""
        sizes = absolute_product if self.numerator is Numerator.ABSOLUTE else norm_product
        magnitude = problem.product(a.double(), b.double(), lambda left, right, first: sizes(left, right))
        fmt = low.accumulator.format
        inside = (v > fmt.low) & (v < fmt.max)
        found = activation_condition(v, self.activation) * inner_product_condition(v, magnitude)
        return torch.where(inside & ~found.isnan(), found, math.inf)


def compute(problem: Problem, low: Arithmetic, high: Arithmetic, choice: Choice, seed: int | None) -> TwoPass:
    low, high = ProductArithmetic.of(low), ProductArithmetic.of(high)
    draws = low.is_stochastic or high.is_stochastic
    if seed is not None and not draws:
        raise FormatError("a seed is for roundings that draw; neither low nor high does")
    key = checked_key(seed) if draws else 0
    with torch.no_grad():
        a, b = problem.rounded(low, key, "low")
        result = problem.product(a, b, _whole(low, key))
        condition: Tensor | None = None
        if choice.select is None:
            condition = choice.condition(problem, result, a, b, low)
            again = condition > choice.tau
        else:
            again = choice.select.clone()
        if bool(again.any()):
            a, b = problem.rounded(high, key, "high")
            result = torch.where(again, problem.product(a, b, _selected(high, key, again)), result)
    return TwoPass(result, again, condition)


def _slot(name: str) -> int:
    return slot_number(f"two_pass/{name}")


def _whole(arithmetic: ProductArithmetic, key: int) -> MatrixProduct:
    def multiply(a: Tensor, b: Tensor, first: int) -> Tensor:
        return accumulated(a, b, arithmetic.accumulator, key, slot=_slot("low.sum"), first=first)

    return multiply


def _selected(arithmetic: ProductArithmetic, key: int, select: Tensor) -> MatrixProduct:
    chosen = select.flatten()

    def multiply(a: Tensor, b: Tensor, first: int) -> Tensor:
        shape = (b.shape[0], a.shape[1], b.shape[2])
        mask = chosen[first : first + math.prod(shape)].reshape(shape)
        return selected_product(a, b, mask, arithmetic.accumulator, key, slot=_slot("high.sum"), first=first)

    return multiply


def _check_select(select: Tensor, problem: Problem) -> None:
    device = problem.operands[0].device
    dense = isinstance(select, Tensor) and select.layout is torch.strided
    if not dense or (select.dtype, select.device) != (torch.bool, device):
        raise FormatError(f"select is a bool tensor on {device}, not {getattr(select, 'dtype', type(select).__name__)}")
    if tuple(select.shape) != tuple(problem.shape):
        raise FormatError(f"select has the shape {list(select.shape)}, but the result has {list(problem.shape)}")
