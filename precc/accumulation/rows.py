"""What a kernel reads of a product's accumulator: one row of the live tensor of a plan.

An accumulator is a variant of the kernel: the row holds its number in a table of this process, 0 for none, and the
number of the slot, the key and the plan where every other row has them.
"""

from functools import lru_cache
from threading import Lock

from precc.accumulation.sums import Sums
from precc.rounding import KEY_COLUMNS, ROW_WIDTH, key_halves

__all__ = ["accumulator_row", "parse_accumulator_row"]

_VARIANTS: list[Sums | None] = [None]
_LOCK = Lock()
_NUMBERS: dict[Sums | None, int] = {None: 0}
_SLOT_COLUMNS = (KEY_COLUMNS[0] - 2, KEY_COLUMNS[0] - 1)


@lru_cache(maxsize=8192)
def accumulator_row(accumulator: Sums | None, slot: int) -> tuple[float, ...]:
    """The columns of an accumulator in the slot of that number; None is the tensors' own arithmetic."""
    with _LOCK:
        if accumulator not in _NUMBERS:
            _NUMBERS[accumulator] = len(_VARIANTS)
            _VARIANTS.append(accumulator)
    row = [0.0] * ROW_WIDTH
    row[0] = float(_NUMBERS[accumulator])
    row[_SLOT_COLUMNS[0]], row[_SLOT_COLUMNS[1]] = key_halves(slot)
    return tuple(row)


def parse_accumulator_row(values: list[float]) -> tuple[Sums | None, int, int]:
    """The accumulator, the key and the slot that the columns of a live tensor hold."""
    key, slot = ((int(values[high]) << 32) | int(values[low]) for high, low in (KEY_COLUMNS, _SLOT_COLUMNS))
    return _VARIANTS[int(values[0])], key, slot
