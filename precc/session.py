"""The life of one net: its plan, its graphs, and each of its calls."""

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import ReferenceType

from torch import nn

from precc.amax_history import AmaxHistory
from precc.capture import GraphCompiler
from precc.captured_graph import KEPT_PLANS, CapturedGraph, size_value
from precc.compile_options import CompileOptions
from precc.compiled_entry import CompiledEntry
from precc.errors import CaptureError, PlanError, PrecisionWarning, UnsupportedError
from precc.pipeline import Pipeline
from precc.plan import PrecisionPlan
from precc.policy import Uniform
from precc.recomputation import CheckpointPlans, enclosing_checkpoints
from precc.rule import Rule
from precc.rule_checks import check_decisions, check_paths
from precc.shallow_clone import base_name
from precc.slot_checks import brought_slots, check_slots, slot_names, unknown_slots
from precc.slots import CallNumbers
from precc.strict_dynamo import strict_dynamo

__all__ = ["Session", "training_first"]

_LIVE = "compile it with live=True"

#: Frames from a warning of a call up to the line that calls the net.
_CALLER = 7


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
        rules: hold over each plan that is used; over full precision too, but where it is the reference.
        root: the net.
        tally: multiply-adds executed so far, by format.
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
    rules: tuple[Rule, ...] = ()
    root: ReferenceType[nn.Module] | None = None
    _reference: bool = False  # whether the next forward is that with which others are compared
    _repeated: PrecisionPlan | None = None  # of the forward that a checkpoint is computing again
    _checkpoints: CheckpointPlans = field(default_factory=CheckpointPlans)
    _fitting: dict[int, PrecisionPlan] = field(default_factory=dict)  # plans found to fit the graphs, by identity
    _checked: bool = False  # whether the plan in force was found to fit the graphs
    _built_for: PrecisionPlan | None = field(init=False)
    tally: Counter[str] = field(init=False)
    _entries: dict[str, CompiledEntry] = field(init=False)  # by path: of each region, or of the root

    def __post_init__(self) -> None:
        self.accumulates |= self.plan.rounds_sums
        self._build(Counter(), self._fixed(self.chosen, self.rules))

    def _fixed(self, plan: PrecisionPlan | None, rules: tuple[Rule, ...]) -> PrecisionPlan | None:
        """The one plan that graphs are built for; without a plan they round nothing, whatever the dtypes."""
        if self.options.live:
            return None
        return (PrecisionPlan("float64") if plan is None else plan).under(rules)

    def _build(self, tally: Counter[str], fixed: PrecisionPlan | None) -> None:
        """Begin without graphs; `tally` is the work executed so far, and `fixed` the one plan that they will have."""
        self._built_for = fixed
        lowering = self.options.accumulating if self.accumulates else Pipeline(())
        options, numbers = self.options, CallNumbers()
        self.tally, self._entries = tally, {}
        for path in options.regions or ("",):
            compiler = GraphCompiler(
                options.pipeline,
                lowering,
                options.backend,
                self._on_capture,
                self.amax,
                region=path,
                fixed=fixed,
                fused_attention=options.fused_attention,
                tally=tally,
                numbers=numbers,
            )
            self._entries[path] = CompiledEntry.of(
                compiler, fullgraph=options.fullgraph, dynamic=options.dynamic, recurrent=options.recurrent
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied or unpickled net has plan, rules and amax history; graphs, counts of work and events are its own."""
        return _copied, (self.options, self.chosen, self.full_precision, self.accumulates, self.amax, self.rules)

    @property
    def plan(self) -> PrecisionPlan:
        """The plan of the next forward."""
        if self._repeated is not None:
            return self._repeated
        if self._reference:
            return self.full_precision
        return self._unruled(self.chosen).under(self.rules)

    def _unruled(self, plan: PrecisionPlan | None) -> PrecisionPlan:
        return self.full_precision if plan is None else plan

    @property
    def runs(self) -> int:
        """How often a compiled graph was entered."""
        return sum(entry.compiler.runs for entry in self._entries.values())

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
        """The graphs that say what slots there are: those in use, and the former of what has none with a backward."""
        trained = {graph.region for graph in self.graphs if graph.training}
        return [*self.graphs, *(graph for graph in self.former if graph.region not in trained)]

    def _awaited(self, net: nn.Module) -> set[str]:
        """Paths of the modules in regions of which no graph with a backward is known: their slots are still to come."""
        trained = {graph.region for graph in self.known if graph.training}
        return _layers(net, [path for path in self._entries if path not in trained])

    def layers(self, net: nn.Module) -> set[str]:
        """Paths of the modules whose products are captured: all, or those in the regions."""
        return _layers(net, self._entries)

    def use(
        self,
        plan: PrecisionPlan | None,
        net: nn.Module,
        *,
        rules: tuple[Rule, ...] | None = None,
        recompile: bool = False,
    ) -> None:
        """Set the plan of the next forward; None is full precision, as if none had been set. Rules hold over both.

        Args:
            plan: without the net's rules.
            net: whose session this is.
            rules: in the place of the net's.
            recompile: as in `prepare`.

        Raises:
            PlanError: the plan names a slot that the net does not have, has a rule that decides none, a scaling that
                a slot's value cannot have, or accumulators, without which the graphs were built; what was stays.
        """
        rules = self.rules if rules is None else rules
        laid = self._unruled(plan).under(rules)
        if self._fitting.get(id(laid)) is not laid:
            self._check_fit(self._unruled(plan), rules, net)
            for graph in self.known:
                graph.check(laid)
        self.prepare([laid], recompile=recompile, fixed=self._fixed(plan, rules))
        self._put_in_force(laid)
        self._note_fitting(laid)
        self.chosen, self.rules, self._reference, self._checked = plan, rules, False, True

    def use_reference(self) -> None:
        """Have the next forwards in full precision, without the rules, until a plan is used again.

        It is what the error of a plan is measured against: a format that a rule sets is part of that error.

        Raises:
            PlanError: the graphs are built for one plan alone.
        """
        if self._built_for is not None:
            raise PlanError(f"the net was compiled for one plan alone, and is to run in full precision too: {_LIVE}")
        self._reference = True
        self._put_in_force(self.plan)

    def _put_in_force(self, plan: PrecisionPlan) -> None:
        for graph in self.graphs:
            graph.use(plan)

    def _note_fitting(self, plan: PrecisionPlan) -> None:
        """Save the next use of a plan the checks, which read all of its slots; equal plans may name others."""
        if len(self._fitting) >= KEPT_PLANS:
            self._fitting.clear()
        self._fitting[id(plan)] = plan

    def prepare(self, plans: Sequence[PrecisionPlan], *, recompile: bool, fixed: PrecisionPlan | None = None) -> None:
        """Have graphs in which these plans can run, from the next forward on.

        Args:
            plans: that will be used.
            recompile: allow to build the graphs again.
            fixed: the one plan that graphs are built for, if they are.

        Raises:
            PlanError: a plan has accumulators, or is another than the one that the graphs were built for, and they
                must not be built again.
        """
        if self._built_for is not None:
            self._prepare_fixed(plans, fixed, recompile=recompile)
            return
        needing = next((plan for plan in plans if plan.rounds_sums), None)
        if needing is None or self.accumulates:
            return
        if self.graphs and not recompile:
            some = {name: own for name, own in needing.accumulators.items() if own is not None}
            some |= {rule.path: rule.accumulator for rule in needing.rules if rule.accumulator is not None}
            name, own = next(iter(some.items()), ("every product", needing.default_accumulator))
            raise PlanError(
                f"the plan sums {name!r} in {own}, but the net's graphs were built without accumulators: "
                "net.set_plan(plan, recompile=True) builds them again, and precc.compile(..., plan=...) or policy=... "
                "with an accumulator builds them so at once"
            )
        self.accumulates = True
        self._rebuild(None)

    def _prepare_fixed(self, plans: Sequence[PrecisionPlan], fixed: PrecisionPlan | None, *, recompile: bool) -> None:
        if fixed is None:
            raise PlanError(f"the net was compiled for one plan alone, and is to run in {len(plans)}: {_LIVE}")
        if fixed == self._built_for:
            return
        if self.graphs and not recompile:
            raise PlanError(
                f"the net's graphs were built for one plan alone, and this is another: {_LIVE}, or "
                "net.set_plan(plan, recompile=True) builds them again"
            )
        self.accumulates = fixed.rounds_sums
        self._rebuild(fixed)

    def _rebuild(self, fixed: PrecisionPlan | None) -> None:
        """Have new graphs, from the next forward on."""
        self.former, self.graphs = [*self.former, *self.graphs], []
        self._fitting.clear()
        self._build(self.tally, fixed)

    def _check_fit(self, plan: PrecisionPlan, rules: tuple[Rule, ...], net: nn.Module) -> None:
        """Refuse a plan that names unknown slots, and rules that decide none, as far as the slots are known.

        The net's rules and the plan's are checked apart: all that the plan's would decide may be the net's to decide.
        What a plan has brought may be in a graph that is still to come.
        """
        self.check_names([*plan.slots, *plan.accumulators], plan.multiply_adds, net)
        every = [*self.graphs, *self.former]
        for own in filter(None, (rules, plan.rules)):
            check_paths(own, net)
            if any(graph.training for graph in every):
                names = slot_names(every) | brought_slots(plan.multiply_adds, net)
                check_decisions(own, names, awaited=self._awaited(net))

    def check_names(
        self, names: Collection[str], brought: Iterable[str], net: nn.Module, *, namer: str = "the plan"
    ) -> None:
        """Refuse names that are of no slot, as far as the slots are known; the arguments are those of `check_slots`.

        Raises:
            PlanError: there is one.
        """
        if names:
            check_slots(names, brought, self.known, net, awaited=self._awaited(net), namer=namer)

    def _drop_foreign_histories(self, net: nn.Module) -> None:
        """A state that was loaded before the first call may have histories of slots of another net."""
        foreign = unknown_slots(
            list(self.amax.to_lists()), self.plan.multiply_adds, self.known, net, awaited=self._awaited(net)
        )
        if foreign:
            self.amax.drop(foreign)
            warnings.warn(
                f"{base_name(net)} has no slot {foreign[0]!r}: its amax history, and {len(foreign) - 1} more, that a "
                "precision_state brought are dropped",
                PrecisionWarning,
                stacklevel=_CALLER,
            )

    def _on_capture(self, graph: CapturedGraph) -> None:
        graph.check(self.plan)
        if self._repeated is not None:
            graph.check(self._unruled(self.chosen).under(self.rules))
        if not self.graphs and self.former:
            self.graph_breaks.clear()  # those of the former graphs
        self.graphs.append(graph)
        self._checked = False
        self._fitting.clear()
        if graph.double:
            self.full_precision = Uniform("float64").assign()
        self._put_in_force(self.plan)

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, region: str = "") -> Any:
        """Run the forward of the net, or of the region at a path, through its compiled graphs.

        Raises:
            CaptureError: no graph could be captured from it, or it is a region without its net.
            PlanError: the plan in force names a slot that the net, now that it is captured, does not have, or a rule
                decides none.
            RecompileLimitError: it needs one more graph than torch._dynamo allows.
            DeviceError: its tensors are on several devices.
            BackendError: the backend failed on the graph.
            UnsupportedError: a checkpoint around the net computes its forward again, and the plan of that is not known.
        """
        checkpoints = enclosing_checkpoints()
        if not checkpoints:
            return self._call(region, module, args, kwargs)
        repeated = self._checkpoints.repeated(checkpoints)
        try:
            with self._repeating(repeated):
                return self._call(region, module, args, kwargs)
        finally:  # afterwards: the first call may find that full precision is float64
            self._checkpoints.note(checkpoints, self.plan if repeated is None else repeated)

    @contextmanager
    def _repeating(self, plan: PrecisionPlan | None) -> Iterator[None]:
        """Have the plan of a forward in force while a checkpoint computes that forward again."""
        if plan is None or plan == self.plan:
            yield
            return
        if self._built_for is not None:
            raise UnsupportedError(
                "torch.utils.checkpoint computes the forward of a net again whose graphs are gone, for they were built "
                "for one plan alone: set another after the backward"
            )
        self._repeated = plan
        self._put_in_force(plan)
        try:
            yield
        finally:
            self._repeated = None
            self._put_in_force(self.plan)

    def _call(self, region: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        net = self.root() if self.root is not None else None
        if net is None:
            raise CaptureError(f"the region {region!r} is called without its net: copy and keep the whole net")
        if not self._checked:
            self._check_fit(self._unruled(self.chosen), self.rules, net)
        result, breaks = self._entries[region].call(net, module, args, kwargs)
        if not self._checked:
            self._check_fit(self._unruled(self.chosen), self.rules, net)
            self._drop_foreign_histories(net)
            self._checked = True
        if breaks:
            self._tell(net, breaks)
        return result

    def call_around(self, net: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the forward of a net with regions as it is; they run their graphs.

        Raises:
            CaptureError: it called no region.
            PreccError: a region raised it.
        """
        runs = self.runs
        with strict_dynamo(base_name(net), net, args, kwargs):
            result = net._call_impl(*args, **kwargs)
        if self.runs == runs:
            regions = self.options.regions
            raise CaptureError(
                f"calling {base_name(net)} called none of its {len(regions)} region(s), such as {regions[0]!r}, so "
                "nothing was rounded: its forward does not reach them as submodules"
            )
        return result

    def _tell(self, net: nn.Module, breaks: list[str]) -> None:
        """Say what a graph break means: what lies outside the graphs runs unrounded."""
        breaks = [why for why in dict.fromkeys(breaks) if why not in self.graph_breaks]
        if not breaks:
            return
        self.graph_breaks += breaks
        outside = self.outside(net)
        what = f"; weights {', '.join(outside)} are in no graph" if outside else ""
        warnings.warn(
            f"{base_name(net)} is captured in pieces ({breaks[-1]}): what lies between them runs "
            f"unrounded{what}. fullgraph=True makes this an error; net.report() lists all breaks",
            PrecisionWarning,
            stacklevel=_CALLER,
        )

    def outside(self, net: nn.Module) -> list[str]:
        """Names of the matrices among the parameters that no captured graph has taken in so far."""
        inside = {name for graph in self.known for name in graph.parameters}
        return [name for name, value in net.named_parameters() if value.dim() >= 2 and name not in inside]


def training_first(graphs: Sequence[CapturedGraph]) -> list[CapturedGraph]:
    """The graphs with those that have a backward in front, so that figures do not depend on the order of calls."""
    return sorted(graphs, key=lambda graph: not graph.training)


def _copied(
    options: CompileOptions,
    chosen: PrecisionPlan | None,
    full_precision: PrecisionPlan,
    accumulates: bool,
    amax: AmaxHistory,
    rules: tuple[Rule, ...],
) -> Session:
    return Session(options, chosen, full_precision, accumulates=accumulates, amax=amax, rules=rules)


def _layers(net: nn.Module, roots: Iterable[str]) -> set[str]:
    """First paths of the modules under some others."""
    first = {id(module): path for path, module in net.named_modules()}
    return {first[id(module)] for path in roots for module in net.get_submodule(path).modules()}
