"""What precc knows of a node: one typed record in ``node.meta["precc"]``, behind these functions."""

import math
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from precc.accumulation.sums import Sums
from precc.analysis.condition import Condition
from precc.analysis.error_gains import GainedNode
from precc.analysis.records import SlotRecord
from precc.analysis.unknown_slots import UnknownDerivative
from precc.fusion_group import FusionGroup
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import Role, Slot

__all__ = [
    "Addition",
    "InFusedCall",
    "NodeRecord",
    "Operand",
    "Product",
    "Size",
    "Unrounded",
    "annotate",
    "annotation_of",
    "is_annotated",
    "products_of",
    "results_of",
    "roundings_of",
    "unrounded_of",
]

_KEY = "precc"

#: A number of elements or operations; symbolic where the graph has dynamic shapes.
Size = int | torch.SymInt


@dataclass(frozen=True, slots=True)
class Operand:
    """One rounded argument of a product, or a result that is stored.

    Args:
        position: in the node's arguments; -1: it is the result.
        slot: where it is rounded.
        contracted: the dimension over which the product sums; of wgrad convolutions the batch; of a result the last.
        channel: the dimension of channels: of a convolution 0 of the weight, else 1; of a matrix the one that is kept;
            of its result the last.
        dims: how many dimensions the value has.
        dtype: of the value.
    """

    position: int
    slot: Slot
    contracted: int
    channel: int
    dims: int
    dtype: torch.dtype

    def computed_in(self, plan: PrecisionPlan) -> Precision:
        """The precision of its values under a plan: that of the tensors, where the plan's keeps them as they are."""
        return plan.precision(self.slot.name).kept_in(self.dtype)

    def is_rounded(self, plan: PrecisionPlan) -> bool:
        """Whether a plan changes its values."""
        return plan.precision(self.slot.name).changes(self.dtype)


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product, convolution or fused attention, in one of its roles.

    Args:
        operands: in the order of the node's arguments.
        multiply_adds: of one run.
        groups: of a convolution's channels.
        ragged: whether its sums run over groups of different lengths.
        result: what it stores; None of fused attention, whose kernel stores what it likes.
        row: in the plan, of its first operand; those of the others and of the accumulator follow. -1: not placed yet.
    """

    operands: tuple[Operand, ...]
    multiply_adds: Size
    groups: int = 1
    ragged: bool = False
    result: Operand | None = None
    row: int = -1

    @property
    def accumulator_row(self) -> int:
        """In the plan, of its running sum."""
        return self.row + len(self.operands)

    @property
    def accumulators(self) -> tuple[Slot, ...]:
        """The slot of its running sum; none if it is fused attention."""
        return self.operands[0].slot.accumulators

    def sums(self, plan: PrecisionPlan) -> Sums | None:
        """How it sums under a plan; None: as the tensors' own arithmetic, or the kernel of fused attention, does."""
        return next((plan.accumulator(slot.name) for slot in self.accumulators), None)

    @property
    def role(self) -> Role:
        """fprop, dgrad or wgrad."""
        return self.operands[0].slot.role

    @property
    def op(self) -> str:
        """The op that it belongs to, such as ``conv2/product``."""
        return self.operands[0].slot.op


@dataclass(frozen=True, slots=True)
class Addition:
    """A sum of two activations, as of a residual stream: a tensor that is stored and that no product made.

    Args:
        result: the sum.
    """

    result: Operand


@dataclass(frozen=True, slots=True)
class Unrounded:
    """A product that is computed in the tensors' own format, and why."""

    layer: str
    reason: str


@dataclass(frozen=True, slots=True)
class InFusedCall:
    """A node of a fused op, which has no slots beside those of the op."""


Annotation = Product | Addition | Unrounded | InFusedCall | Slot | FusionGroup


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What an analysis knows of a node that computes real numbers; of a rounding node it is a `SlotRecord`.

    Args:
        condition: of its result, of several the first; None where nothing is known.
        gained: how errors of its arguments grow in it, and the mean square of its values; None in the backward, and
            where no error comes in.
        annotation: what its place in the net is: a product in one of its roles, or one without slots.
        unknown: what its missing derivative leaves out; None if it has one.
    """

    condition: Condition | None
    gained: GainedNode | None
    annotation: Annotation | None = None
    unknown: UnknownDerivative | None = None

    @property
    def rms(self) -> float:
        """Root mean square of its values; NaN where it is not known."""
        return math.nan if self.gained is None else math.sqrt(self.gained.mean_square)


def annotate(node: Node, record: Annotation | NodeRecord | SlotRecord) -> None:
    """Set the record of a node."""
    node.meta[_KEY] = record


def annotation_of(node: Node) -> Annotation | None:
    """What a node's place in the net is, also where the record of an analysis holds it."""
    record = node.meta.get(_KEY)
    if isinstance(record, NodeRecord):
        return record.annotation
    found: Annotation | None = record.slot if isinstance(record, SlotRecord) else record
    return found


def is_annotated(node: Node) -> bool:
    """Whether a node has a record."""
    return _KEY in node.meta


def _records(graph: Graph, *kinds: type[Annotation]) -> list[tuple[Node, Annotation]]:
    # after a partition, the placeholder of a saved value has the metadata of the node that computed it
    computed = (node for node in graph.nodes if node.op == "call_function")
    found = ((node, annotation_of(node)) for node in computed)
    return [(node, record) for node, record in found if isinstance(record, kinds)]


def products_of(graph: Graph) -> list[tuple[Node, Product]]:
    """The products of a graph with their records, in graph order."""
    return [(node, record) for node, record in _records(graph, Product) if isinstance(record, Product)]


def results_of(graph: Graph) -> list[tuple[Node, Operand]]:
    """The nodes of a graph whose results have slots, with these, in graph order."""
    found = _records(graph, Product, Addition)
    results = ((node, own.result) for node, own in found if isinstance(own, (Product, Addition)))
    return [(node, result) for node, result in results if result is not None]


def roundings_of(graph: Graph) -> list[tuple[Node, Slot]]:
    """The rounding nodes of a graph with their slots, in graph order."""
    return [(node, record) for node, record in _records(graph, Slot) if isinstance(record, Slot)]


def unrounded_of(graph: Graph) -> list[tuple[Node, Unrounded]]:
    """The products of a graph that have no slots, with the reasons."""
    return [(node, record) for node, record in _records(graph, Unrounded) if isinstance(record, Unrounded)]
