"""What is chosen for: groups of slots, in a graph whose edges say which choices meet."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import networkx as nx

from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.errors import PlanError
from precc.slots import Slot

__all__ = ["GroupKind", "Grouping", "Share", "group_graph", "parse_share"]


class Share(Enum):
    """Which slots have one precision."""

    NOTHING = "nothing"  #: each has its own
    TENSOR = "tensor"  #: all that read the same values: there is one copy of a tensor, and tied weights are alike


class GroupKind(Enum):
    """What is chosen for a group."""

    SLOTS = "slots"  #: the precision of slots
    COPY = "copy"  #: the precision that the readers of a tensor have without a copy of their own
    SUM = "sum"  #: an accumulator


@dataclass(frozen=True, slots=True)
class Grouping:
    """How slots are grouped.

    Args:
        share: which slots have one precision.
        sums: whether accumulators are chosen too.
        copies: whether another copy of a tensor costs anything.
        results_share: whether results may have the precision of their readers too; else each has its own.
    """

    share: Share
    sums: bool = False
    copies: bool = False
    results_share: bool = True


def group_graph(work: StepWork, grouping: Grouping) -> "nx.MultiGraph[int]":
    """The groups of a step, numbered from 0, and what links them.

    Nodes have `kind`, and `slots` (of GroupKind.SLOTS), `tensor` (COPY) or `product` (SUM). Edges have `kind`:
    "product" with the `product` and a `pair` of its operands, first end to second end; "copy" from a reader to its
    tensor, with the `tensor` as a copy for this reader alone; "sum" from a sum to an operand.

    Args:
        work: of the step.
        grouping: of its slots.
    """
    graph: nx.MultiGraph[int] = nx.MultiGraph()
    group_of: dict[Slot, int] = {}
    for slots in _shared(work, grouping):
        group = graph.number_of_nodes()
        graph.add_node(group, kind=GroupKind.SLOTS, slots=slots)
        group_of.update(dict.fromkeys(slots, group))
    for product in work.products:
        _link_product(graph, group_of, product, grouping.sums)
    for tensor in work.tensors:
        if grouping.copies:
            _link_tensor(graph, group_of, tensor)
    return graph


def _shared(work: StepWork, grouping: Grouping) -> Sequence[tuple[Slot, ...]]:
    slots = [slot for product in work.products for slot in product.operands]
    slots += [tensor.result for tensor in work.tensors if tensor.result is not None]
    linked: nx.Graph[Slot] = nx.Graph()
    linked.add_nodes_from(slots)
    if grouping.share is Share.TENSOR:
        for tensor in work.tensors:
            nx.add_path(linked, [slot for slot in tensor.slots if grouping.results_share or not slot.is_result])
    order = {slot: position for position, slot in enumerate(slots)}
    found = [tuple(sorted(own, key=order.__getitem__)) for own in nx.connected_components(linked)]
    return sorted(found, key=lambda own: order[own[0]])


def _link_product(graph: "nx.MultiGraph[int]", group_of: dict[Slot, int], product: ProductWork, sums: bool) -> None:
    for pair in product.pairs:
        first, second = (group_of[product.operands[k]] for k in pair)
        graph.add_edge(first, second, kind="product", product=product, pair=pair, ends=(first, second))
    if sums and product.accumulators and len(product.operands) == 2:
        own = graph.number_of_nodes()
        graph.add_node(own, kind=GroupKind.SUM, product=product)
        for position in (0, 1):
            operand = group_of[product.operands[position]]
            graph.add_edge(own, operand, kind="sum", position=position, ends=(own, operand))


def _link_tensor(graph: "nx.MultiGraph[int]", group_of: dict[Slot, int], tensor: TensorWork) -> None:
    readers: dict[int, tuple[Slot, ...]] = {}
    for slot in tensor.slots:
        readers[group_of[slot]] = (*readers.get(group_of[slot], ()), slot)
    own = graph.number_of_nodes()
    graph.add_node(own, kind=GroupKind.COPY, tensor=tensor)
    for reader, slots in readers.items():
        graph.add_edge(reader, own, kind="copy", tensor=replace(tensor, slots=slots), ends=(reader, own))


def parse_share(share: Share | str) -> Share:
    """Which slots have one precision.

    Raises:
        PlanError: an unknown name.
    """
    try:
        return Share(share)
    except ValueError:
        raise PlanError(f"share is {' or '.join(repr(own.value) for own in Share)}, not {share!r}") from None
