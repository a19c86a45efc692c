"""Delayed scales in the rows of one graph: filled in from the history before a forward, and what it is to record."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from precc.amax_history import AmaxHistory
from precc.annotations import Operand, Product
from precc.plan import PrecisionPlan
from precc.rounding import RECORD_COLUMNS, Row
from precc.rounding.row import ScaleRow, set_static_scales
from precc.rounding.scales import block_scales
from precc.rounding.tensor_ops import carrier_of_dtype
from precc.slots import Slot

__all__ = ["DelayedRows"]


@dataclass(frozen=True, slots=True)
class _Alike:
    """How scales are found; those of many slots alike are found at once."""

    scale: ScaleRow
    carrier: torch.dtype

    @classmethod
    def of(cls, row: Row, dtype: torch.dtype) -> "_Alike":
        carrier = carrier_of_dtype(dtype, row)
        return cls(replace(row.scale, axis=-1), carrier.dtype)


@dataclass(frozen=True, slots=True)
class DelayedRows:
    """The rows of a graph that have delayed scales under one plan; false if none has.

    Args:
        names: of the slots, by row.
        groups: rows whose scales are found alike.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[_Alike, tuple[int, ...]], ...]

    @classmethod
    def of(cls, products: Iterable[Product], results: Iterable[Operand], plan: PrecisionPlan) -> "DelayedRows":
        """Those of a plan, in the order of `precc.plan_rows.plan_rows`."""
        places: list[Operand | Slot] = []
        for product in products:
            places += (*product.operands, *product.accumulators)
        names: list[str] = []
        groups: dict[_Alike, list[int]] = {}
        for place in (*places, *results):
            slot = place.slot if isinstance(place, Operand) else place
            if isinstance(place, Operand) and (precision := plan.precision(slot.name)).history:
                groups.setdefault(_Alike.of(precision.row(), place.dtype), []).append(len(names))
            names.append(slot.name)
        return cls(tuple(names), tuple((alike, tuple(rows)) for alike, rows in groups.items()))

    def __bool__(self) -> bool:
        return bool(self.groups)

    def fill(self, rows: Tensor, history: AmaxHistory) -> None:
        """Give each row the scale that a tensor with the largest recorded magnitude would have; without one, its own.

        The carrier is that of the slot, so that the scale is bit for bit that of current scaling.
        """
        for alike, indices in self.groups:
            largest = {index: history.largest(self.names[index], alike.scale.history) for index in indices}
            known = [index for index in indices if largest[index] > 0]
            if known:
                # records of a float64 graph of the net may exceed float32
                most = torch.finfo(alike.carrier).max
                amax = torch.tensor([min(largest[index], most) for index in known], dtype=alike.carrier, device="cpu")
                set_static_scales(rows, known, block_scales(amax, alike.scale), alike.scale.history)

    def mark(self, rows: Tensor, history: AmaxHistory) -> None:
        """Have the forward that gets these rows record."""
        indices = [index for _, group in self.groups for index in group]
        forward = history.begin(self.names)
        for column, number in zip(RECORD_COLUMNS, (history.number, forward), strict=True):
            rows[indices, column] = float(number)
