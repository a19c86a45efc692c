"""From which slots a path of a step leads over an edge: by the edges of its graph."""

from collections.abc import Iterable

from torch.fx import Node

from precc.analysis.lost_derivatives import Edge, holds_reals, sources
from precc.analysis.traced_step import TracedStep
from precc.analysis.unknown_slots import UnknownSlots
from precc.annotations import products_of, results_of, roundings_of

__all__ = ["slots_past"]


def slots_past(step: TracedStep, edges: Iterable[Edge]) -> UnknownSlots:
    """The slots from which a path leads over one of these edges to the loss, or to the gradient of a parameter."""
    edges = tuple(edges)
    found = []
    for ends in ([step.loss], list(step.gradients.values())):
        before = _before(ends)
        passing = _before([source for source, reader in edges if reader in before])
        found.append(tuple(name for name, node in _places(step) if node in passing))
    return UnknownSlots(*found)


def _places(step: TracedStep) -> list[tuple[str, Node]]:
    """Each slot and the node at which its values are rounded: of sums the product."""
    roundings = {slot.name: node for node, slot in roundings_of(step.graph.graph)}
    found = []
    for node, product in products_of(step.graph.graph):
        found += [(operand.slot.name, roundings[operand.slot.name]) for operand in product.operands]
        found += [(slot.name, node) for slot in product.accumulators]
    names = [result.slot.name for _, result in results_of(step.graph.graph)]
    found += [(name, roundings[name]) for name in names if name in roundings]
    return found


def _before(ends: Iterable[Node]) -> set[Node]:
    """These nodes, and all whose real values they depend on."""
    found, waiting = set(ends), list(ends)
    while waiting:
        node = waiting.pop()
        for argument in sources(node):
            if argument not in found and holds_reals(argument):
                found.add(argument)
                waiting.append(argument)
    return found
