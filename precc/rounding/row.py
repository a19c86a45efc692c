"""What a kernel reads of a precision: one row of the live tensor of a plan, all numbers.

A row is self-contained: rows travel as a tensor through graphs, to the backward and through saved-tensor hooks, and
whoever holds one can round.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from precc.formats import (
    BlockFormat,
    FloatFormat,
    Format,
    Granularity,
    NestedInteger,
    PowerLaw,
    ScaleRule,
    Scaling,
    Transform,
    format_of_dtype,
)
from precc.rounding.grids import Grid, grid_of_element
from precc.rounding.modes import NEAREST_EVEN, Rounding, RoundingMode

__all__ = [
    "KEY_COLUMNS",
    "PLAN_COLUMN",
    "RECORD_COLUMNS",
    "ROW_WIDTH",
    "Grid",
    "Row",
    "ScaleRow",
    "key_halves",
    "parse_row",
    "row_of",
    "set_static_scales",
]


@dataclass(frozen=True, slots=True)
class ScaleRow:
    """A scaling as numbers; `granularity` 0 is none, `axis` is counted from the first dimension.

    Where there is a `history`, a row by which values can be rounded is static: `value` comes from the history.
    """

    granularity: int = 0
    rows: int = 1
    columns: int = 1
    axis: int = -1
    value: float = 1.0
    rule: int = 0
    two_level: int = 0
    mantissa_bits: int = 0
    emin: int = 0
    k_min: int = 0
    zero: int = 1  # whether a scale may be rounded to 0
    low: float = 0.0  # the smallest scale above 0
    high: float = 1.0
    element_high: float = 1.0
    history: int = 0

    @property
    def chosen_rule(self) -> ScaleRule:
        """How the scale is found."""
        return _RULES[self.rule]


_GRANULARITIES = tuple(Granularity)
_RULES = tuple(ScaleRule)
_TRANSFORMS = tuple(Transform)
_MODES = tuple(RoundingMode)


@dataclass(frozen=True, eq=False)
class Row:
    """One precision, as numbers. Rows compare by identity: `row_of` and `parse_row` give equal ones once.

    Args:
        grid: of the (first) rounding.
        shift: of a nested integer, whose second rounding is to multiples of ``2**shift``; 0 for none.
        power: of a power-law grid of ``2**grid.mantissa_bits`` codes; 0 for none.
        mode, random_bits: of the rounding.
        scale: of the scaling.
        slot: number of the slot: with the key of a forward it gives the stochastic bits.
        transform, mixed, signs: what is done before; along which dimension and with which signs, if it mixes.
    """

    grid: Grid
    shift: int = 0
    power: float = 0.0
    mode: RoundingMode = RoundingMode.NEAREST_EVEN
    random_bits: int = 0
    scale: ScaleRow = ScaleRow()
    slot: int = 0
    transform: Transform | None = None
    mixed: int = -1
    signs: int = 0

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The columns of the live tensor; the last five are those of the key, the plan and the record."""
        return (
            *(float(number) for number in astuple(self.grid)),
            float(self.shift),
            self.power,
            float(_MODES.index(self.mode)),
            float(self.random_bits),
            *(float(number) for number in astuple(self.scale)),
            float(1 + _TRANSFORMS.index(self.transform)) if self.transform is not None else 0.0,
            float(self.mixed),
            float(self.signs),
            *key_halves(self.slot),
            *(0.0, 0.0, 0.0, 0.0, 0.0),
        )

    @property
    def is_stochastic(self) -> bool:
        """Whether it draws random bits."""
        return self.mode is RoundingMode.STOCHASTIC

    @cached_property
    def mode_index(self) -> int:
        """The mode as a number."""
        return _MODES.index(self.mode)

    @cached_property
    def mode_needs_state(self) -> bool:
        """Whether the mode needs more than the value."""
        return Rounding(self.mode).needs_state

    @cached_property
    def granularity(self) -> Granularity | None:
        """What has one scale."""
        return _GRANULARITIES[self.scale.granularity - 1] if self.scale.granularity else None

    @cached_property
    def finds_scales(self) -> bool:
        """Whether its scales come from the values that are rounded."""
        return self.granularity not in (None, Granularity.STATIC)

    @property
    def lacks_history(self) -> bool:
        """Whether its scale is to come from a history that is not there."""
        return self.scale.history > 0 and self.finds_scales

    @property
    def current(self) -> "Row":
        """The same with the tensor's own scale instead of a delayed one."""
        return replace(self, scale=replace(self.scale, history=0)) if self.scale.history else self

    def is_identity(self, dtype: torch.dtype) -> bool:
        """Whether rounding changes no value that a tensor of this dtype can hold."""
        return dtype in self._unchanged

    @cached_property
    def _unchanged(self) -> frozenset[torch.dtype]:
        if self.scale.granularity or self.shift or self.power:
            return frozenset()
        return frozenset(dtype for dtype in _DTYPES if self._holds(_own_grid(dtype)))

    def _holds(self, own: Grid) -> bool:
        grid = self.grid
        return (
            grid.mantissa_bits >= own.mantissa_bits
            and grid.k_min <= own.k_min
            and grid.high >= own.high
            and grid.low <= own.low
            and math.isinf(grid.above)
            and grid.negative_zero == 1
        )


_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _own_grid(dtype: torch.dtype) -> Grid:
    fmt = format_of_dtype(dtype)
    assert isinstance(fmt, FloatFormat)
    return grid_of_element(fmt)


#: Numbers in a row; where the two halves of its key stand, the number of its plan, and the numbers of the history and
#: of the forward for which the largest magnitude is recorded (0: it is not).
ROW_WIDTH = len(fields(Grid)) + 4 + len(fields(ScaleRow)) + 3 + 7
KEY_COLUMNS = (ROW_WIDTH - 5, ROW_WIDTH - 4)
PLAN_COLUMN = ROW_WIDTH - 3
RECORD_COLUMNS = (ROW_WIDTH - 2, ROW_WIDTH - 1)


def key_halves(number: int) -> tuple[float, float]:
    """A 64-bit number as two columns, which hold it exactly."""
    return float(number >> 32), float(number & 0xFFFFFFFF)


def set_static_scales(rows: Tensor, indices: list[int], scales: Tensor, history: int) -> None:
    """Write into these rows of a live tensor that their scales are given: those found from a history."""
    static = 1 + _GRANULARITIES.index(Granularity.STATIC)
    names = [entry.name for entry in fields(ScaleRow)]
    first = len(fields(Grid)) + 4
    rows[indices, first + names.index("granularity")] = float(static)
    rows[indices, first + names.index("value")] = scales.to(rows.dtype)
    rows[indices, first + names.index("history")] = float(history)


def parse_row(values: list[float]) -> tuple[Row, int]:
    """The row and the key that the columns of a live tensor hold."""
    key = (int(values[KEY_COLUMNS[0]]) << 32) | int(values[KEY_COLUMNS[1]])
    # one NaN for all, so that equal rows are found again
    fixed = (math.nan if value != value else value for value in values[: KEY_COLUMNS[0]])
    return _parsed(tuple(fixed)), key


@lru_cache(maxsize=8192)
def _parsed(values: tuple[float, ...]) -> Row:
    grid, rest = values[: len(fields(Grid))], values[len(fields(Grid)) :]
    shift, power, mode, random_bits = rest[:4]
    scale, rest = rest[4 : 4 + len(fields(ScaleRow))], rest[4 + len(fields(ScaleRow)) :]
    (transform, mixed, signs), slot = rest[:3], rest[3:]
    return Row(
        _filled(Grid, grid),
        int(shift),
        power,
        _MODES[int(mode)],
        int(random_bits),
        _filled(ScaleRow, scale),
        (int(slot[0]) << 32) | int(slot[1]),
        _TRANSFORMS[int(transform) - 1] if transform else None,
        int(mixed),
        int(signs),
    )


_Record = TypeVar("_Record", Grid, ScaleRow)


def _filled(record: type[_Record], numbers: Sequence[float]) -> _Record:
    typed = (
        int(number) if entry.type is int else number for entry, number in zip(fields(record), numbers, strict=True)
    )
    made: _Record = cast(Any, record)(*typed)
    return made


def _scale_row(scaling: Scaling | None, element_high: float, axis: int, channel: int) -> ScaleRow:
    if scaling is None:
        return ScaleRow()
    own_axis = channel if scaling.granularity is Granularity.CHANNEL else axis
    scale = scaling.scale_format
    return ScaleRow(
        granularity=1 + _GRANULARITIES.index(scaling.granularity),
        rows=scaling.size[0],
        columns=scaling.size[1],
        axis=own_axis if scaling.axis is None else scaling.axis,
        value=scaling.value,
        rule=_RULES.index(scaling.rule),
        two_level=int(scaling.two_level),
        mantissa_bits=scale.mantissa_bits,
        emin=scale.emin,
        k_min=scale.k_min,
        zero=int(scale.zero),
        low=scale.smallest_subnormal if scale.zero else scale.smallest_normal,
        high=scale.max,
        element_high=element_high,
        history=scaling.history,
    )


@lru_cache(maxsize=8192)
def row_of(
    fmt: Format,
    rounding: Rounding = NEAREST_EVEN,
    scaling: Scaling | None = None,
    *,
    axis: int = -1,
    channel: int = -1,
    slot: int = 0,
    transform: Transform | None = None,
    signs: int = 0,
) -> Row:
    """The row of a precision.

    Args:
        fmt: the format.
        rounding: the rounding into it.
        scaling: the scaling of an element format; a block format has its own.
        axis: the contracted dimension, for scalings that name none.
        channel: the channel dimension, likewise.
        slot: number of the slot.
        transform: what is done before; a Hadamard transform mixes along `axis`.
        signs: seed of its signs, of 32 bits.

    Raises:
        FormatError: the format cannot be scaled.
    """
    if scaling is not None:
        fmt = BlockFormat(name=fmt.name, element=fmt, scaling=scaling)  # type: ignore[arg-type]  # checked there
    element = fmt.element if isinstance(fmt, BlockFormat) else fmt
    scaling = fmt.scaling if isinstance(fmt, BlockFormat) else None
    if isinstance(element, FloatFormat) and element.scale != 1.0:
        scaling = Scaling("static", value=element.scale)
    shift = element.high_bits - element.low_bits if isinstance(element, NestedInteger) else 0
    power = element.power if isinstance(element, PowerLaw) else 0.0
    bits = rounding.random_bits if rounding.mode is RoundingMode.STOCHASTIC else 0
    scale = _scale_row(scaling, element.max, axis, channel)
    return Row(grid_of_element(element), shift, power, rounding.mode, bits, scale, slot, transform, axis, signs)
