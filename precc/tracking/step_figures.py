"""What a net computes in at one step of its training, layer by layer, and how large its values are."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from precc.annotations import Operand
from precc.history import History
from precc.module import PrecisionModule, session_of
from precc.net_graphs import NetGraphs
from precc.plan import PrecisionPlan
from precc.report.film_strip import FilmStrip
from precc.tracking.magnitudes import Magnitudes

__all__ = ["StepFigures"]


@dataclass(frozen=True, slots=True)
class StepFigures:
    """Of the plan in force and of the tensors as they are now. Before the first call of a net most of it is empty.

    Args:
        work: share of the step's multiply-adds by the format of an operand, 0 to 1; the two operands count half each.
        bits: storage bits of an operand, by layer, averaged by multiply-adds.
        average_bits: the same of the whole net; None before its work is known.
        weights: magnitudes of the trained parameters, by name.
        gradients: likewise of their gradients, as they are: those that there are.
        present: the formats of the plan in force, a film of one plan.
        film: of the history.
    """

    work: Mapping[str, float]
    bits: Mapping[str, float]
    average_bits: float | None
    weights: Mapping[str, Magnitudes]
    gradients: Mapping[str, Magnitudes]
    present: FilmStrip
    film: FilmStrip

    @classmethod
    def of(cls, net: PrecisionModule, *, magnitudes: bool = True) -> "StepFigures":
        """Those of a net; without magnitudes nothing reads its tensors."""
        session = session_of(net)
        own = _Formats.of(session.graphs)
        trained = [(name, value) for name, value in net.named_parameters() if value.requires_grad and magnitudes]
        bits = own.bits(session.plan)
        work = sum(own.work.values())
        return cls(
            own.shares(session.plan),
            {layer: total / weighed for layer, (total, weighed) in bits.items() if weighed},
            sum(total for total, _ in bits.values()) / work if work else None,
            {name: Magnitudes.of(value) for name, value in trained},
            {name: Magnitudes.of(value.grad) for name, value in trained if value.grad is not None},
            own.film(History(plans={"": session.plan})),
            own.film(session.history),
        )


@dataclass(frozen=True, slots=True)
class _Formats:
    operands: Mapping[str, Operand]  # by slot
    work: Mapping[str, int]  # multiply-adds by slot

    @classmethod
    def of(cls, graphs: NetGraphs) -> "_Formats":
        operands: dict[str, Operand] = {}
        for graph in graphs.training_first:
            for product in graph.products:
                for operand in product.operands:
                    operands.setdefault(operand.slot.name, operand)
        return cls(operands, graphs.multiply_adds)

    def format_of(self, plan: PrecisionPlan, slot: str) -> str:
        return self.operands[slot].computed_in(plan).format.name

    def film(self, history: History) -> FilmStrip:
        return FilmStrip.of(history, list(self.operands), self.format_of)

    def shares(self, plan: PrecisionPlan) -> dict[str, float]:
        found: Counter[str] = Counter()
        for slot, work in self.work.items():
            found[self.format_of(plan, slot)] += work
        total = found.total()
        return {name: work / total for name, work in found.items()} if total else {}

    def bits(self, plan: PrecisionPlan) -> dict[str, tuple[float, int]]:
        """By layer, bits times multiply-adds, and multiply-adds."""
        found: dict[str, tuple[float, int]] = {}
        for slot, work in self.work.items():
            operand = self.operands[slot]
            total, weighed = found.get(operand.slot.layer, (0.0, 0))
            found[operand.slot.layer] = total + work * operand.computed_in(plan).bits, weighed + work
        return found
