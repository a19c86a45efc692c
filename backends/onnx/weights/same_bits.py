"""Comparing float32 values by their bits."""

import math

import torch
from torch import Tensor

__all__ = ["bit_keys", "same_bits"]


def bit_keys(values: Tensor) -> Tensor:
    """Bits of float32 values, of one NaN for all."""
    return torch.where(values != values, math.nan, values).contiguous().view(torch.int32)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether float32 tensors agree bit for bit, the signs of zeros included; one NaN is as another."""
    return torch.equal(bit_keys(one), bit_keys(other))
