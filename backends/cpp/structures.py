"""What every kernel is given of a grid and of a random draw, as ctypes."""

import ctypes

from precc.rounding import MAX_RANDOM_BITS
from precc.rounding.row import Grid
from precc.rounding.tensor_ops import Carrier, GridScalars

__all__ = ["GridStructure", "grid_structure", "random_mask"]


class GridStructure(ctypes.Structure):
    """``struct Grid`` of grid.hpp."""

    _fields_ = [(name, ctypes.c_int64) for name in ("dropped_bits", "k_min", "negative_zero", "ties")] + [
        (name, ctypes.c_double) for name in ("smallest_normal", "low", "high", "below", "above", "tiny")
    ]


def grid_structure(grid: Grid, carrier: Carrier) -> GridStructure:
    """A grid as a carrier's arithmetic needs it."""
    scalars = GridScalars.of(grid, carrier)
    return GridStructure(*(getattr(scalars, entry[0]) for entry in GridStructure._fields_))


def random_mask(random_bits: int) -> int:
    """Which bits of a 31-bit random number are used: the upper ones."""
    unused = MAX_RANDOM_BITS - random_bits
    return ((1 << MAX_RANDOM_BITS) - 1) >> unused << unused
