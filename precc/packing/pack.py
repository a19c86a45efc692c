"""Packing and unpacking with tensor operations, on any device: the twin of every kernel."""

import math

import torch
from torch import Tensor

from precc.amax_history import record
from precc.packing.layout import PackedLayout
from precc.rounding import Row, parse_row, quantize
from precc.rounding.scales import block_amax, block_scales, block_shape, divisor_of, spread_scales
from precc.rounding.tensor_ops import carrier_of, round_elements
from precc.rounding.transforms import transformed

__all__ = ["pack", "unpack"]

_SIGNED = {8: torch.uint8, 16: torch.int16}


def pack(x: Tensor, plan: Tensor, row: int, transposed: bool) -> Tensor:
    """`x`, rounded by a row of a plan, as one tensor of bytes; `unpack` gives what the rounding gives, bit for bit.

    Raises:
        FormatError: as `PackedLayout.of`.
    """
    values = plan[row].tolist()
    parsed, key = parse_row(values)
    layout = PackedLayout.of(parsed, x.shape, x.dtype, transposed)

    def recorded(x: Tensor, parsed: Row, key: int) -> Tensor:
        record(x, values, row)
        return quantize(x, parsed, key)

    result = torch.zeros(layout.bytes, dtype=torch.uint8, device=x.device)
    if _stores_result(layout, parsed, x.dtype):
        rounded, scales = transformed(x, parsed, key, recorded), None
    else:
        record(x, values, row)
        rounded, scales = _unscaled(x, parsed, key)
    if layout.marks_nan:
        scales = torch.where(rounded.isnan().any(), math.nan, 1.0).to(rounded.dtype)
    result[: layout.code_bytes] = _bytes_of(rounded.mT if transposed else rounded, layout)
    if scales is not None:
        result[layout.scale_offset :] = scales.to(layout.scale_dtype).contiguous().reshape(-1).view(torch.uint8)
    return result


def unpack(
    packed: Tensor, plan: Tensor, row: int, shape: tuple[int, ...], dtype: torch.dtype, transposed: bool
) -> Tensor:
    """The rounded values of a tensor of this shape and dtype that `pack` made under the same row."""
    parsed, _ = parse_row(plan[row].tolist())
    layout = PackedLayout.of(parsed, shape, dtype, transposed)
    values = _values_of(packed[: layout.code_bytes], layout)
    values = values.mT if transposed else values
    if _stores_result(layout, parsed, dtype) or (layout.stored is dtype and parsed.granularity is None):
        return values.contiguous()
    return (values * _scales_of(packed, layout, parsed)).to(dtype).contiguous()


def _stores_result(layout: PackedLayout, row: Row, dtype: torch.dtype) -> bool:
    """Whether the bytes are those of the rounding's result, scales multiplied in."""
    return layout.stored is dtype and (row.transform is not None or row.is_identity(dtype))


def _unscaled(x: Tensor, row: Row, key: int) -> tuple[Tensor, Tensor | None]:
    """Rounded values before the multiplication by their scales, and the scales of the blocks, if they are found."""
    values = x.to(carrier_of(x, row).dtype)
    if not row.finds_scales:
        return round_elements(
            values / values.new_tensor(row.scale.value) if row.granularity else values, row, key
        ), None
    if not x.numel():
        return values, values.new_zeros(0)
    extent = block_shape(x.shape, row)
    scales = block_scales(block_amax(values.abs(), extent), row.scale)
    spread = spread_scales(scales, extent, x.shape)
    return round_elements(values / divisor_of(spread), row, key), scales


def _scales_of(packed: Tensor, layout: PackedLayout, row: Row) -> Tensor:
    scales = packed[layout.scale_offset :].view(layout.scale_dtype)
    if not row.finds_scales:
        static = scales.new_tensor(row.scale.value if row.granularity else 1.0)
        return static * scales[0] if layout.marks_nan else static
    if not math.prod(layout.shape):
        return scales.new_ones(())
    return spread_scales(
        scales.reshape(layout.blocks if layout.shape else ()), block_shape(layout.shape, row), layout.shape
    )


def _bytes_of(rounded: Tensor, layout: PackedLayout) -> Tensor:
    rounded = rounded.contiguous()
    if layout.stored is not None:
        return rounded.reshape(-1).view(torch.uint8)
    codes = layout.codes.encode(rounded).reshape(-1)
    if layout.storage == 4:
        return (codes[::2] | codes[1::2] << 4).to(torch.uint8)
    return codes.to(_SIGNED[layout.storage]).view(torch.uint8)


def _values_of(packed: Tensor, layout: PackedLayout) -> Tensor:
    if layout.stored is not None:
        return packed.view(layout.stored).reshape(layout.stored_shape)
    codes = packed.view(_SIGNED.get(layout.storage, torch.uint8)).to(torch.int64) & ((1 << max(layout.storage, 8)) - 1)
    if layout.storage == 4:
        codes = torch.stack([codes & 15, codes >> 4], -1).reshape(-1)
    return layout.codes.decode(codes, layout.scale_dtype).reshape(layout.stored_shape)
