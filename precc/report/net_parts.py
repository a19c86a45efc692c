"""What a report is made of: a net as it stands, its ops, and where the model computes them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from precc.analysis.analysis import Analysis
from precc.annotations import Operand, Product
from precc.captured_graph import CapturedGraph, size_value
from precc.history import History
from precc.plan import PrecisionPlan
from precc.slots import ADDITION, Role
from precc.source_places import Place

__all__ = ["NetFacts", "NetParts"]


@dataclass(frozen=True, slots=True)
class NetFacts:
    """A net as it stands.

    Args:
        title: its name.
        backend: that builds its graphs.
        lacking: why a faster one cannot; empty if none is.
        plan: in force.
        live: whether its graphs take other plans.
        graphs: captured so far, those with a backward in front.
        graph_breaks: why the capture was interrupted.
        outside: matrices that no graph has taken in.
        executed: multiply-adds so far, by format.
        events: what controllers counted.
        updates: names of the slots of updates.
        training: lines on what is done outside of graphs.
        history: of decisions.
        largest: of the last so many records of a slot, as `precc.amax_history.AmaxHistory.largest`.
    """

    title: str
    backend: str
    lacking: str
    plan: PrecisionPlan
    live: bool
    graphs: Sequence[CapturedGraph]
    graph_breaks: Sequence[str]
    outside: Sequence[str]
    executed: Mapping[str, int]
    events: Mapping[str, int]
    updates: Collection[str]
    training: Sequence[str]
    history: History
    largest: Callable[[str, int], float]


@dataclass(frozen=True, slots=True)
class NetParts:
    """The ops of a net, each once.

    Args:
        ops: the products of each op, by its name.
        additions: results of sums of two activations.
        places: the line of the model that computes an op, by its name; of those whose line is known.
    """

    ops: Mapping[str, Mapping[Role, Product]]
    additions: tuple[Operand, ...]
    places: Mapping[str, Place]

    @classmethod
    def of(cls, graphs: Sequence[CapturedGraph], analysis: Analysis | None) -> "NetParts":
        """Of the graphs of a net; of its analysis where there are none yet."""
        if not graphs and analysis is not None:
            return cls(_by_op(_analysed(analysis)), (), {})
        results = (result for graph in graphs for result in graph.results if result.slot.family == ADDITION)
        places: dict[str, Place] = {}
        for graph in graphs:
            places = {**graph.places, **places}
        products = [product for graph in graphs for product in graph.products]
        return cls(_by_op(products), tuple({result.slot: result for result in results}.values()), places)

    @property
    def products(self) -> list[Product]:
        """All of them."""
        return [product for roles in self.ops.values() for product in roles.values()]

    @property
    def slots(self) -> list[str]:
        """Names of the slots of their operands."""
        return [operand.slot.name for product in self.products for operand in product.operands]

    @property
    def work(self) -> dict[str, int]:
        """Multiply-adds of one step, by op."""
        return {
            op: sum(size_value(product.multiply_adds, {}) for product in roles.values())
            for op, roles in self.ops.items()
        }


def _by_op(products: Sequence[Product]) -> dict[str, dict[Role, Product]]:
    ops: dict[str, dict[Role, Product]] = {}
    for product in products:
        ops.setdefault(product.op, {}).setdefault(product.role, product)
    return ops


def _analysed(analysis: Analysis) -> list[Product]:
    """The products that an analysis knows, as far as reports read them."""
    samples = analysis.findings.sensitivities.samples
    dtypes = {own.name: sample.values.dtype for sample in samples for own in sample.slots}
    products: dict[tuple[str, Role], list[Operand]] = {}
    work: dict[tuple[str, Role], int] = {}
    for name in analysis.operands:
        record = analysis.records[name]
        key = (record.slot.op, record.slot.role)
        own = products.setdefault(key, [])
        own.append(Operand(len(own), record.slot, contracted=-1, channel=-1, dims=0, dtype=dtypes[name]))
        work[key] = record.multiply_adds
    return [Product(tuple(own), work[key]) for key, own in products.items()]
