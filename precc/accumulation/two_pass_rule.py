"""The rule of products in two passes, for whatever is made of products of matrices."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.accumulation.kernels import Kernels
from precc.accumulation.magnitudes import Numerator, magnitude
from precc.accumulation.patches import Patches
from precc.accumulation.product_arithmetic import ProductArithmetic
from precc.accumulation.two_passes import checked_tau
from precc.condition_numbers import Activation, activation_condition, check_activation, inner_product_condition
from precc.errors import FormatError, member_of
from precc.rounding import Row, slot_number

__all__ = ["Choice", "MatrixProduct", "Problem", "TwoPass", "compute", "slot_of"]

#: How matrices [A, M, K] and [B, K, N] are multiplied; the last argument is the number of the first output.
MatrixProduct = Callable[[Tensor, Tensor | Patches, int], Tensor]


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
        channel: the dimension of channels of the result; of a matrix product the last one.
        terms: of each sum.
        bias: what is added to the result, which may be broadcast.
        factor: of the result, before that.
        first: number of its first output.
    """

    operands: tuple[Tensor, Tensor]
    axes: tuple[tuple[int, int], tuple[int, int]]
    shape: tuple[int, ...]
    product: Callable[[Tensor, Tensor, MatrixProduct], Tensor]
    channel: int
    terms: int
    bias: Tensor | None = None
    factor: float = 1.0
    first: int = 0

    def rounded(self, arithmetic: ProductArithmetic, kernels: Kernels, key: int, name: str) -> tuple[Tensor, Tensor]:
        """Both operands; their stochastic bits are those of slots of this name."""
        first, second = (
            kernels.rounded(x.resolve_neg(), row, key)
            for x, row in zip(self.operands, self.rows(arithmetic, name), strict=True)
        )
        return first, second

    def rows(self, arithmetic: ProductArithmetic, name: str) -> tuple[Row, Row]:
        """To what both operands are rounded."""
        first, second = (
            arithmetic.operands.row(axis=axis, channel=channel, slot=slot_of(f"{name}.{operand}"))
            for operand, (axis, channel) in zip("ab", self.axes, strict=True)
        )
        return first, second

    def shown(self, v: Tensor) -> Tensor:
        """What the activation sees of the sums: their multiple, and what is added to it."""
        scaled = v if self.factor == 1 else v * self.factor
        return scaled if self.bias is None else scaled + self.bias


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
        """From what a caller said.

        Raises:
            FormatError: both of `tau` and `select`, or none, or what makes no sense.
        """
        if (tau is None) is (select is None):
            raise FormatError("pass tau, or select in its place")
        check_activation(activation)
        kind = member_of(Numerator, numerator, "unknown numerator of a condition number")
        if select is not None:
            _check_select(select, problem)
            return cls(math.inf, select, activation, kind)
        return cls(checked_tau(math.nan if tau is None else tau), None, activation, kind)

    def condition(
        self, problem: Problem, v: Tensor, a: Tensor, b: Tensor, low: ProductArithmetic, kernels: Kernels
    ) -> Tensor:
        """The estimates, from the low result and the low operands."""

        def sizes(left: Tensor, right: Tensor | Patches, first: int) -> Tensor:
            matrices = right.matrices() if isinstance(right, Patches) else right
            return magnitude(self.numerator, left, matrices, kernels.accumulate)

        of_terms = problem.product(a.double(), b.double(), sizes)
        fmt = low.accumulator.format
        inside, shown = (v > fmt.low) & (v < fmt.max), problem.shown(v)
        kappa = inner_product_condition(shown, of_terms * abs(problem.factor))
        found = activation_condition(shown, self.activation) * kappa
        return torch.where(inside & ~found.isnan(), found, math.inf)


def compute(
    problem: Problem, low: ProductArithmetic, high: ProductArithmetic, choice: Choice, key: int, kernels: Kernels
) -> TwoPass:
    """Both passes; the bias is not in the result."""
    with torch.no_grad():
        if kernels.two_pass is not None:
            at_once: TwoPass | None = kernels.two_pass(problem, low, high, choice, key, kernels)
            if at_once is not None:
                return at_once
        a, b = problem.rounded(low, kernels, key, "low")
        result = problem.product(a, b, _whole(low, key, kernels))
        condition: Tensor | None = None
        if choice.select is None:
            condition = choice.condition(problem, result, a, b, low, kernels)
            again = condition > choice.tau
        else:
            again = choice.select.clone()
        if bool(again.any()):
            a, b = problem.rounded(high, kernels, key, "high")
            result = torch.where(
                again, problem.product(a, b, _selected(high, key, again, problem.first, kernels)), result
            )
    return TwoPass(result, again, condition)


def slot_of(name: str) -> int:
    """The number of the slot that an operand or a sum of a pass draws from: ``low.a``, ``high.sum``..."""
    return slot_number(f"two_pass/{name}")


def _whole(arithmetic: ProductArithmetic, key: int, kernels: Kernels) -> MatrixProduct:
    def multiply(a: Tensor, b: Tensor | Patches, first: int) -> Tensor:
        return kernels.accumulate(a, b, arithmetic.accumulator, key, slot=slot_of("low.sum"), first=first)

    return multiply


def _selected(arithmetic: ProductArithmetic, key: int, select: Tensor, start: int, kernels: Kernels) -> MatrixProduct:
    chosen = select.flatten()

    def multiply(a: Tensor, b: Tensor | Patches, first: int) -> Tensor:
        right = b.matrices() if isinstance(b, Patches) else b
        shape = (*right.shape[:-2], a.shape[-2], right.shape[-1])
        mask = chosen[first - start : first - start + math.prod(shape)].reshape(shape)
        return kernels.selected(a, right, mask, arithmetic.accumulator, key, slot=slot_of("high.sum"), first=first)

    return multiply


def _check_select(select: Tensor, problem: Problem) -> None:
    device = problem.operands[0].device
    dense = isinstance(select, Tensor) and select.layout is torch.strided
    if not dense or (select.dtype, select.device) != (torch.bool, device):
        raise FormatError(f"select is a bool tensor on {device}, not {getattr(select, 'dtype', type(select).__name__)}")
    if tuple(select.shape) != tuple(problem.shape):
        raise FormatError(f"select has the shape {list(select.shape)}, but the result has {list(problem.shape)}")
