"""The life of one net: its plan, its graphs, and each of its calls."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from typing import Any
from weakref import ReferenceType, WeakMethod, ref

from torch import nn

from precc.amax_history import AmaxHistory
from precc.analysis.analysis import Analysis
from precc.analysis.calibration import Calibration
from precc.analysis.model_loss import LastTangents
from precc.captured_graph import CapturedGraph
from precc.compile_options import CompileOptions
from precc.errors import CaptureError, PlanError, UnsupportedError
from precc.graph_builds import LIVE, GraphBuilds
from precc.history import History
from precc.net_graphs import NetGraphs
from precc.plan import PrecisionPlan
from precc.policy import Uniform
from precc.reach import Reach
from precc.recomputation import CheckpointPlans, enclosing_checkpoints
from precc.rule import Rule
from precc.shallow_clone import base_name
from precc.strict_dynamo import strict_dynamo
from precc.training_parts import TrainingParts
from precc.warn_caller import warn_caller

__all__ = ["Session", "Watcher"]

_OPERANDS = Reach()

Watcher = Callable[[tuple[Any, ...], Mapping[str, Any], Any], None]


@dataclass(eq=False, repr=False)
class Session:
    """What a net keeps beside its parameters.

    Args:
        options: how it is compiled.
        chosen: the plan that somebody set; None for full precision.
        full_precision: the plan that rounds nothing: float32, or float64 once a graph has float64 operands.
        graph_breaks: why the capture was interrupted.
        events: what controllers counted.
        history: what they decided, and why.
        parts: what rounds updates and scales losses, outside of graphs.
        watchers: see each call that records gradients: its arguments, named ones, and its output; not kept alive.
        aside: whether calls are evaluations beside the training, which nobody watches.
        reach: what graphs are built for beside operands; widened by the first plan that needs more.
        amax: largest magnitudes of the slots with delayed scales.
        rules: hold over each plan that is used, but not over `use_full_precision`.
        calibration: measured over predicted errors.
        analysis: the last one.
        tangents: of the last call.
        nets: that share it, by `copy.copy`; the one that was called last is the last.
        graphs: those captured.
        builds: what graphs are built for.
    """

    options: CompileOptions
    chosen: PrecisionPlan | None = None
    full_precision: PrecisionPlan = field(default_factory=lambda: Uniform("float32").assign())
    graph_breaks: list[str] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    history: History = field(default_factory=History)
    parts: TrainingParts = field(default_factory=TrainingParts)
    watchers: list[WeakMethod[Watcher]] = field(default_factory=list)
    aside: bool = False
    reach: InitVar[Reach] = _OPERANDS
    amax: AmaxHistory = field(default_factory=AmaxHistory)
    rules: tuple[Rule, ...] = ()
    nets: list[ReferenceType[nn.Module]] = field(default_factory=list)
    calibration: Calibration = field(default_factory=Calibration)
    analysis: Analysis | None = None
    tangents: LastTangents = field(default_factory=LastTangents)
    _in_full_precision: bool = False  # whether the next forward rounds nothing, whatever plan and rules say
    _repeated: PrecisionPlan | None = None  # of the forward that a checkpoint is computing again
    _checkpoints: CheckpointPlans = field(default_factory=CheckpointPlans)
    _checked: bool = False  # whether the plan in force was found to fit the graphs
    graphs: NetGraphs = field(init=False)
    builds: GraphBuilds = field(init=False)

    def __post_init__(self, reach: Reach) -> None:
        self.graphs = NetGraphs(self.options.regions or ("",))
        only_plan = self._only(self.chosen, self.rules)
        self.builds = GraphBuilds(
            self.options, ref(self), self.graphs, self.amax, reach | Reach.of(self.plan), only_plan
        )

    def _only(self, plan: PrecisionPlan | None, rules: tuple[Rule, ...]) -> PrecisionPlan | None:
        """The one plan to build graphs for; without a plan they round nothing, whatever the dtypes."""
        if self.options.live:
            return None
        return (PrecisionPlan("float64") if plan is None else plan).under(rules)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has plan, rules, amax history and calibration; graphs, counts of work and analyses are its own."""
        return _copied, (
            self.options,
            self.chosen,
            self.full_precision,
            self.builds.reach,
            self.amax,
            self.rules,
            self.calibration,
        )

    @property
    def plan(self) -> PrecisionPlan:
        """The plan of the next forward."""
        if self._repeated is not None:
            return self._repeated
        if self._in_full_precision:
            return self.full_precision
        return self._unruled(self.chosen).under(self.rules)

    def _unruled(self, plan: PrecisionPlan | None) -> PrecisionPlan:
        return self.full_precision if plan is None else plan

    def watch(self, see: Watcher) -> None:
        """Show calls to a method, as long as its object lives."""
        self.watchers.append(WeakMethod(see))

    def unwatch(self, see: Watcher) -> None:
        """Show them no more."""
        self.watchers = [own for own in self.watchers if own() not in (None, see)]

    def watched(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Show a call that records gradients to those who watch."""
        if self.aside:
            return
        self.watchers = [own for own in self.watchers if own() is not None]
        for own in self.watchers:
            see = own()
            if see is not None:
                see(args, kwargs, output)

    def net(self, region: str) -> nn.Module:
        """The net, for the one of its regions that is called; the root's path is empty.

        Raises:
            CaptureError: it is gone.
        """
        net = next((own for own in (known() for known in reversed(self.nets)) if own is not None), None)
        if net is None:
            raise CaptureError(f"the region {region!r} is called without its net: copy and keep the whole net")
        return net

    def belongs_to(self, net: nn.Module) -> None:
        """Have the graphs be those of a net, from now on."""
        if not self.nets or self.nets[-1]() is not net:
            others = [known for known in self.nets if known() is not None and known() is not net]
            self.nets = [*others, ref(net)]

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
            recompile: as in `GraphBuilds.prepare`.

        Raises:
            PlanError: the plan names a slot that the net does not have, has a rule that decides none, a scaling that
                a slot's value cannot have, or accumulators, without which the graphs were built; what was stays.
        """
        rules = self.rules if rules is None else rules
        laid = self._unruled(plan).under(rules)
        self.graphs.check(self._unruled(plan), rules, net)
        self.builds.prepare([laid], recompile=recompile, only_plan=self._only(plan, rules))
        self.graphs.use(laid)
        self.chosen, self.rules, self._in_full_precision, self._checked = plan, rules, False, True

    def use_full_precision(self) -> None:
        """Have the next forwards in full precision, without the rules, until a plan is used again.

        It is what the error of a plan is measured against: a format that a rule sets is part of that error.

        Raises:
            PlanError: the graphs are built for one plan alone.
        """
        if self.builds.only_plan is not None:
            raise PlanError(f"the net was compiled for one plan alone, and is to run in full precision too: {LIVE}")
        self._in_full_precision = True
        self.graphs.use(self.plan)

    def _drop_foreign_histories(self, net: nn.Module) -> None:
        """A state that was loaded before the first call may have histories of slots of another net."""
        foreign = self.graphs.unknown(list(self.amax.to_lists()), self.plan.multiply_adds, net)
        if foreign:
            self.amax.drop(foreign)
            warn_caller(
                f"{base_name(net)} has no slot {foreign[0]!r}: its amax history, and {len(foreign) - 1} more, that a "
                "precision_state brought are dropped"
            )

    def lose(self, graphs: Sequence[CapturedGraph]) -> None:
        """Take note that graphs will not run again."""
        self.graphs.drop(graphs)

    def take(self, graph: CapturedGraph) -> None:
        """Take in a new graph.

        Raises:
            PlanError: the plan in force does not fit it.
        """
        graph.check(self.plan)
        if self._repeated is not None:
            graph.check(self._unruled(self.chosen).under(self.rules))
        if not self.graphs.current and self.graphs.former:
            self.graph_breaks.clear()  # those of the former graphs
        self.graphs.add(graph)
        self._checked = False
        if graph.double:
            self.full_precision = Uniform("float64").assign()
        self.graphs.use(self.plan)

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
        if self.builds.only_plan is not None:
            raise UnsupportedError(
                "torch.utils.checkpoint computes the forward of a net again whose graphs are gone, for they were built "
                "for one plan alone: set another after the backward"
            )
        self._repeated = plan
        self.graphs.use(plan)
        try:
            yield
        finally:
            self._repeated = None
            self.graphs.use(self.plan)

    def _call(self, region: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        net = self.net(region)
        if not self._checked:
            self.graphs.check_names_and_rules(self._unruled(self.chosen), self.rules, net)
        result, breaks = self.builds.entries[region].call(module, args, kwargs)
        if not self._checked:
            self.graphs.check_names_and_rules(self._unruled(self.chosen), self.rules, net)
            self._drop_foreign_histories(net)
            self._checked = True
        if breaks:
            self._tell(net, breaks)
        return result

    def call_around(self, net: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run the forward of a net with regions as it is; they run their graphs.

        Raises:
            CaptureError: no region was called so far.
            PreccError: a region raised it.
        """
        with strict_dynamo(base_name(net), net, args, kwargs, counts=self.options.dynamic is not True):
            result = net._call_impl(*args, **kwargs)
        if not self.graphs.count:  # later calls may skip layers, as a stochastic depth does
            regions = self.options.regions
            raise CaptureError(
                f"calling {base_name(net)} called none of its {len(regions)} region(s), such as {regions[0]!r}, so "
                "nothing was rounded: its forward does not reach them as submodules, or it skipped all of them by "
                "chance, as a stochastic depth may (then call it once in evaluation mode, or again)"
            )
        return result

    def _tell(self, net: nn.Module, breaks: list[str]) -> None:
        """Say what a graph break means: what lies outside the graphs runs unrounded."""
        breaks = [why for why in dict.fromkeys(breaks) if why not in self.graph_breaks]
        if not breaks:
            return
        self.graph_breaks += breaks
        outside = self.graphs.outside(net)
        what = f"; weights {', '.join(outside)} are in no graph" if outside else ""
        warn_caller(
            f"{base_name(net)} is captured in pieces ({breaks[-1]}): what lies between them runs "
            f"unrounded{what}. fullgraph=True makes this an error; net.report() lists all breaks"
        )


def _copied(
    options: CompileOptions,
    chosen: PrecisionPlan | None,
    full_precision: PrecisionPlan,
    reach: Reach,
    amax: AmaxHistory,
    rules: tuple[Rule, ...],
    calibration: Calibration,
) -> Session:
    return Session(options, chosen, full_precision, reach=reach, amax=amax, rules=rules, calibration=calibration)
