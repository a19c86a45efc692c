"""The op set of precc's graphs: which ATen ops are opened before slots are placed, for every backend alike."""

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import get_decompositions

__all__ = ["decomposition_table"]

_aten = torch.ops.aten


def decomposition_table() -> dict[Any, Callable[..., Any]]:
    """Decompositions that hold in every backend.

    `native_dropout` becomes a comparison with `rand_like`, so that every backend draws the same mask from torch's
    generator.
    """
    table: dict[Any, Callable[..., Any]] = dict(get_decompositions([_aten.native_dropout]))
    return table
