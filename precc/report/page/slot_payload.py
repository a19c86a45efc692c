"""The ops and slots of a report, column by column, as a page reads them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from precc.report.layer_row import LayerRow
from precc.report.page.format_list import FormatList
from precc.report.page.packed import figure, figures, packed
from precc.report.precision_report import PrecisionReport
from precc.report.short_names import short_formats, without_scalings
from precc.report.slot_row import SlotRow
from precc.slots import ACCUMULATOR, RESULT, Role

__all__ = ["MAP_COLUMNS", "column_names", "errors_payload", "op_names", "op_payload", "slot_payload"]

#: The columns of a map: products by kind, and their operands, sums and results.
_PRODUCTS = {Role.FPROP: 0, Role.DGRAD: 1, Role.DGRAD_A: 1, Role.WGRAD: 2, Role.DGRAD_B: 2, Role.UPDATE: 3}
_PARTS = ("A", "B", "C", "D", "sum", "result")
MAP_COLUMNS = tuple(f"{product} {part}" for product in ("fprop", "dgrad", "wgrad", "update") for part in _PARTS)


def op_names(report: PrecisionReport) -> list[str]:
    """Names of the ops, those of the table first, each once."""
    return list(dict.fromkeys([*(row.name for row in report.rows), *(row.slot.op for row in report.slots)]))


def op_payload(report: PrecisionReport) -> dict[str, Any]:
    """The rows; ops that have slots alone have no figures."""
    rows = {row.name: row for row in report.rows}
    names = op_names(report)
    every: list[LayerRow | None] = [rows.get(name) for name in names]
    formats = [["-"] * 3 if row is None else list(row.formats) for row in every]
    short, stars = without_scalings(short_formats(text) for own in formats for text in own)
    return {
        "names": names,
        "layers": [name.rpartition("/")[0] for name in names],
        "formats": formats,
        "short": [[short[short_formats(text)] for text in own] for own in formats],
        "stars": stars,
        "work": [0 if row is None else row.multiply_adds for row in every],
        **{
            name: figures(None if row is None else getattr(row, name) for row in every)
            for name in ("share", "amin", "amax", "condition", "cost")
        },
        **errors_payload(every),
        "why": ["" if row is None else row.why for row in every],
        "places": ["" if row is None or row.place is None else str(row.place) for row in every],
    }


def errors_payload(rows: Sequence[LayerRow | SlotRow | None]) -> dict[str, list[Any]]:
    """Errors of gradient and loss, predicted and measured; of the loss, the root of its mean square.

    Of the gradient also its standard error, and why it is not sure.
    """
    found: dict[str, list[Any]] = {}
    for kind in ("predicted", "measured"):
        own = [None if row is None else getattr(row, kind) for row in rows]
        found[kind] = [None if one is None else figure(one.gradient) for one in own]
        roots = [None if one is None else math.hypot(one.loss_mean, one.loss) for one in own]
        found[f"{kind}_loss"] = figures(roots)
        found[f"{kind}_within"] = figures(None if one is None else one.standard_error for one in own)
        found[f"{kind}_doubt"] = ["" if one is None else one.doubt for one in own]
    return found


def slot_payload(report: PrecisionReport, formats: FormatList) -> dict[str, Any]:
    """The slots, with histograms end to end: ``ends`` says where each one ends."""
    rows = report.slots
    numbers = {name: number for number, name in enumerate(op_names(report))}
    texts = list(dict.fromkeys(row.precision for row in rows))
    positions = {text: number for number, text in enumerate(texts)}
    values = [row.values for row in rows]
    bands = [row.band for row in rows]
    return {
        "leaves": [row.name.rpartition("/")[2] for row in rows],
        "ops": [numbers[row.slot.op] for row in rows],
        "cells": _cells(rows),
        "texts": texts,
        "precisions": [positions[row.precision] for row in rows],
        "formats": [formats.number(row.format) for row in rows],
        "rounded": [int(row.rounded) for row in rows],
        "condition": figures(row.condition for row in rows),
        **errors_payload(rows),
        **{
            name: figures(None if own is None else getattr(own, name) for own in values)
            for name in ("elements", "zeros", "nonfinite", "amax", "amin", "underflow", "overflow")
        },
        **_histograms(rows),
        **{
            name: figures(None if own is None else getattr(own, name) for own in bands)
            for name in ("lowest", "normal", "highest")
        },
        "approximate": [int(own is not None and own.approximate) for own in bands],
    }


def _histograms(rows: Sequence[SlotRow]) -> dict[str, Any]:
    found: list[tuple[int, int]] = []
    ends = []
    for row in rows:
        found += row.values.histogram if row.values is not None else ()
        ends.append(len(found))
    exponents, counts = zip(*found, strict=True) if found else ((), ())
    kind = "i4" if max(counts, default=0) < 2**31 else "f8"
    return {"ends": ends, "exponents": packed(exponents, "i2"), "counts": packed(counts, kind)}


@dataclass(slots=True)
class _Operands:
    """Numbers the operands of each product in the order in which they come."""

    seen: dict[tuple[str, Role], int]

    def part(self, row: SlotRow) -> int:
        slot = row.slot
        if slot.operand in (ACCUMULATOR, RESULT):
            return _PARTS.index("sum" if slot.operand == ACCUMULATOR else "result")
        number = self.seen.get((slot.op, slot.role), 0)
        self.seen[slot.op, slot.role] = number + 1
        return min(number, 3)


def _cells(rows: Sequence[SlotRow]) -> list[int]:
    operands = _Operands({})
    return [_PRODUCTS[row.slot.role] * len(_PARTS) + operands.part(row) for row in rows]


def column_names(report: PrecisionReport) -> list[str]:
    """Of each column of the map, the operands that stand in it, such as ``fprop.input / a``."""
    found: list[dict[str, None]] = [{} for _ in MAP_COLUMNS]
    for row, cell in zip(report.slots, _cells(report.slots), strict=True):
        found[cell][row.slot.operand] = None
    names = zip(MAP_COLUMNS, found, strict=True)
    return [f"{name.partition(' ')[0]}.{' / '.join(own)}" if own else name for name, own in names]
