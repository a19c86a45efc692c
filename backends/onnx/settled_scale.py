"""Delayed scales in a file: the number that the next forward of the net in eval mode would take."""

from collections.abc import Callable
from dataclasses import replace

import torch

from precc.formats import Scaling
from precc.precision import Precision
from precc.rounding.scales import block_scales
from precc.rounding.tensor_ops import carrier_of_dtype

__all__ = ["settled"]


def settled(precision: Precision, largest: Callable[[str, int], float], slot: str, dtype: torch.dtype) -> Precision:
    """The precision with a static scale in the place of a delayed one; the tensor's own, as long as there is no record.

    Args:
        precision: any; one without a history is returned as it is.
        largest: of the last so many records of a slot, as `precc.amax_history.AmaxHistory.largest`.
        slot: its name.
        dtype: of its values.
    """
    if not precision.history:
        return precision
    amax = largest(slot, precision.history)
    if not amax:
        return _with_scaling(precision, _own(precision))
    row = precision.row()
    carrier = carrier_of_dtype(dtype, row).dtype
    most = torch.finfo(carrier).max
    scale = block_scales(torch.tensor([min(amax, most)], dtype=carrier), replace(row.scale, axis=-1))
    return _with_scaling(precision, Scaling("static", value=float(scale)))


def _own(precision: Precision) -> Scaling:
    delayed = precision.own_scaling
    assert delayed is not None
    return Scaling(delayed.granularity, scale_format=delayed.scale_format, rule=delayed.rule)


def _with_scaling(precision: Precision, scaling: Scaling) -> Precision:
    return Precision(precision.element, precision.rounding, scaling, precision.transform)
