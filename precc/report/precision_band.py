"""The band of magnitudes that a precision has for a tensor, under the scale that it takes for it."""

import math
from dataclasses import replace

import torch

from precc.formats import FixedPoint, FloatFormat, Granularity, NestedInteger
from precc.formats.block_format import ElementFormat
from precc.precision import Precision
from precc.report.slot_row import Band
from precc.rounding import Row
from precc.rounding.scales import block_scales, scale_of
from precc.rounding.tensor_ops import carrier_of_dtype

__all__ = ["precision_band"]

#: Of a tensor whose groups of values each have a scale.
_SEVERAL = (Granularity.CHANNEL, Granularity.ROW, Granularity.BLOCK, Granularity.TILE)


def precision_band(precision: Precision, amax: float, dtype: torch.dtype, recorded: float = 0.0) -> Band | None:
    """The band of a precision for a tensor with this largest magnitude.

    Args:
        precision: any; a transform before it is not seen.
        amax: of the tensor, finite.
        dtype: of the tensor.
        recorded: the largest magnitude that a delayed scale comes from; 0: there is none yet, and the tensor's counts.

    Returns:
        None where no values are left: the scale underflows, or is no number.
    """
    lowest, normal, highest = _ends(precision.element)
    scale = _scale(precision.row(), recorded or amax, dtype)
    if not 0 < scale < math.inf:
        return None
    shift = math.log2(scale)
    least, whole, most = (math.log2(end) + shift for end in (lowest, normal, highest))
    return Band(least, whole, most, precision.granularity in _SEVERAL)


def _ends(fmt: ElementFormat) -> tuple[float, float, float]:
    """The smallest positive value, the smallest normal one, and the largest; fixed point has no normal ones."""
    if isinstance(fmt, FloatFormat):
        least = fmt.smallest_subnormal if fmt.subnormals else fmt.smallest_normal
        return least, fmt.smallest_normal, fmt.max
    if isinstance(fmt, NestedInteger):
        return _ends(fmt.stages[1])
    least = fmt.quantum if isinstance(fmt, FixedPoint) else fmt.values[1]
    return least, least, fmt.max or -fmt.low  # of one bit and a sign nothing is above 0


def _scale(row: Row, amax: float, dtype: torch.dtype) -> float:
    """That of a group with this largest magnitude."""
    own = row.current
    if not own.finds_scales:
        return float(scale_of(torch.empty(0, dtype=torch.float64), own))
    carrier = carrier_of_dtype(dtype, own).dtype
    largest = torch.tensor([min(amax, torch.finfo(carrier).max)], dtype=carrier)
    return float(block_scales(largest, replace(own.scale, axis=-1)))
