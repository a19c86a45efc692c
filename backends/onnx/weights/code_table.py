"""The values of the codes of a format, and the codes of values."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from precc.backends.onnx.weights.same_bits import bit_keys

__all__ = ["CodeTable"]


@dataclass(frozen=True, slots=True)
class CodeTable:
    """Float32 values by code; and their bits, ascending, with the smallest code of each."""

    values: Tensor
    keys: Tensor
    codes: Tensor

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, values: tuple[float, ...]) -> "CodeTable":
        """Of the values by code."""
        by_code = torch.tensor(values, dtype=torch.float64).to(torch.float32)
        keys, order = bit_keys(by_code).sort(stable=True)
        return cls(by_code, keys, order.to(torch.int32))
