"""What the graphs of a net are built for, and the entry points through which they are captured and run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from weakref import ReferenceType

from precc.amax_history import AmaxHistory
from precc.capture import GraphCompiler, GraphOwner
from precc.compile_options import CompileOptions
from precc.compiled_entry import CompiledEntry
from precc.errors import PlanError
from precc.net_graphs import NetGraphs
from precc.pipeline import Pipeline
from precc.plan import PrecisionPlan
from precc.reach import Reach
from precc.slots import CallNumbers
from precc.tally import Tally

__all__ = ["LIVE", "GraphBuilds"]

#: The way out, where graphs are built for one plan.
LIVE = "compile it with live=True"


@dataclass(eq=False, repr=False)
class GraphBuilds:
    """In which plans the graphs of a net can run; others need other graphs.

    Args:
        options: how the net is compiled.
        owner: the net's session.
        graphs: those captured.
        amax: largest magnitudes of the slots with delayed scales.
        reach: what they are built for beside operands; widened by the first plan that needs more.
        only_plan: the one plan that graphs are built for; None if they are live.
        tally: of what was executed so far.
        entries: by path, of each region, or of the root.
    """

    options: CompileOptions
    owner: ReferenceType[GraphOwner]
    graphs: NetGraphs
    amax: AmaxHistory
    reach: Reach
    only_plan: PrecisionPlan | None
    tally: Tally = field(default_factory=Tally)
    entries: dict[str, CompiledEntry] = field(init=False)

    def __post_init__(self) -> None:
        self._build()

    def _build(self) -> None:
        """Begin without graphs."""
        numbers = CallNumbers()
        self.entries = {path: self._entry(path, numbers) for path in self.graphs.paths}

    def _entry(self, path: str, numbers: CallNumbers) -> CompiledEntry:
        options = self.options
        compiler = GraphCompiler(
            options.pipeline,
            options.accumulating if self.reach.sums else Pipeline(()),
            options.fusing,
            options.saving,
            options.backend,
            self.owner,
            self.amax,
            region=path,
            only_plan=self.only_plan,
            results=self.reach.results,
            fused_attention=options.fused_attention,
            tally=self.tally,
            numbers=numbers,
        )
        return CompiledEntry.of(
            compiler, fullgraph=options.fullgraph, dynamic=options.dynamic, recurrent=options.recurrent
        )

    @property
    def runs(self) -> int:
        """How often a compiled graph was entered."""
        return sum(entry.compiler.runs for entry in self.entries.values())

    def prepare(
        self, plans: Sequence[PrecisionPlan], *, recompile: bool, only_plan: PrecisionPlan | None = None
    ) -> None:
        """Have graphs in which these plans can run, from the next forward on.

        Args:
            plans: that will be used.
            recompile: allow to build the graphs again.
            only_plan: the one plan to build graphs for, where graphs are built for one.

        Raises:
            PlanError: a plan has accumulators or results, or is another than the one that the graphs were built for,
                and they must not be built again.
        """
        if self.only_plan is not None:
            self._prepare_only(only_plan, len(plans), recompile=recompile)
            return
        missing = next(filter(None, map(self.reach.missing, plans)), "")
        if not missing:
            return
        if self.graphs.current and not recompile:
            raise PlanError(
                f"the plan {missing}: net.set_plan(plan, recompile=True) builds them again, and "
                "precc.compile(..., plan=...) or policy=... with such a plan builds them so at once"
            )
        self.reach = reduce(or_, map(Reach.of, plans), self.reach)
        self._rebuild(None)

    def _prepare_only(self, plan: PrecisionPlan | None, count: int, *, recompile: bool) -> None:
        if plan is None:
            raise PlanError(f"the net was compiled for one plan alone, and is to run in {count}: {LIVE}")
        if plan == self.only_plan:
            return
        if self.graphs.current and not recompile:
            raise PlanError(
                f"the net's graphs were built for one plan alone, and this is another: {LIVE}, or "
                "net.set_plan(plan, recompile=True) builds them again"
            )
        self.reach = Reach.of(plan)
        self._rebuild(plan)

    def _rebuild(self, only_plan: PrecisionPlan | None) -> None:
        """Have new graphs, from the next forward on."""
        self.graphs.drop(self.graphs.current)
        self.only_plan = only_plan
        self._build()
