"""The graphs that were captured of one net, and the slots that they say it has."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from torch import nn

from precc.captured_graph import KEPT_PLANS, CapturedGraph, size_value
from precc.plan import PrecisionPlan
from precc.rule import Rule
from precc.rule_checks import check_decisions, check_paths
from precc.slot_checks import brought_slots, check_slots, slot_names, unknown_slots
from precc.slots import update_slots

__all__ = ["NetGraphs"]


@dataclass(slots=True, eq=False, repr=False)
class NetGraphs:
    """What is known of a net by its captures, and whether a plan fits it.

    Args:
        paths: of the modules that are compiled; the root's is empty.
        current: graphs in use, in the order of their captures.
        former: graphs before those, which tell what slots the net has until all are captured again.
        count: captures so far.
    """

    paths: tuple[str, ...]
    current: list[CapturedGraph] = field(default_factory=list)
    former: list[CapturedGraph] = field(default_factory=list)
    count: int = 0
    _fitting: dict[int, PrecisionPlan] = field(default_factory=dict)  # plans found to fit, by identity

    def add(self, graph: CapturedGraph) -> None:
        """Take in a new graph; plans are to be checked against it."""
        self.current.append(graph)
        self.count += 1
        self._fitting.clear()

    def drop(self, graphs: Sequence[CapturedGraph]) -> None:
        """Take note that some of those in use are not: what they computed is captured again when it is needed."""
        for graph in graphs:
            graph.retire()
        self.former = [*_beside(self.former, graphs), *graphs]
        self.current = [graph for graph in self.current if graph not in graphs]
        self._fitting.clear()

    @property
    def known(self) -> list[CapturedGraph]:
        """The graphs that say what slots there are: those in use, and former ones with slots that no other has."""
        return [*self.current, *_beside(self.former, self.current)]

    @property
    def training_first(self) -> list[CapturedGraph]:
        """Those known, the ones with a backward in front: so figures do not depend on the order of calls."""
        return sorted(self.known, key=lambda graph: not graph.training)

    @property
    def multiply_adds(self) -> dict[str, int]:
        """Multiply-adds of the product that each known slot feeds, at the sizes of its first capture in training."""
        work: dict[str, int] = {}
        for graph in self.training_first:
            for product in graph.products:
                for operand in product.operands:
                    work.setdefault(operand.slot.name, size_value(product.multiply_adds, {}))
        return work

    def outside(self, net: nn.Module) -> list[str]:
        """Names of the matrices among a net's parameters that no graph has taken in so far."""
        inside = {name for graph in self.known for name in graph.parameters}
        return [name for name, value in net.named_parameters() if value.dim() >= 2 and name not in inside]

    def use(self, plan: PrecisionPlan) -> None:
        """Have the next forwards run under this plan."""
        for graph in self.current:
            graph.use(plan)

    def check(self, plan: PrecisionPlan, rules: tuple[Rule, ...], net: nn.Module) -> None:
        """Whether a plan under the net's rules fits the graphs, as far as they are known.

        Raises:
            PlanError: the plan names a slot that the net does not have, a rule decides none, or a scaling, transform or
                accumulator does not fit the values of a slot.
        """
        laid = plan.under(rules)
        if self._fitting.get(id(laid)) is laid:
            return
        self.check_names_and_rules(plan, rules, net)
        for graph in self.known:
            graph.check(laid)
        if len(self._fitting) >= KEPT_PLANS:
            self._fitting.clear()
        self._fitting[id(laid)] = laid  # equal plans may name other slots

    def check_names_and_rules(self, plan: PrecisionPlan, rules: tuple[Rule, ...], net: nn.Module) -> None:
        """Refuse a plan that names unknown slots, and rules that decide none.

        The net's rules and the plan's are checked apart: all that the plan's would decide may be the net's to decide.
        What a plan has brought may be in a graph that is still to come.

        Raises:
            PlanError: there is one.
        """
        self.check_names([*plan.slots, *plan.accumulators], plan.multiply_adds, net)
        for own in filter(None, (rules, plan.rules)):
            check_paths(own, net)
            if _trained(self.known):
                names = slot_names(self.known) | brought_slots(plan.multiply_adds, net)
                updates = update_slots(net) if any(rule.decides_updates for rule in own) else ()
                check_decisions(own, names, updates=updates, awaited=self._awaited(net))

    def check_names(
        self, names: Collection[str], brought: Iterable[str], net: nn.Module, *, namer: str = "the plan"
    ) -> None:
        """Refuse names that are of no slot; the arguments are those of `check_slots`.

        Raises:
            PlanError: there is one.
        """
        if names:
            check_slots(names, brought, self.known, net, awaited=self._awaited(net), namer=namer)

    def unknown(self, names: Collection[str], brought: Iterable[str], net: nn.Module) -> list[str]:
        """The names that are of no slot; the arguments are those of `unknown_slots`."""
        return unknown_slots(names, brought, self.known, net, awaited=self._awaited(net))

    def modules(self, net: nn.Module) -> set[str]:
        """Paths of the modules that are compiled, with those inside."""
        return _inside(net, self.paths)

    def _awaited(self, net: nn.Module) -> set[str]:
        """Paths of the modules of which no graph with a backward is known: their slots are still to come."""
        trained = _trained(self.known)
        return _inside(net, [path for path in self.paths if path not in trained])


def _inside(net: nn.Module, roots: Iterable[str]) -> set[str]:
    """First paths of the modules under some others, and of those."""
    first = {id(module): path for path, module in net.named_modules()}
    return {first[id(module)] for path in roots for module in net.get_submodule(path).modules()}


def _beside(former: Sequence[CapturedGraph], graphs: Sequence[CapturedGraph]) -> list[CapturedGraph]:
    """Those that have a slot that none of some other graphs has."""
    if not former:
        return []
    seen = {slot for graph in graphs for slot in graph.slots}
    return [graph for graph in former if not seen.issuperset(graph.slots)]


def _trained(graphs: Sequence[CapturedGraph]) -> set[str]:
    """Regions of the graphs that have a backward."""
    return {graph.region for graph in graphs if graph.training}
