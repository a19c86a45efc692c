"""Packed tensors as kernels are given them: before they are written, their codes, their scales."""

import torch
from torch import Tensor

from precc.packing import PackedLayout

__all__ = ["codes_in", "empty_packed", "scales_in"]


def empty_packed(layout: PackedLayout, device: torch.device) -> Tensor:
    """Memory for codes and scales; what no kernel writes, zeros behind the codes and the mark of no NaN, is there."""
    packed = torch.empty(layout.bytes, dtype=torch.uint8, device=device)
    if layout.code_bytes < layout.scale_offset:
        packed[layout.code_bytes : layout.scale_offset] = 0
    if layout.marks_nan:
        scales_in(packed, layout).fill_(1.0)
    return packed


def codes_in(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor that begins where the codes do, which they are: elements of a dtype."""
    return packed if dtype is torch.uint8 else packed.view(dtype)


def scales_in(packed: Tensor, layout: PackedLayout) -> Tensor:
    """The scales, in the order in which they lie."""
    return packed[layout.scale_offset :].view(layout.scale_dtype)
