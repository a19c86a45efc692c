"""The scales of a tensor, with tensor operations: the twin of the kernels.

A tensor is seen as ``[outer, axis, inner]``, or ``[outer, rows, middle, columns, inner]`` for tiles, and cut into
blocks; ragged ends make shorter blocks.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from precc.errors import FormatError
from precc.formats import Granularity, ScaleRule
from precc.rounding.modes import RoundingMode
from precc.rounding.row import Grid, Row, ScaleRow
from precc.rounding.tensor_ops import round_grid

__all__ = [
    "block_amax",
    "block_scales",
    "block_shape",
    "divisor_of",
    "scale_grid",
    "scale_of",
    "shared_amax",
    "spread_scales",
    "two_levels",
]


def block_shape(shape: Sequence[int], row: Row) -> tuple[int, ...]:
    """The extent of one group of values in each dimension of a tensor.

    Raises:
        FormatError: the tensor has no such dimension.
    """
    dims, granularity, scale = len(shape), row.granularity, row.scale
    if granularity is None or granularity in (Granularity.TENSOR, Granularity.STATIC) or not dims:
        return tuple(shape)
    axis = scale.axis + dims if scale.axis < 0 else scale.axis
    if not 0 <= axis < dims:
        raise FormatError(f"scaling {granularity.value!r}: a tensor of shape {list(shape)} has no axis {scale.axis}")
    if granularity is Granularity.CHANNEL:
        return tuple(1 if dim == axis else size for dim, size in enumerate(shape))
    extent = [1] * dims
    extent[axis] = shape[axis] if granularity is Granularity.ROW else scale.columns
    if granularity is Granularity.TILE:
        if dims < 2:
            raise FormatError(f"scaling 'tile' needs two dimensions; the tensor has shape {list(shape)}")
        extent[axis - 1 if axis else 1] = scale.rows
    return tuple(extent)


def scale_of(x: Tensor, row: Row) -> Tensor:
    """The scale of each element of `x`, of a carrier's dtype, broadcastable to it; 1 where the row has no scaling.

    Raises:
        FormatError: the tensor has not the dimensions, or the scale is one of a net's history.
    """
    if row.lacks_history:
        raise FormatError(
            f"a scaling with history={row.scale.history} takes its scale from earlier forwards of a net: pass it to "
            "precc.compile(model, policy=precc.Uniform(..., scaling=...)) or in a plan; by hand leave the history out, "
            "or give the scale, Scaling('static', value=...)"
        )
    if not row.finds_scales:
        return x.new_tensor(row.scale.value)
    extent = block_shape(x.shape, row)
    if x.numel() == 0:
        return torch.ones_like(x)
    scales = block_scales(block_amax(x.abs(), extent), row.scale)
    return spread_scales(scales, extent, x.shape)


def shared_amax(magnitude: Tensor, row: Row) -> Tensor:
    """The largest of the magnitudes that share a scale with each one, in the shape of all.

    Raises:
        FormatError: the tensor has not the dimensions.
    """
    extent = block_shape(magnitude.shape, row)
    if magnitude.numel() == 0:
        return magnitude
    return spread_scales(block_amax(magnitude, extent), extent, magnitude.shape).expand(magnitude.shape)


def divisor_of(scale: Tensor) -> Tensor:
    """What values are divided by: the scale, or, where it underflowed to 0, infinity, which leaves zeros."""
    return torch.where(scale == 0, math.inf, scale)


def block_amax(magnitude: Tensor, extent: Sequence[int]) -> Tensor:
    """The largest magnitude in each block; NaN where there is one."""
    for dim, size in enumerate(extent):
        length = magnitude.shape[dim]
        size = min(size, length)
        missing = -length % size
        if missing:
            padding = magnitude.new_zeros([missing if d == dim else n for d, n in enumerate(magnitude.shape)])
            magnitude = torch.cat([magnitude, padding], dim)
        magnitude = magnitude.unflatten(dim, (-1, size)).amax(dim + 1)
    return magnitude


def spread_scales(scales: Tensor, extent: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The scales of blocks of this extent as those of the elements of a tensor, broadcastable to its shape."""
    for dim, (size, length) in enumerate(zip(extent, shape, strict=True)):
        if scales.shape[dim] > 1:
            scales = scales.repeat_interleave(size, dim).narrow(dim, 0, length)
    return scales


def block_scales(amax: Tensor, scale: ScaleRow) -> Tensor:
    """The scale of blocks with these largest magnitudes (Rouhani et al. 2023, algorithm 1; NVIDIA NVFP4, 2025)."""
    rule = scale.chosen_rule
    finite = amax < math.inf
    high = amax.new_tensor(scale.element_high)  # a tensor: a GPU would multiply by the reciprocal of a number
    element_fraction, element_exponent = math.frexp(scale.element_high)
    fraction, exponent = torch.frexp(amax)
    if rule is ScaleRule.FLOOR:
        found = _power_of_two(exponent - element_exponent, scale, amax)
    elif rule is ScaleRule.CEIL:
        above = (fraction > element_fraction).int()
        found = _power_of_two(exponent - element_exponent + above, scale, amax)
    elif scale.two_level:
        blocks, tensor = two_levels(amax, scale)
        found = blocks * tensor
    else:
        found = _rounded(amax / high, scale)
    return torch.where(finite, found, math.nan)


def two_levels(amax: Tensor, scale: ScaleRow) -> tuple[Tensor, Tensor]:
    """The scales of blocks with these largest finite magnitudes, and the scale of the tensor above them."""
    tensor = amax.amax() / amax.new_tensor(scale.element_high * scale.high)
    return _rounded(_quotient(amax / amax.new_tensor(scale.element_high), tensor), scale), tensor


def _quotient(x: Tensor, divisor: Tensor) -> Tensor:
    return torch.where(divisor == 0, 0.0, x / divisor)


def _power_of_two(exponent: Tensor, scale: ScaleRow, like: Tensor) -> Tensor:
    low, high = math.frexp(scale.low)[1] - 1, math.frexp(scale.high)[1] - 1
    exponent = torch.where(like == 0, low, exponent).clamp(low, high)
    # in two factors: a scale below the carrier's normal numbers is still exact
    half = exponent // 2
    one = torch.ones_like(like)
    return torch.ldexp(one, half) * torch.ldexp(one, exponent - half)


def scale_grid(scale: ScaleRow) -> Grid:
    """The grid of the scales themselves: what exceeds it saturates."""
    low = 0.0 if scale.zero else scale.low
    return Grid(
        scale.mantissa_bits,
        scale.emin,
        scale.k_min,
        low,
        scale.high,
        low,
        scale.high,
        negative_zero=1,
        ties=0,
        tiny=0.0,
    )


def _rounded(found: Tensor, scale: ScaleRow) -> Tensor:
    return round_grid(found, scale_grid(scale), RoundingMode.NEAREST_EVEN)
