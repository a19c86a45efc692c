"""Which rows of a plan one kernel serves: those that differ in numbers alone that it reads as it runs."""

from dataclasses import replace
from functools import lru_cache

import torch

from precc.formats import Granularity
from precc.rounding import Row, parse_row
from precc.rounding.tensor_ops import carrier_of_dtype

__all__ = ["alike"]


@lru_cache(maxsize=8192)
def alike(row: Row, dtype: torch.dtype) -> Row:
    """One row for all that round tensors of a dtype alike but for slots and static scales that one carrier holds."""
    signs = row.signs if row.transform is not None else 0  # each slot has its own, also without a transform
    same = replace(row, slot=0, signs=signs)
    if row.granularity is Granularity.STATIC:
        scaled = replace(same, scale=replace(row.scale, value=1.0))
        same = scaled if carrier_of_dtype(dtype, scaled) is carrier_of_dtype(dtype, row) else same
    return parse_row(list(same.values))[0]
