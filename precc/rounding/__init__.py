"""Rounding: modes, the rows that kernels read, and the exact tensor operations that every kernel equals."""

from precc.rounding.modes import MAX_RANDOM_BITS, NEAREST_EVEN, Rounding, RoundingMode, parse_rounding
from precc.rounding.quantize import quantize
from precc.rounding.random_bits import draw_key, slot_number
from precc.rounding.row import KEY_COLUMNS, PLAN_COLUMN, RECORD_COLUMNS, ROW_WIDTH, Row, key_halves, parse_row, row_of

__all__ = [
    "KEY_COLUMNS",
    "MAX_RANDOM_BITS",
    "NEAREST_EVEN",
    "PLAN_COLUMN",
    "RECORD_COLUMNS",
    "ROW_WIDTH",
    "Rounding",
    "RoundingMode",
    "Row",
    "draw_key",
    "key_halves",
    "parse_row",
    "parse_rounding",
    "quantize",
    "row_of",
    "slot_number",
]
