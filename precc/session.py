"""The life of one net: its plan, its graphs, and each of its calls."""

import itertools
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from types import FunctionType
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch._dynamo.utils import counters

from precc.amax_history import AmaxHistory
from precc.capture import GraphCompiler
from precc.captured_graph import CapturedGraph, size_value
from precc.errors import CaptureError, PlanError, PrecisionWarning
from precc.pipeline import Pipeline
from precc.plan import PrecisionPlan
from precc.policy import Uniform
from precc.protocols import Backend
from precc.slots import Slot
from precc.strict_dynamo import base_name, strict_dynamo

__all__ = ["HAS_ISOLATION", "CompileOptions", "Session", "training_first"]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """How a net is compiled; everything that a copy of the net needs to be compiled alike.

    `lacking` says what a faster backend would need on this machine; empty if there is none.
    """

    pipeline: Pipeline
    accumulating: Pipeline
    naming: Pipeline
    backend: Backend
    fullgraph: bool = False
    dynamic: bool | None = None
    lacking: str = ""


@dataclass(eq=False, repr=False)
class Session:
    """What a net keeps beside its parameters.

    Args:
        options: how it is compiled.
        chosen: the plan that somebody set; None for full precision.
        full_precision: the plan that rounds nothing: float32, or float64 once a graph has float64 operands.
        graphs: those captured so far.
        graph_breaks: why the capture was interrupted.
        events: what controllers counted.
        accumulates: whether graphs are built so that products can round their sums; set by the first plan that does.
        amax: largest magnitudes of the slots with delayed scales.
        former: graphs that were captured before those that are in use, whose slots the net still has.
    """

    options: CompileOptions
    chosen: PrecisionPlan | None = None
    full_precision: PrecisionPlan = field(default_factory=lambda: Uniform("float32").assign())
    graphs: list[CapturedGraph] = field(default_factory=list)
    graph_breaks: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    accumulates: bool = False
    amax: AmaxHistory = field(default_factory=AmaxHistory)
    former: list[CapturedGraph] = field(default_factory=list)
    _checked: bool = False  # whether the plan in force was found to fit the graphs
    _compiler: GraphCompiler = field(init=False)
    _entry: Any = field(init=False)

    def __post_init__(self) -> None:
        self.accumulates |= self.plan.rounds_sums
        self._build(Counter())

    def _build(self, tally: Counter[str]) -> None:
        """Begin without graphs; `tally` is the work executed so far."""
        lowering = self.options.accumulating if self.accumulates else Pipeline(())
        self._compiler = GraphCompiler(
            self.options.pipeline, lowering, self.options.backend, self._on_capture, self.amax, tally=tally
        )
        self._entry = _isolated_compile(self._compiler, self.options)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or unpickled net has plan and amax history; graphs and counts of work and events are its own."""
        return _copied, (self.options, self.chosen, self.full_precision, self.accumulates, self.amax)

    @property
    def plan(self) -> PrecisionPlan:
        """The plan of the next forward."""
        return self.full_precision if self.chosen is None else self.chosen

    @property
    def runs(self) -> int:
        """How often a compiled graph was entered."""
        return self._compiler.runs

    @property
    def tally(self) -> Counter[str]:
        """Multiply-adds executed so far, by format."""
        return self._compiler.tally

    @property
    def multiply_adds(self) -> dict[str, int]:
        """Multiply-adds of the product that each known slot feeds, at the sizes of its first capture in training."""
        work: dict[str, int] = {}
        for graph in training_first(self.known):
            for product in graph.products:
                for operand in product.operands:
                    work.setdefault(operand.slot.name, size_value(product.multiply_adds, {}))
        return work

    @property
    def known(self) -> list[CapturedGraph]:
        """The graphs that say what slots there are: those in use, and until one of them has a backward, the former."""
        return self.graphs if any(graph.training for graph in self.graphs) else [*self.graphs, *self.former]

    def forget_plan(self) -> None:
        """Go on in full precision, as if no plan had been set."""
        self.chosen = None
        for graph in self.graphs:
            graph.use(self.plan)

    def use(self, plan: PrecisionPlan, net: nn.Module, *, recompile: bool = False) -> None:
        """Set the plan of the next forward.

        Raises:
            PlanError: the plan names a slot that the net does not have, a scaling that a slot's value cannot
                have, or accumulators, without which the graphs were built; the old plan stays.
        """
        self._check_slots(plan, net)
        for graph in self.known:
            graph.check(plan)
        self.prepare([plan], recompile=recompile)
        for graph in self.graphs:
            graph.use(plan)
        self.chosen, self._checked = plan, True

    def prepare(self, plans: Sequence[PrecisionPlan], *, recompile: bool) -> None:
        """Have graphs in which these plans can run, from the next forward on.

        Raises:
            PlanError: a plan has accumulators, the graphs were built without, and must not be built again.
        """
        needing = next((plan for plan in plans if plan.rounds_sums), None)
        if needing is None or self.accumulates:
            return
        if self.graphs and not recompile:
            some = {name: own for name, own in needing.accumulators.items() if own is not None}
            name, own = next(iter(some.items()), ("every product", needing.default_accumulator))
            raise PlanError(
                f"the plan sums {name!r} in {own}, but the net's graphs were built without accumulators: "
                "net.set_plan(plan, recompile=True) builds them again, and precc.compile(..., plan=...) or policy=... "
                "with an accumulator builds them so at once"
            )
        self.accumulates = True
        self.former, self.graphs = [*self.former, *self.graphs], []
        self._build(self.tally)

    def _check_slots(self, plan: PrecisionPlan, net: nn.Module) -> None:
        self.check_slots([*plan.slots, *plan.accumulators], plan.multiply_adds, net)

    def check_slots(
        self, names: Collection[str], brought: Iterable[str], net: nn.Module, *, namer: str = "the plan"
    ) -> None:
        """Refuse unknown slots, once a training graph is known: an inference graph has a subset.

        Raises:
            PlanError: a name is of no slot.
        """
        unknown = self._unknown_slots(names, brought, net)
        if unknown:
            known = {slot.name for graph in self.known for slot in graph.slots}
            some = ", ".join(repr(name) for name in unknown[:3])
            has = ", ".join(sorted(known)[:6]) or "none"
            raise PlanError(
                f"{namer} names {len(unknown)} slot(s) that the net does not have: {some}; its slots are {has}"
                + (", ..." if len(known) > 6 else "")
            )

    def _unknown_slots(self, names: Collection[str], brought: Iterable[str], net: nn.Module) -> list[str]:
        """The names that are of no slot; none before a training graph is known.

        A slot of a module of the net that a plan has brought from a capture (it has its multiply-adds) may belong to
        a graph that is still to come.
        """
        graphs = self.known
        if not names or not any(graph.training for graph in graphs):
            return []  # a plan that names no slot fits any net: controllers switch between such plans at each step
        known = {slot.name for graph in graphs for slot in graph.slots}
        sums = {product.accumulator.name for graph in graphs for product in graph.products}
        layers = {path for path, _ in net.named_modules()}
        captured = [slot for slot in map(Slot.parse, brought) if slot.layer in layers]
        to_come = {name for slot in captured for name in (slot.name, slot.accumulator.name)}
        return sorted({*names} - known - sums - to_come)

    def _drop_foreign_histories(self, net: nn.Module) -> None:
        """A state that was loaded before the first call may have histories of slots of another net."""
        foreign = self._unknown_slots(list(self.amax.to_lists()), self.plan.multiply_adds, net)
        if foreign:
            self.amax.drop(foreign)
            warnings.warn(
                f"{base_name(net)} has no slot {foreign[0]!r}: its amax history, and {len(foreign) - 1} more, that a "
                "precision_state brought are dropped",
                PrecisionWarning,
                stacklevel=5,
            )

    def _on_capture(self, graph: CapturedGraph) -> None:
        graph.check(self.plan)
        if not self.graphs and self.former:
            self.graph_breaks.clear()  # those of the former graphs
        self.graphs.append(graph)
        self._checked = False
        if graph.double:
            self.full_precision = Uniform("float64").assign()
        for known in self.graphs:
            known.use(self.plan)

    def call(self, net: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the net's forward through its compiled graphs.

        Raises:
            CaptureError: no graph could be captured from it.
            PlanError: the plan in force names a slot that the net, now that it is captured, does not have.
            RecompileLimitError: it needs one more graph than torch._dynamo allows.
            DeviceError: its tensors are on several devices.
            BackendError: the backend failed on the graph.
        """
        if not self._checked:
            self._check_slots(self.plan, net)
        compiler = self._compiler
        runs, compiler.root = compiler.runs, ref(net)
        known_breaks = Counter(counters["graph_break"])
        with strict_dynamo(net, args, kwargs):
            result = self._entry(net, args, kwargs)
        breaks = list((Counter(counters["graph_break"]) - known_breaks).elements())
        if compiler.runs == runs:
            why = f" (stopped by: {_first_line(breaks[-1])})" if breaks else ""
            raise CaptureError(
                f"calling {base_name(net)} ran no captured graph, so nothing was rounded{why}: its forward has no "
                "tensor operation that torch.compile can capture, or compilation is switched off "
                "(TORCHDYNAMO_DISABLE, torch.compiler.set_stance); fullgraph=True shows what stops the capture"
            )
        if not self._checked:
            self._check_slots(self.plan, net)
            self._drop_foreign_histories(net)
            self._checked = True
        if breaks:
            self._tell(net, breaks)
        return result

    def _tell(self, net: nn.Module, breaks: list[str]) -> None:
        """Say what a graph break means: what lies outside the graphs runs unrounded."""
        self.graph_breaks += [_first_line(reason) for reason in breaks]
        outside = self.outside(net)
        what = f"; weights {', '.join(outside)} are in no graph" if outside else ""
        warnings.warn(
            f"{base_name(net)} is captured in pieces ({_first_line(breaks[-1])}): what lies between them runs "
            f"unrounded{what}. fullgraph=True makes this an error; net.report() lists all breaks",
            PrecisionWarning,
            stacklevel=5,
        )

    def outside(self, net: nn.Module) -> list[str]:
        """Names of the matrices among the parameters that no captured graph has taken in so far."""
        inside = {key for graph in self.known for key in graph.parameters}
        return [name for name, value in net.named_parameters() if value.dim() >= 2 and id(value) not in inside]


def training_first(graphs: Sequence[CapturedGraph]) -> list[CapturedGraph]:
    """The graphs with those that have a backward in front, so that figures do not depend on the order of calls."""
    return sorted(graphs, key=lambda graph: not graph.training)


def _copied(
    options: CompileOptions,
    chosen: PrecisionPlan | None,
    full_precision: PrecisionPlan,
    accumulates: bool,
    amax: AmaxHistory,
) -> Session:
    return Session(options, chosen, full_precision, accumulates=accumulates, amax=amax)


_entry_numbers = itertools.count()


def _call(net: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return net._call_impl(*args, **kwargs)


def _isolated_compile(compiler: GraphCompiler, options: CompileOptions) -> Any:
    """A compiled entry point that shares no cache with any other net.

    Dynamo caches by code object: nets of one class would replace one another's graphs, and past the limit run in
    plain fp32. So each net gets a code object of its own, and, where torch has it, a cache of its own beneath it.
    """
    code = _call.__code__.replace(co_name=f"precc_call_{next(_entry_numbers)}")
    entry = FunctionType(code, globals())
    isolation: dict[str, Any] = {"isolate_recompiles": True} if HAS_ISOLATION else {}
    return torch.compile(
        entry,
        backend=compiler,
        fullgraph=options.fullgraph,
        dynamic=options.dynamic,
        **isolation,
    )


#: Whether torch.compile keeps a cache apart for each net, also for the code that follows a graph break.
HAS_ISOLATION = "isolate_recompiles" in signature(torch.compile).parameters


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
