"""The rows of a plan that a group reads, as it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from precc.accumulation.product_ops import PRODUCT_OPS
from precc.accumulation.rows import parse_accumulator_row
from precc.annotations import Product, annotation_of
from precc.backends.triton.alike_rows import alike
from precc.backends.triton.program import LiveRow, Rows
from precc.packing import PACK, UNPACK
from precc.round_op import ROUND
from precc.rounding import RECORD_COLUMNS, ROW_WIDTH, parse_row

__all__ = ["PlanRows", "RowsRead", "live_rows", "plan_of", "row_number", "rows_read"]


@dataclass(frozen=True, slots=True)
class RowsRead:
    """Numbers of the rows that a group reads.

    Args:
        operands: of values that are rounded.
        sums: of accumulators.
    """

    operands: tuple[int, ...]
    sums: tuple[int, ...]


_OPERANDS = frozenset({ROUND, PACK, UNPACK})
_PRODUCTS = frozenset(PRODUCT_OPS.values())


def rows_read(module: GraphModule) -> RowsRead:
    """Those that the nodes of a module name."""
    operands: dict[int, None] = {}
    sums: dict[int, None] = {}
    for node in module.graph.nodes:
        if node.target in _OPERANDS:
            operands[row_number(node)] = None
        elif node.target in _PRODUCTS:
            sums[int(node.args[-1])] = None
        record = annotation_of(node) if node.op == "call_function" else None
        if isinstance(record, Product) and record.row >= 0:  # what a product may know of operands rounded elsewhere
            operands |= dict.fromkeys(range(record.row, record.accumulator_row))
    return RowsRead(tuple(operands), tuple(sums))


def row_number(node: Node) -> int:
    """Of the row by which a node rounds, packs or unpacks."""
    number = node.args[2]
    assert isinstance(number, int)
    return number


def plan_of(node: Node) -> Node | None:
    """The plan that a node reads; None if it reads none."""
    place = 1 if node.target in _OPERANDS else -2 if node.target in _PRODUCTS else None
    plan = None if place is None else node.args[place]
    assert plan is None or isinstance(plan, Node)
    return plan


@dataclass(frozen=True, slots=True)
class PlanRows:
    """Live rows, and what of them a program is specialised for.

    Args:
        rows: by number.
        variant: equal for rows that differ in scales given, keys and slots alone.
        content: equal for rows that round alike; None where they draw random numbers, or record.
    """

    rows: Mapping[int, LiveRow]
    variant: tuple[object, ...]
    content: tuple[object, ...] | None = None

    @classmethod
    def of(cls, read: RowsRead, plan: Tensor) -> "PlanRows":
        """The rows that a group reads, of a live tensor of a plan."""
        return cls.among(read, live_rows(read, plan))

    @classmethod
    def among(cls, read: RowsRead, rows: Rows) -> "PlanRows":
        """The rows that a group reads, among others."""
        own = {number: rows[number] for number in (*read.operands, *read.sums) if number in rows}
        variant = tuple((number, *_variant(live)) for number, live in own.items())
        return cls(own, variant, _content(own))


def live_rows(read: RowsRead, plan: Tensor) -> Rows:
    """Some rows of a live tensor of a plan; none where it is that of a graph that rounds nothing."""
    rows: dict[int, LiveRow] = {}
    numbers = [*read.operands, *read.sums]
    if not numbers or plan.dim() != 2 or plan.shape[-1] != ROW_WIDTH:
        return rows
    values = plan[numbers].tolist()
    for number, own in zip(read.operands, values, strict=False):
        row, key = parse_row(own)
        rows[number] = LiveRow(row, None, key, row.slot, record=_record(own))
    for number, own in zip(read.sums, values[len(read.operands) :], strict=True):
        sums, key, slot = parse_accumulator_row(own)
        rows[number] = LiveRow(None, sums, key, slot)
    return rows


def _variant(live: LiveRow) -> tuple[object, ...]:
    return (live.sums,) if live.row is None else (alike(live.row, torch.float32).values, live.records)


def _content(rows: Mapping[int, LiveRow]) -> tuple[object, ...] | None:
    own = [(number, live.row) for number, live in rows.items() if live.row is not None]
    if any(row.is_stochastic or rows[number].records for number, row in own):
        return None
    return tuple((number, row.values) for number, row in own)


def _record(values: Sequence[float]) -> tuple[int, int] | None:
    history, forward = (int(values[column]) for column in RECORD_COLUMNS)
    return (history, forward) if forward else None
