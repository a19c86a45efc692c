"""By what an exported file is to round its slots, and what precc makes of their values."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from precc.backends.onnx.document import SlotPlace
from precc.precision import AS_STORED
from precc.rounding import Row, quantize

__all__ = ["is_rounded", "rounded_by_precc", "row_in_file", "says"]


def is_rounded(place: SlotPlace) -> bool:
    """Whether the file rounds the slot: its tensor before is another one than that after."""
    return place.source != place.rounded


def row_in_file(place: SlotPlace) -> Row:
    """By which the file is to round the tensor before: that of the slot, or one that changes nothing."""
    return place.rounding.row if is_rounded(place) else AS_STORED.row()


def says(place: SlotPlace) -> str:
    """What stands in a table for the precision."""
    return str(place.rounding.precision) if is_rounded(place) else "-"


def rounded_by_precc(values: npt.NDArray[Any], row: Row) -> npt.NDArray[Any]:
    """The values rounded as precc's own tensor operations do."""
    rounded: npt.NDArray[Any] = quantize(torch.from_numpy(np.ascontiguousarray(values)), row).numpy()
    return rounded
