"""The rows of a plan that a group reads, as it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from torch import Tensor
from torch.fx import GraphModule, Node

from precc.accumulation.product_ops import PRODUCT_OPS
from precc.accumulation.rows import parse_accumulator_row
from precc.annotations import Product, annotation_of
from precc.backends.triton.program import LiveRow
from precc.formats import Granularity
from precc.packing import PACK, UNPACK
from precc.round_op import ROUND
from precc.rounding import RECORD_COLUMNS, ROW_WIDTH, Row, parse_row

__all__ = ["PlanRows", "RowsRead", "plan_of", "rows_read"]


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
            operands[int(node.args[2])] = None
        elif node.target in _PRODUCTS:
            sums[int(node.args[-1])] = None
        record = annotation_of(node) if node.op == "call_function" else None
        if isinstance(record, Product) and record.row >= 0:  # what a product may know of operands rounded elsewhere
            operands |= dict.fromkeys(range(record.row, record.accumulator_row))
    return RowsRead(tuple(operands), tuple(sums))


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
        rows: dict[int, LiveRow] = {}
        variant: list[object] = []
        if plan.dim() != 2 or plan.shape[-1] != ROW_WIDTH:  # of a graph that rounds nothing
            return cls({}, ())
        values = plan[[*read.operands, *read.sums]].tolist() if read.operands or read.sums else []
        for number, own in zip(read.operands, values, strict=False):
            row, key = parse_row(own)
            rows[number] = LiveRow(row, None, key, row.slot, records=_records(own))
            variant += [number, _static_part(row), rows[number].records]
        for number, own in zip(read.sums, values[len(read.operands) :], strict=True):
            sums, key, slot = parse_accumulator_row(own)
            rows[number] = LiveRow(None, sums, key, slot)
            variant += [number, sums]
        return cls(rows, tuple(variant), _content(rows))


def _content(rows: Mapping[int, LiveRow]) -> tuple[object, ...] | None:
    own = [(number, live.row) for number, live in rows.items() if live.row is not None]
    if any(row.is_stochastic or rows[number].records for number, row in own):
        return None
    return tuple((number, row.values) for number, row in own)


def _records(values: Sequence[float]) -> bool:
    return values[RECORD_COLUMNS[1]] != 0


@lru_cache(maxsize=8192)
def _static_part(row: Row) -> tuple[float, ...]:
    """All numbers of a row but those that kernels are given as they run."""
    given = row.granularity is Granularity.STATIC
    scale = replace(row.scale, value=1.0) if given else row.scale
    return tuple(-1.0 if value != value else value for value in replace(row, slot=0, scale=scale).values)
