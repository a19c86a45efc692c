"""Which format each slot of a net has under a plan, as the tensors have it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from precc.annotations import Operand
from precc.history import History
from precc.net_graphs import NetGraphs
from precc.plan import PrecisionPlan
from precc.report.film_strip import FilmStrip
from precc.tracking.pictures import frames_shown

__all__ = ["NetFormats"]


@dataclass(frozen=True, slots=True, eq=False)
class NetFormats:
    """The operands of a net's products, as its graphs have them so far.

    Args:
        captures: how many graphs there were.
        operands: by slot, in the order of the net.
        work: multiply-adds of the product that each slot feeds.
    """

    captures: int
    operands: Mapping[str, Operand]
    work: Mapping[str, int]
    _positions: dict[str, int]
    _names: dict[PrecisionPlan, tuple[str, ...]] = field(default_factory=dict)  # made once a plan

    @classmethod
    def of(cls, graphs: NetGraphs) -> "NetFormats":
        """Those of the graphs known."""
        operands: dict[str, Operand] = {}
        for graph in graphs.training_first:
            for product in graph.products:
                for operand in product.operands:
                    operands.setdefault(operand.slot.name, operand)
        return cls(graphs.count, operands, graphs.multiply_adds, {slot: at for at, slot in enumerate(operands)})

    def format_of(self, plan: PrecisionPlan, slot: str) -> str:
        """The name of a slot's format under a plan."""
        names = self._names.get(plan)
        if names is None:
            names = tuple(own.computed_in(plan).format.name for own in self.operands.values())
            self._names[plan] = names
        return names[self._positions[slot]]

    def film(self, history: History) -> FilmStrip:
        """The film of a history, of those of its rows alone that a picture shows."""
        return FilmStrip.of(_shown(history), list(self.operands), self.format_of)

    def shares(self, plan: PrecisionPlan) -> dict[str, float]:
        """Of the multiply-adds by the format of an operand, 0 to 1; empty before any are known."""
        found: Counter[str] = Counter()
        for slot, work in self.work.items():
            found[self.format_of(plan, slot)] += work
        total = found.total()
        return {name: work / total for name, work in found.items()} if total else {}

    def bits(self, plan: PrecisionPlan) -> dict[str, tuple[float, int]]:
        """By layer, storage bits of an operand times multiply-adds, and multiply-adds."""
        found: dict[str, tuple[float, int]] = {}
        for slot, work in self.work.items():
            operand = self.operands[slot]
            total, weighed = found.get(operand.slot.layer, (0.0, 0))
            found[operand.slot.layer] = total + work * operand.computed_in(plan).bits, weighed + work
        return found


def _shown(history: History) -> History:
    chosen = frames_shown(len(history))
    if len(chosen) == len(history):
        return history
    plans: list[str | None] = []
    for row in history:
        plans.append(row.plan or (plans[-1] if plans else None))
    rows = [replace(history[position], plan=plans[position]) for position in chosen]
    named = {own.plan: history.plans[own.plan] for own in rows if own.plan is not None}
    return History(rows, named)
