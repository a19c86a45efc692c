"""One compiled graph of a net: its slots and products, the plan's rows, and the work that it does."""

import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.fx import Graph, Node

from precc.amax_history import AmaxHistory
from precc.annotations import Operand, Product, Size, Unrounded, products_of, results_of, unrounded_of
from precc.delayed_rows import DelayedRows
from precc.errors import UnsupportedError
from precc.packing import PACK, UNPACK
from precc.plan import PrecisionPlan
from precc.plan_checks import check_product, check_result
from precc.plan_rows import draws, plan_rows
from precc.protocols import KernelOwner
from precc.round_op import ROUND
from precc.rounding import KEY_COLUMNS, PLAN_COLUMN, ROW_WIDTH, draw_key, key_halves
from precc.slots import ADDITION, Role, Slot
from precc.source_places import Place, place_of
from precc.tally import Tally
from precc.users_code import is_of_torch_or_ours

__all__ = ["KEPT_PLANS", "CapturedGraph", "depends_on_data", "plan_position", "size_value"]

#: Plans whose rows are kept; a controller switches between a handful.
KEPT_PLANS = 64


@dataclass(slots=True, eq=False)
class CapturedGraph:
    """What was captured by one compilation.

    Args:
        start: module path by which the captured code begins; neither the root nor the region after a graph break.
        tally: of what was executed so far, shared by the graphs of a net.
        parameters: names of the parameters that it takes in.
        amax: records of the slots, shared by the graphs of a net.
        region: path of the module that was compiled; the root's is empty.
        training: whether it has a backward.
        double: whether it has products of float64 values.
        visible_outputs: outputs that the caller sees.
        accumulates: whether its products can round their sums.
        rounds_results: whether results can be rounded.
        live: whether it has slots for any plan, or only those that its one plan rounds in.
    """

    start: str
    tally: Tally
    parameters: frozenset[str]
    amax: AmaxHistory
    region: str = ""
    training: bool = False
    double: bool = False
    visible_outputs: int = 0
    accumulates: bool = False
    rounds_results: bool = False
    live: bool = True
    slots: tuple[Slot, ...] = ()  # of operands
    products: tuple[Product, ...] = ()
    results: tuple[Operand, ...] = ()
    unrounded: tuple[Unrounded, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)  # of the user's lines, by op
    kernel_owners: list[KernelOwner] = field(default_factory=list)  # its halves, where they have kernels of their own
    _current: "_Rows" = field(default_factory=lambda: _NO_ROWS)
    _prepared: "OrderedDict[PrecisionPlan, _Rows]" = field(default_factory=OrderedDict)
    _plans: dict[int, PrecisionPlan] = field(default_factory=dict)  # those prepared, by number
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def take_records(self, graph: Graph) -> None:
        """Note the slots in the order of the plan's rows, the products, the results, and where the model has them."""
        self.products = tuple(product for _, product in products_of(graph))
        operands = [operand for product in self.products for operand in product.operands]
        self.slots = tuple(operand.slot for operand in operands)
        self.results = tuple(result for _, result in results_of(graph))
        self.double = any(operand.dtype == torch.float64 for operand in operands)
        self.unrounded = tuple(record for _, record in unrounded_of(graph))
        self.places = _places(graph)

    def check(self, plan: PrecisionPlan) -> None:
        """Whether the scalings, transforms and accumulators of a plan fit the values of the slots.

        Raises:
            PlanError: one does not; the message names the slot.
        """
        if plan in self._prepared:
            return
        for product in self.products:
            check_product(product, plan)
        for result in self.results:
            check_result(result, plan)

    def use(self, plan: PrecisionPlan) -> None:
        """Run under this plan from the next forward on. The rows are prepared once a plan."""
        if plan not in self._prepared:
            number = next(self._numbers)
            self._prepared[plan] = self._rows_of(plan, number)
            self._plans[number] = plan
            if len(self._prepared) > KEPT_PLANS:
                _, dropped = self._prepared.popitem(last=False)
                self._plans.pop(dropped.number, None)
        self._prepared.move_to_end(plan)
        if self._current is not self._prepared[plan]:
            self._current = self._prepared[plan]
            for owner in self.kernel_owners:
                owner.prepare(self._current.tensor)

    def retire(self) -> None:
        """Give back what switching plans needs; a backward of an earlier forward still finds its plan."""
        self._prepared.clear()

    def _rows_of(self, plan: PrecisionPlan, number: int) -> "_Rows":
        rows = plan_rows(self.products, self.results, plan)
        tensor = torch.tensor(rows, dtype=torch.float64, device="cpu").reshape(len(rows), ROW_WIDTH)
        tensor[:, PLAN_COLUMN] = number
        stochastic = draws(self.products, self.results, plan)
        return _Rows(tensor, stochastic, DelayedRows.of(self.products, self.results, plan), number)

    def next_rows(self, *, training: bool) -> Tensor:
        """The rows of the next forward: those of the plan, with a key and delayed scales of its own where it has any.

        Args:
            training: whether the net is in training mode: then a forward that has a backward adds to the history.

        Raises:
            UnsupportedError: delayed scales, and the forward is run in a backward.
        """
        current = self._current
        if not (current.stochastic or current.delayed):
            return current.tensor
        rows = current.tensor.clone()
        if current.stochastic:
            rows[:, KEY_COLUMNS[0] : KEY_COLUMNS[1] + 1] = torch.tensor(
                key_halves(draw_key()), dtype=torch.float64, device="cpu"
            )
        if current.delayed:
            self._refuse_recomputation()
            current.delayed.fill(rows, self.amax)
            if self.training and training:
                current.delayed.mark(rows, self.amax)
        return rows

    def _refuse_recomputation(self) -> None:
        # nothing says which earlier forward it repeats, whose scales it would need
        if self.training and torch._C._current_graph_task_id() != -1:
            raise UnsupportedError(
                "a net with delayed scales is called in a backward, as torch.utils.checkpoint does to compute a "
                "forward again: it would round by other scales than that forward did. Put the checkpoint inside the "
                "model, where it is captured, or use scalings without a history"
            )

    def plan_of(self, rows: Tensor) -> PrecisionPlan | None:
        """The plan that these rows were prepared for; None if it is no longer kept."""
        return self._plans.get(int(rows[0, PLAN_COLUMN])) if len(rows) else None

    def work_counter(self, graph: Graph) -> Callable[[list[Any]], None]:
        """A function of a forward or backward graph's arguments that adds one run's work to the tally."""
        products = tuple(product for _, product in products_of(graph))
        position = plan_position(graph)
        sizes = _SymbolReader.of(graph, [product.multiply_adds for product in products])

        @lru_cache(maxsize=KEPT_PLANS)
        def work(plan: PrecisionPlan | None, values: tuple[int, ...]) -> Tally:
            return _work(products, plan, sizes.bindings(values))

        def count(args: list[Any]) -> None:
            if position is not None:
                self.tally.add(work(self.plan_of(args[position]), sizes.read(args)))
            elif not self.live:
                self.tally.add(work(self._plans.get(self._current.number), sizes.read(args)))

        return count


def _places(graph: Graph) -> dict[str, Place]:
    """The line of the user's that computes each op of the forward, by its name; ops without one are left out."""
    forward = [(node, own.operands[0].slot) for node, own in products_of(graph) if own.role is Role.FPROP]
    sums = [(node, own.slot) for node, own in results_of(graph) if own.slot.family == ADDITION]
    found: dict[str, Place] = {}
    for node, slot in (*forward, *sums):
        place = place_of(node, slot.layer)
        if place.file and not is_of_torch_or_ours(place.file):
            found.setdefault(slot.op, place)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The rows of one plan."""

    tensor: Tensor
    stochastic: bool
    delayed: DelayedRows
    number: int = 0


_NO_ROWS: _Rows = _Rows(torch.empty(0, ROW_WIDTH, device="cpu"), False, DelayedRows((), ()))


def _format_label(product: Product, plan: PrecisionPlan) -> str:
    """The formats of a product's operands, one name if they agree, else all in operand order; and that of the sum."""
    names = [operand.computed_in(plan).format.name for operand in product.operands]
    accumulator = product.sums(plan)
    sums = "" if accumulator is None else f" in {accumulator} sums"
    return (names[0] if len(set(names)) == 1 else " x ".join(names)) + sums


def size_value(size: Size, bindings: Mapping[sympy.Symbol, int]) -> int:
    """A size as a number, its symbols replaced; those that are not bound take the value of the capture's example.

    A size that depends on data (the rows that a mask selects) is not known before the graph has run, and counts as 0.
    """
    if isinstance(size, int):
        return size
    bound = size.node.expr.xreplace({symbol: sympy.Integer(value) for symbol, value in bindings.items()})
    if not bound.free_symbols:
        return int(bound)
    return 0 if depends_on_data(size) else int(size.node.hint)


def depends_on_data(size: Size) -> bool:
    """Whether a size is only known when the graph has run."""
    return isinstance(size, torch.SymInt) and size.node.hint is None


def _work(products: Sequence[Product], plan: PrecisionPlan | None, bindings: Mapping[sympy.Symbol, int]) -> Tally:
    work = Tally()
    for product in products:
        count = size_value(product.multiply_adds, bindings)
        if plan is None:
            work.add(Tally(Counter({"(plan no longer kept)": count})))
            continue
        bits = [operand.computed_in(plan).bits for operand in product.operands]
        work.add(Tally(Counter({_format_label(product, plan): count}), count * sum(bits) / len(bits), count))
    return work


def plan_position(graph: Graph) -> int | None:
    """Position of the plan among the inputs of a half; None if it rounds nothing."""
    readers = (node for target in (ROUND, PACK, UNPACK) for node in graph.find_nodes(op="call_function", target=target))
    first = next(iter(readers), None)
    return None if first is None else list(graph.find_nodes(op="placeholder")).index(first.args[1])


@dataclass(frozen=True, slots=True)
class _SymbolReader:
    """Reads the values of a graph's size symbols off its arguments."""

    symbols: tuple[sympy.Symbol, ...]
    readers: tuple[Callable[[list[Any]], int], ...]

    @classmethod
    def of(cls, graph: Graph, sizes: Sequence[Size]) -> "_SymbolReader":
        needed: set[sympy.Symbol] = set()
        for size in sizes:
            if isinstance(size, torch.SymInt):
                needed |= size.node.expr.free_symbols
        found: dict[sympy.Symbol, Callable[[list[Any]], int]] = {}
        for position, node in enumerate(graph.find_nodes(op="placeholder")):
            for symbol, read in _readers(position, node):
                if symbol in needed:
                    found.setdefault(symbol, read)
        return cls(tuple(found), tuple(found.values()))

    def read(self, args: list[Any]) -> tuple[int, ...]:
        return tuple(read(args) for read in self.readers)

    def bindings(self, values: tuple[int, ...]) -> dict[sympy.Symbol, int]:
        return dict(zip(self.symbols, values, strict=True))


def _readers(position: int, node: Node) -> list[tuple[sympy.Symbol, Callable[[list[Any]], int]]]:
    value = node.meta.get("val")
    if isinstance(value, torch.SymInt):
        return [(value.node.expr, lambda args: int(args[position]))]
    if not isinstance(value, Tensor):
        return []
    sizes: list[tuple[int, Any]] = list(enumerate(value.shape))
    return [
        (size.node.expr, partial(_read_size, position, dim)) for dim, size in sizes if isinstance(size, torch.SymInt)
    ]


def _read_size(position: int, dim: int, args: list[Any]) -> int:
    return int(args[position].shape[dim])
