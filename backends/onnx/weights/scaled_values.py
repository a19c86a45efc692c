"""A tensor rounded with scales, taken apart: the rounded quotients, and the scales of their blocks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from precc.formats import Granularity
from precc.rounding import Row
from precc.rounding.scales import block_amax, block_scales, block_shape, divisor_of, spread_scales, two_levels
from precc.rounding.tensor_ops import carrier_of, round_elements

__all__ = ["ScaledValues"]


@dataclass(frozen=True, slots=True)
class ScaledValues:
    """All in float32; `values` are what precc rounds the tensor to, where float32 holds quotients and scales.

    Args:
        elements: the rounded quotients, 0 where the scale is NaN.
        scales: of blocks; with one axis for each of `elements`, or none where it is given.
        tensor_scale: what multiplies all of them; 1 where there is no second level.
        extent: of a block in each dimension.
    """

    elements: Tensor
    scales: Tensor
    tensor_scale: Tensor
    extent: tuple[int, ...]

    @classmethod
    def of(cls, x: Tensor, row: Row) -> "ScaledValues":
        """Of a tensor that is not empty, by a row that has a scaling and rounds to nearest."""
        values = x.to(carrier_of(x, row).dtype)
        extent = block_shape(values.shape, row)
        scales, tensor_scale = _levels(values, row, extent)
        each = spread_scales(scales * tensor_scale, extent, values.shape) if scales.dim() else scales * tensor_scale
        elements = round_elements(values / divisor_of(each), row)
        known = torch.where(each != each, 0.0, elements)
        return cls(known.float(), scales.float(), tensor_scale.float(), extent)

    @property
    def values(self) -> Tensor:
        """Quotients times scales, each operation rounded to float32."""
        scales = self.scales * self.tensor_scale
        return self.elements * (spread_scales(scales, self.extent, self.elements.shape) if scales.dim() else scales)


def _levels(values: Tensor, row: Row, extent: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    one = values.new_ones(())
    if row.granularity is Granularity.STATIC:
        return values.new_tensor(row.scale.value), one
    amax = block_amax(values.abs(), extent)
    return two_levels(amax, row.scale) if row.scale.two_level else (block_scales(amax, row.scale), one)
