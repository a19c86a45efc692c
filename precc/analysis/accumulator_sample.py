"""Sampled dot products of one product, and the errors that an accumulator makes in them.

The accumulator is emulated on the samples, several times with displaced terms. Of the error e of a sum s,

- ``beta * s`` is systematic, with beta the weighted least-squares slope over the samples where it is larger than three
  standard errors, else 0. Small terms that are lost against a large partial sum (swamping: Wang et al. 2018, section
  2.3), saturation and rounding toward zero shrink sums. The errors of a sum and of its negative are opposite, so
  nothing even in the terms, such as ``sum |a_k b_k|``, can tell of them;
- the rest is a matter of chance, of mean 0 and independent: rounded to nearest, the partial sums s_k with quanta q make
  ``sum over k of q(s_k)**2 / 12`` (Higham and Mary 2019; of blocks and their sums: Blanchard, Higham and Mary 2020).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.kernels import Accumulate
from precc.accumulation.tensor_ops import accumulate_tensor_ops
from precc.formats import FixedPoint

__all__ = ["AccumulatorSample", "AdjointTotals", "Operands", "SumErrors", "errors_of_sums", "relative_quantum"]

#: How often the accumulator is emulated on each sample, and the largest displacements, relative to the terms.
_DRAWS, _DISPLACEMENT = 4, 2.0**-4

#: A slope counts from so many standard errors on.
_STANDARD_ERRORS = 3.0

#: What rounds the rows of the left and of the right operand.
Operands = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


@dataclass(frozen=True, slots=True)
class AdjointTotals:
    """Sums over all outputs s of a product, with J the adjoint of each.

    Args:
        by_factor: ``sum of J s``, the derivative with respect to a common factor.
        squares: ``sum of J**2``.
        by_size: ``sum of (J s)**2``.
    """

    by_factor: float
    squares: float
    by_size: float

    @classmethod
    def of(cls, adjoint: Tensor, sums: Tensor) -> "AdjointTotals":
        """From all of them."""
        both = adjoint * sums
        norm = torch.linalg.vector_norm
        return cls(float(both.sum()), float(norm(adjoint)) ** 2, float(norm(both)) ** 2)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AccumulatorSample:
    """Dot products of one product, drawn at random from its outputs.

    Args:
        name: of the accumulator's slot.
        node: name of the product's node.
        slots: of the left and the right operand.
        elements: outputs.
        terms: of each dot product; where groups have different lengths, of the longest one: the others end with zeros.
        positions: of the outputs, row-major, [samples].
        left: first operands, [samples, terms].
        right: second operands, [samples, terms].
        weights: of the sums over all outputs that each one stands for, [samples].
        loss: derivative of the loss with respect to each sum, [samples]; None: the loss does not depend on it.
        gradient: of ``<gradient, r>`` for each probe r, [probes, samples].
        loss_totals: over all outputs.
        gradient_totals: over all outputs, for each probe.
        curvature: second derivative of the loss with respect to each sum, [samples]; None: not known.
    """

    name: str
    node: str
    slots: tuple[str, str]
    elements: int
    terms: int
    positions: Tensor
    left: Tensor
    right: Tensor
    weights: Tensor
    loss: Tensor | None
    gradient: Tensor
    loss_totals: AdjointTotals
    gradient_totals: tuple[AdjointTotals, ...]
    curvature: Tensor | None = None

    @property
    def whole(self) -> bool:
        """Whether all outputs are there."""
        return len(self.positions) == self.elements


@dataclass(frozen=True, slots=True, eq=False)
class SumErrors:
    """Of the sampled sums, in their units, float64; as `precc.analysis.rounding_error.RoundingErrors`.

    Args:
        mean: ``slope * sum``, [samples].
        spread: standard deviation of what the terms decide, [samples].
        variance: of what random bits decide, [samples].
        slope: systematic error relative to the sum.
        slope_variance: of the slope as an estimate.
        chance: a and b of the mean square ``a + b s**2`` of what is a matter of chance, at any sum s.
    """

    mean: Tensor
    spread: Tensor
    variance: Tensor
    slope: float
    slope_variance: float
    chance: tuple[float, float]

    def variance_of(self, totals: AdjointTotals) -> float:
        """Of ``sum of J * error`` over all outputs, as far as errors are a matter of chance."""
        return self.chance[0] * totals.squares + self.chance[1] * totals.by_size

    def mean_square(self, weights: Tensor) -> float:
        """Of the errors, where each sum stands for so many."""
        squares = self.mean.square() + self.spread.square() + self.variance
        return float((squares * weights).sum() / weights.sum()) if len(squares) else 0.0


def relative_quantum(accumulator: Accumulator) -> float:
    """By how much terms must vary so that a sum rounds another way: two quanta of a coarse float, else ``2**-4``.

    Less would not do: partial sums are larger than terms, and must move by a quantum of their own.
    """
    fmt = accumulator.format
    return 2.0**-4 if isinstance(fmt, FixedPoint) else max(2.0**-4, 2.0 ** (1 - fmt.mantissa_bits))


def _as_it_is(rows: Tensor) -> Tensor:
    return rows


def errors_of_sums(
    sample: AccumulatorSample,
    accumulator: Accumulator,
    accumulate: Accumulate = accumulate_tensor_ops,
    *,
    operands: Operands = (_as_it_is, _as_it_is),
    seed: int = 0,
) -> SumErrors:
    """The errors of an accumulator, found by emulating it.

    Args:
        sample: dot products.
        accumulator: sums them.
        accumulate: computes products with it.
        operands: round the rows of both operands before that.
        seed: of displacements and stochastic bits.

    A sum that is not finite has an infinite deviation, and the others have no slope then.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [_draw(sample, accumulator, accumulate, operands, generator) for _ in range(_DRAWS)]
    sums, errors = (torch.stack(part) for part in zip(*drawn, strict=True))
    finite = errors.isfinite()
    whole = bool(finite.all())
    slope, slope_variance = _slope(sums, errors, sample.weights) if whole else (0.0, 0.0)
    squares = torch.where(finite, errors - slope * sums, torch.inf).square().mean(0)
    chance = _chance(sums.square().mean(0), squares, sample.weights) if whole else (torch.inf, 0.0)
    mean, zeros = slope * sums.mean(0), torch.zeros_like(squares)
    if accumulator.is_stochastic:
        return SumErrors(mean, zeros, squares, slope, slope_variance, chance)
    return SumErrors(mean, squares.sqrt(), zeros, slope, slope_variance, chance)


def _draw(
    sample: AccumulatorSample,
    accumulator: Accumulator,
    accumulate: Accumulate,
    operands: Operands,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Exact sums of displaced terms, and what the accumulator's sums differ from them by; float64, [samples]."""
    carrier = torch.promote_types(sample.left.dtype, torch.float32)
    pair = [
        own(_displaced(rows.to(carrier), generator))
        for own, rows in zip(operands, (sample.left, sample.right), strict=True)
    ]
    left, right = pair
    key = int(torch.randint(1 << 62, (), generator=generator))
    found = accumulate(left[:, None, :], right[:, :, None], accumulator, key).double().reshape(-1)
    exact = (left.double() * right.double()).sum(1)
    return exact, found - exact


def _displaced(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Each element by another factor."""
    noise = torch.rand(rows.shape, generator=generator).to(rows) * 2 - 1
    return rows * (1 + noise * _DISPLACEMENT)


def _slope(sums: Tensor, errors: Tensor, weights: Tensor) -> tuple[float, float]:
    """Of errors over sums [draws, samples], and its variance, the draws of a sample being one observation of it."""
    total, n = float((weights * sums.square()).sum()), sums.shape[1]
    if not total or n < 2:
        return 0.0, 0.0
    slope = float((weights * sums * errors).sum()) / total
    scores = weights * (sums * (errors - slope * sums)).sum(0)
    variance = float((scores / total).square().sum()) * n / (n - 1)
    return (slope, variance) if slope**2 > _STANDARD_ERRORS**2 * variance else (0.0, 0.0)


def _chance(sizes: Tensor, squares: Tensor, weights: Tensor) -> tuple[float, float]:
    """Coefficients, none negative, of squares ``a + b * size``: least squares of relative errors."""
    usual = float((weights * sizes).sum() / weights.sum()) if len(sizes) else 0.0
    if not usual:
        return (float((weights * squares).sum() / weights.sum()) if len(sizes) else 0.0), 0.0
    w = weights / (sizes + usual).square()
    one, x, xx, y, xy = (float((w * own).sum()) for own in (1 + 0 * sizes, sizes, sizes**2, squares, sizes * squares))
    determinant = one * xx - x * x
    a, b = ((y * xx - xy * x) / determinant, (one * xy - x * y) / determinant) if determinant > 0 else (y / one, 0.0)
    return (a, b) if min(a, b) >= 0 else (y / one, 0.0) if b < 0 else (0.0, xy / xx)
