"""Groups around matrix products made by hand, and what they must give, for the tests of the Triton backend."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from precc.accumulation.product_ops import PRODUCT_OPS
from precc.accumulation.rows import accumulator_row
from precc.accumulation.sums import Sums
from precc.annotations import Operand, Product, annotate
from precc.backends.triton.device import INTERPRETER, Device
from precc.backends.triton.live_rows import PlanRows, rows_read
from precc.backends.triton.program import Built, Group
from precc.backends.triton.templates.product import ProductProgram, ProductTemplate
from precc.formats import Scaling, parse_format
from precc.fusion_group import FusionGroup, GroupKind
from precc.packing import PACK, UNPACK
from precc.round_op import ROUND
from precc.rounding import ROW_WIDTH, Row, parse_rounding, row_of
from precc.rounding.row import KEY_COLUMNS
from precc.slots import Slot

KEY = 0x123456789ABCDEF
PLAIN = parse_format("float64")
ATEN = torch.ops.aten

#: The nodes behind a product: graph, product, plan and further placeholders, to what the group returns.
Behind = Callable[[Graph, Node, Node, Sequence[Node]], Sequence[Node]]


def rounding_row(name: str, scaling: Scaling | None = None, axis: int = -1, mode: str = "nearest_even") -> Row:
    """Of a format, for a matrix whose dimension `axis` is contracted; the other one has its channels."""
    return row_of(parse_format(name), parse_rounding(mode), scaling, axis=axis, channel=-3 - axis, slot=9)


def plan_tensor(rows: Sequence[Row]) -> Tensor:
    """A live plan of these rows, with one key."""
    plan = torch.zeros(len(rows), ROW_WIDTH, dtype=torch.float64)
    for own, row in zip(plan, rows, strict=True):
        own[: len(row.values)] = torch.tensor(row.values, dtype=torch.float64)
        own[KEY_COLUMNS[0]], own[KEY_COLUMNS[1]] = KEY >> 32, KEY & 0xFFFFFFFF
    return plan


def result(graph: Graph, product: Node, plan: Node, more: Sequence[Node]) -> Sequence[Node]:
    """The product alone."""
    return [product]


@dataclass
class MadeProduct:
    """A product of two tensors rounded by the rows 0 and 1, and what follows.

    Args:
        op: ``"mm"``, ``"addmm"``, ``"bmm"`` or ``"baddbmm"``.
        a: the first operand, [.., M, K].
        b: the second, [.., K, N].
        rows: of the plan; the first two are the operands'.
        behind: nodes behind it.
        more: further placeholders' values; the first is the bias of ``addmm`` and ``baddbmm``.
        packed: which operands come in packed.
        device: that it is made for.
        sums: how the sums are rounded, of the row 2; rows of what follows are from 3 on. None: not at all.
    """

    op: str
    a: Tensor
    b: Tensor
    rows: Sequence[Row]
    behind: Behind = result
    more: Sequence[Tensor] = ()
    packed: str = ""
    device: Device = INTERPRETER
    name: str = "fc1_product_fprop"
    sums: Sums | None = None
    group: Group = field(init=False)
    args: list[Tensor] = field(init=False)
    plan: Tensor = field(init=False)

    def __post_init__(self) -> None:
        graph = Graph()
        places = [graph.placeholder(name) for name in ("x", "w", *(f"more{n}" for n in range(len(self.more))))]
        plan = graph.placeholder("plan")
        self.plan = plan_tensor(self.rows)
        if self.sums is not None:
            self.plan = plan_tensor([*self.rows[:2], self.rows[0], *self.rows[2:]])
            self.plan[2, : KEY_COLUMNS[0]] = torch.tensor(accumulator_row(self.sums, 77))[: KEY_COLUMNS[0]]
        self.args = [self.a, self.b, *self.more]
        operands = [self._operand(graph, n, places[n], plan) for n in (0, 1)]
        biased = self.op in ("addmm", "baddbmm")
        first, more = (places[2:3], places[3:]) if biased else ([], places[2:])
        product = graph.call_function(getattr(ATEN, self.op).default, (*first, *operands))
        if self.sums is not None:
            product.target, product.args = PRODUCT_OPS[self.op], (*product.args, plan, 2)
        annotate(product, self._record(len(first)))
        graph.output(tuple(self.behind(graph, product, plan, more)))
        record = FusionGroup(self.name, GroupKind.PRODUCT, (product.name,), ("fc1/product/fprop.a",))
        self.group = Group(record, GraphModule(torch.nn.Module(), graph), backward=False)

    def _operand(self, graph: Graph, n: int, place: Node, plan: Node) -> Node:
        value = (self.a, self.b)[n]
        if "ab"[n] not in self.packed:
            return graph.call_function(ROUND, (place, plan, n))
        self.args[n] = PACK(value, self.plan, n, n == 1)
        return graph.call_function(UNPACK, (place, plan, n, list(value.shape), value.dtype, n == 1))

    def _record(self, first: int) -> Product:
        slots = [Slot.parse(f"fc1/product/fprop.{side}") for side in "ab"]
        operands = [
            Operand(first + n, slots[n], (-1, -2)[n], (-2, -1)[n], value.dim(), value.dtype)
            for n, value in enumerate((self.a, self.b))
        ]
        return Product(tuple(operands), 0, row=0)

    def built(self) -> Built:
        """The program, or why there is none."""
        rows = PlanRows.of(rows_read(self.group.module), self.plan)
        return ProductTemplate().build(self.group, self.args, rows.rows, self.device)

    def program(self) -> ProductProgram:
        """The program; fails where there is none."""
        program = self.built()
        assert isinstance(program, ProductProgram), program
        return program

    def ours(self) -> tuple[Tensor, ...]:
        """What the kernels give."""
        return self.program()(self.args, PlanRows.of(rows_read(self.group.module), self.plan).rows)

    def reference(self) -> tuple[Tensor, ...]:
        """What the nodes give, one after the other."""
        with torch.no_grad():
            found: tuple[Tensor, ...] = self.group.module(*self.args, self.plan)
        return found
