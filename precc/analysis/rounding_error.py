"""The error that rounding makes in single values, where the largest magnitudes that give their scales are known."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from precc.analysis.neighbours import neighbours
from precc.errors import AnalysisError, UnsupportedError
from precc.formats import Granularity
from precc.precision import Precision
from precc.rounding import RoundingMode, Row
from precc.rounding.scales import block_scales, divisor_of, scale_of
from precc.rounding.tensor_ops import carrier_of, round_elements

__all__ = [
    "RelativeError",
    "RoundingErrors",
    "ScaleKey",
    "rounded_rows",
    "rounding_errors",
    "scale_key",
    "squared_errors",
]


@dataclass(frozen=True, slots=True)
class ScaleKey:
    """Which values share a scale, as far as a slot's layout does not say it."""

    granularity: Granularity
    rows: int
    columns: int
    axis: int


#: Relative to the root mean square, what counts as near 0.
_SMALL = 1 / 64

#: A scale for all values.
TENSOR = ScaleKey(Granularity.TENSOR, 1, 1, -1)


def scale_key(row: Row) -> ScaleKey | None:
    """What has one scale; None where no scale is found from the values."""
    if row.granularity is None or row.granularity is Granularity.STATIC:
        return None
    if row.granularity is Granularity.TENSOR:
        return TENSOR
    return ScaleKey(row.granularity, row.scale.rows, row.scale.columns, row.scale.axis)


@dataclass(frozen=True, slots=True)
class RelativeError:
    """Of a rounding, relative to the values.

    Args:
        largest: of any value.
        rms: root mean square.
    """

    largest: float
    rms: float


@dataclass(frozen=True, slots=True, eq=False)
class RoundingErrors:
    """Of each value; in the units of the values, float64.

    A value that varies by more than a quantum q lies anywhere between its neighbours: its nearest rounding has an error
    of mean 0 and variance ``q**2 / 12``; toward zero the mean is ``q / 2`` that way. What overflows or becomes 0
    has the error that it has.

    Args:
        mean: of the error.
        spread: standard deviation of a rounding that the value decides, with the sign of the error that it has.
        variance: of a rounding that random bits decide.
        largest: magnitude that the error may have.
    """

    mean: Tensor
    spread: Tensor
    variance: Tensor
    largest: Tensor

    def lost_share(self, values: Tensor, weights: Tensor) -> float:
        """Of the sum of squares of the values, the errors that are no matter of chance; infinite where one is."""
        total = float((weights * values.double().square()).sum())
        lost = float((weights * self.mean.square()).sum())
        return lost / total if total and math.isfinite(lost) else (math.inf if not math.isfinite(lost) else 0.0)

    def relative(self, values: Tensor, weights: Tensor) -> RelativeError:
        """To the values that are not 0, where each value stands for so many."""
        there = values != 0
        if not bool(there.any()):
            return RelativeError(0.0, 0.0)
        v, w = values[there].double(), weights[there]
        squares = (self.mean.square() + self.spread.square() + self.variance)[there] / v.square()
        rms = math.sqrt(float((squares * w).sum() / w.sum()))
        return RelativeError(float((self.largest[there] / v.abs()).max()), rms)

    def mean_square(self, weights: Tensor) -> float:
        """Of the errors, where each value stands for so many."""
        squares = self.mean.square() + self.spread.square() + self.variance
        return float((squares * weights).sum() / weights.sum()) if len(squares) else 0.0

    def mean_square_near_zero(self, values: Tensor, weights: Tensor) -> float:
        """Of the errors of values below 1/64 of the root mean square; of all, if there are none."""
        v = values.double().abs()
        small = (v > 0) & (v <= _SMALL * (weights * v.square()).sum().div(weights.sum()).sqrt())
        near = RoundingErrors(*(own[small] for own in (self.mean, self.spread, self.variance, self.largest)))
        return near.mean_square(weights[small]) if bool(small.any()) else self.mean_square(weights)


def rounding_errors(
    values: Tensor,
    precision: Precision,
    amax: Mapping[ScaleKey, Tensor],
    *,
    axis: int = -1,
    channel: int = -1,
) -> RoundingErrors:
    """The errors of a precision.

    Args:
        values: of a slot, one dimension.
        precision: format, rounding and scaling; a delayed scale is taken as that of the values.
        amax: largest magnitude of the values that share a scale with each one, or of all.
        axis: contracted dimension of the slot.
        channel: channel dimension of the slot.

    Raises:
        AnalysisError: the largest magnitudes for its scales are not known.
        UnsupportedError: the precision has a transform, which mixes values.
    """
    row, scaled, scales = _scaled(values, precision, amax, axis, channel)
    near, far = (value.double() * scales for value in neighbours(scaled, row))
    v, overflows = values.double(), _overflows(scaled, row)
    quantum = torch.where(overflows, 0.0, far - near)
    zero = torch.zeros_like(v)
    if row.is_stochastic:
        variance = torch.where(overflows, 0.0, (v - near) * (far - v))
        lost = torch.where(overflows, near - v, 0.0)
        return RoundingErrors(lost, zero, variance.clamp(min=0.0), torch.where(overflows, lost, quantum).abs())
    rounded = round_elements(scaled, row).double() * scales
    error, spread = torch.where(v == 0, 0.0, rounded - v), quantum.abs() / 12**0.5
    lost = overflows | ((rounded == 0) & (v != 0))
    truncates = row.mode is RoundingMode.TOWARD_ZERO
    mean = torch.where(lost, error, -quantum / 2 if truncates else zero)
    largest = torch.where(lost, error, quantum if truncates else quantum / 2).abs()
    return RoundingErrors(mean, torch.where(lost, 0.0, spread.copysign(error)), zero, largest)


def squared_errors(
    values: Tensor,
    precision: Precision,
    amax: Mapping[ScaleKey, Tensor],
    *,
    axis: int = -1,
    channel: int = -1,
) -> Tensor:
    """The square of the error that each value has as it stands; of a stochastic rounding its mean. Infinite where it
    becomes infinite or NaN.

    Arguments and errors are those of `rounding_errors`, which is about values that vary.
    """
    if precision.is_stochastic:
        found = rounding_errors(values, precision, amax, axis=axis, channel=channel)
        squares = found.mean.square() + found.variance
    else:
        row, scaled, scales = _scaled(values, precision, amax, axis, channel)
        rounded = round_elements(scaled, row).double() * scales
        squares = torch.where(values == 0, 0.0, rounded - values.double()).square()
    return squares.nan_to_num(nan=math.inf, posinf=math.inf)


def _scaled(
    values: Tensor, precision: Precision, amax: Mapping[ScaleKey, Tensor], axis: int, channel: int
) -> tuple[Row, Tensor, Tensor]:
    """What rounds, the values in units of their scales, and these."""
    if precision.transform is not None:
        raise UnsupportedError(f"the error of {precision} is not that of single values: measure it")
    row = precision.row(axis=axis, channel=channel).current
    x = values.to(carrier_of(values, row).dtype)
    scale = _scale(x, row, amax, precision)
    return row, x / divisor_of(scale), scale.double()


def rounded_rows(rows: Tensor, precision: Precision, amax: Tensor) -> Tensor:
    """Rows of an operand [rows, terms], which lie along its contracted dimension, in a precision.

    The scale of a tensor comes from its largest magnitude `amax`; others are found from the rows themselves. Where the
    precision draws random bits, rows are rounded to nearest.

    Raises:
        UnsupportedError: the precision has a transform, or scales that do not go along the sum.
    """
    if precision.transform is not None:
        raise UnsupportedError(f"the error of {precision} is not that of single values: measure it")
    row = precision.row(axis=1, channel=0).current
    along = row.granularity in (Granularity.ROW, Granularity.BLOCK) and row.scale.axis == 1 and not row.scale.two_level
    if not (along or row.granularity in (None, Granularity.STATIC, Granularity.TENSOR)):
        raise UnsupportedError(f"sums of operands in {precision}, whose scales are not those of the sum: measure them")
    row = replace(row, mode=RoundingMode.NEAREST_EVEN) if row.is_stochastic else row
    x = rows.to(carrier_of(rows, row).dtype)
    scale = block_scales(amax.to(x.dtype).reshape(1), row.scale) if scale_key(row) is TENSOR else scale_of(x, row)
    return (round_elements(x / divisor_of(scale), row) * scale).to(rows.dtype)


def _overflows(scaled: Tensor, row: Row) -> Tensor:
    """Whether values lie beyond the ends, and would without any more bits."""
    return (scaled > row.grid.high) | (scaled < row.grid.low)


def _scale(x: Tensor, row: Row, amax: Mapping[ScaleKey, Tensor], precision: Precision) -> Tensor:
    key = scale_key(row)
    if key is None:
        return x.new_tensor(row.scale.value if row.granularity is not None else 1.0)
    if key not in amax:
        raise AnalysisError(
            f"the analysis has no largest magnitudes for the scales of {precision}: name it among the candidates, "
            "net.analyze(..., options=precc.AnalysisOptions(candidates=[...]))"
        )
    found = amax[key].to(x.dtype).reshape(-1)
    # a second level of scales comes from the largest magnitude of all
    every = torch.cat([found, amax[TENSOR].to(x.dtype).reshape(1)])
    return block_scales(every, row.scale)[:-1] if key is not TENSOR else block_scales(found, row.scale)
