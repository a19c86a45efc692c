"""Amax history: the largest magnitudes that the slots of a net had in its training forwards, for delayed scales.

A forward that counts has a number, and its rows carry it beside the number of the history. So a record finds its place
however late its slot runs: backwards come in any order, twice, and with rows that saved-tensor hooks have copied.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from precc.formats import MAX_HISTORY
from precc.rounding import RECORD_COLUMNS

__all__ = ["AmaxHistory", "AmaxState", "record", "record_amax"]

_histories: "WeakValueDictionary[int, AmaxHistory]" = WeakValueDictionary()
_history_numbers = itertools.count(1)

#: Of one slot: forward and largest magnitude, in the order of the forwards.
_Records = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class AmaxState:
    """A history at one moment: the records, and the forwards that may still add to them."""

    records: Mapping[str, _Records]
    forwards: Mapping[int, Sequence[str]]


class AmaxHistory:
    """The records of one net, by slot.

    A slot has at most one record a forward, the largest if it ran more than once, and the last 1024 are kept. A tensor
    of zeros leaves none, and neither does one with a NaN or an infinity: what is finite in it may be the debris of an
    overflow, and would hold the scale up long after.

    Args:
        amax: records by slot, the oldest first.
    """

    def __init__(self, amax: Mapping[str, Sequence[float]] | None = None) -> None:
        self.number = next(_history_numbers)
        self._forward_numbers = itertools.count(1)
        self._pending: list[tuple[int, str, Tensor]] = []  # not read yet: reading waits for an accelerator
        self._forwards: dict[int, Sequence[str]] = {}
        self._records: dict[str, _Records] = {}
        self.load(amax or {})
        _histories[self.number] = self

    def begin(self, slots: Sequence[str]) -> int:
        """The number of a forward that counts, whose rows belong to these slots."""
        number = next(self._forward_numbers)
        self._forwards[number] = slots
        if len(self._forwards) > MAX_HISTORY:  # a record that comes so late would be the first to be dropped
            del self._forwards[next(iter(self._forwards))]
        return number

    def note(self, forward: int, row: int, amax: Tensor) -> None:
        """Record the largest magnitude of what was rounded by a row; nothing if the forward does not count any more."""
        if forward in self._forwards:
            self._pending.append((forward, self._forwards[forward][row], amax))

    def largest(self, slot: str, count: int) -> float:
        """The largest of the last `count` records of a slot; 0 if it has none."""
        self._settle()
        return max((amax for _, amax in self._records.get(slot, ())[-count:]), default=0.0)

    def state(self) -> AmaxState:
        """What `restore` brings back."""
        self._settle()
        return AmaxState(dict(self._records), dict(self._forwards))

    def restore(self, state: AmaxState) -> None:
        """Forget the forwards and the records since a state was taken, and what those forwards record later."""
        self._pending.clear()
        self._records, self._forwards = dict(state.records), dict(state.forwards)

    def load(self, amax: Mapping[str, Sequence[float]]) -> None:
        """Have these records and no others; forwards that have begun do not count any more."""
        # numbered before all forwards to come
        records = {slot: tuple((n - len(own), value) for n, value in enumerate(own)) for slot, own in amax.items()}
        self.restore(AmaxState({slot: own[-MAX_HISTORY:] for slot, own in records.items() if own}, {}))

    def drop(self, slots: Sequence[str]) -> None:
        """Forget the records of some slots."""
        self._settle()
        for slot in slots:
            self._records.pop(slot, None)

    def to_lists(self) -> dict[str, list[float]]:
        """The records by slot, the oldest first."""
        self._settle()
        return {slot: [amax for _, amax in own] for slot, own in self._records.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has the records; forwards of the original that are under way record there alone."""
        return AmaxHistory, (self.to_lists(),)

    def _settle(self) -> None:
        pending, self._pending = self._pending, []
        for forward, slot, amax in sorted(pending, key=lambda entry: entry[0]):
            value = float(amax)
            if 0 < value < math.inf:
                self._records[slot] = _with(self._records.get(slot, ()), forward, value)


def _with(records: _Records, forward: int, amax: float) -> _Records:
    """The records with one more, at its place."""
    if records and forward <= records[-1][0]:
        by_forward = dict(records)
        by_forward[forward] = max(amax, by_forward.get(forward, 0.0))
        records = tuple(sorted(by_forward.items()))
    else:
        records = (*records, (forward, amax))
    return records[-MAX_HISTORY:]


def record(x: Tensor, values: Sequence[float], row: int) -> None:
    """Note the largest magnitude of what is rounded by a row of these values, where the row asks for it."""
    number, forward = (int(values[column]) for column in RECORD_COLUMNS)
    if forward and x.numel():
        low, high = torch.aminmax(x)
        record_amax(torch.maximum(-low, high), number, forward, row)


def record_amax(amax: Tensor, number: int, forward: int, row: int) -> None:
    """Note a largest magnitude in the history of a number, as of a row of a forward; it is read when it is needed."""
    history = _histories.get(number)
    if history is not None:
        history.note(forward, row, amax)
