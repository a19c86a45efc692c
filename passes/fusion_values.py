"""Values of a graph that are rounded, and how: behind which views, by which nodes."""

from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, Node

from precc.packing import PACK
from precc.round_op import ROUND
from precc.stored_nodes import behind_views

__all__ = ["ROUNDINGS", "RoundedValue", "are_equal", "rounded_values"]

ROUNDINGS = (ROUND, PACK)


@dataclass(frozen=True, slots=True)
class RoundedValue:
    """A value and all roundings of it.

    Args:
        value: the node that computes it, no view.
        roundings: nodes that round it, or a view of it, in graph order.
        views: the views between the value and each of them.
    """

    value: Node
    roundings: tuple[Node, ...]
    views: tuple[tuple[Node, ...], ...]

    @property
    def own_views(self) -> frozenset[Node]:
        """The views that serve nothing but these roundings."""
        inside = set(self.roundings)
        waiting = [view for chain in self.views for view in chain]
        while serving := [view for view in waiting if view not in inside and set(view.users) <= inside]:
            inside |= set(serving)
        return frozenset(inside - set(self.roundings))


def are_equal(first: Any, second: Any) -> bool:
    """Whether two sizes are the same for all values of their symbols."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return bool(statically_known_true(first == second))


def rounded_values(graph: Graph) -> dict[Node, RoundedValue]:
    """The values that are rounded, in the order of their first rounding."""
    found: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in ROUNDINGS:
            source = node.args[0]
            assert isinstance(source, Node)
            found.setdefault(behind_views(source), []).append(node)
    return {
        value: RoundedValue(value, tuple(own), tuple(_chain(n, value) for n in own)) for value, own in found.items()
    }


def _chain(rounding: Node, value: Node) -> tuple[Node, ...]:
    chain: list[Node] = []
    node = rounding.args[0]
    while node is not value:
        assert isinstance(node, Node)
        chain.append(node)
        node = node.args[0]
    return tuple(chain)
