"""A graph whose nodes are joined to groups, as long as no group waits for itself."""

from collections.abc import Iterable

import networkx as nx
from torch.fx import Graph, Node

__all__ = ["FusionUnits"]


class FusionUnits:
    """Nodes and groups of them, with what waits for what: an acyclic graph.

    A set of units may become one if it is convex: no way leads out of it and back.
    """

    def __init__(self, graph: Graph) -> None:
        self._members: dict[Node, set[Node]] = {node: {node} for node in graph.nodes}
        self._unit = {node: node for node in graph.nodes}
        self._waits: nx.DiGraph[Node] = nx.DiGraph()
        self._waits.add_nodes_from(graph.nodes)
        self._waits.add_edges_from((source, node) for node in graph.nodes for source in node.all_input_nodes)

    def can_join(self, nodes: Iterable[Node]) -> bool:
        """Whether these nodes, with the groups that they are in, may be one group."""
        units = {self._unit[node] for node in nodes}
        waiting = [after for unit in units for after in self._waits.successors(unit) if after not in units]
        seen = set(waiting)
        while waiting:
            for after in self._waits.successors(waiting.pop()):
                if after in units:
                    return False
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
        return True

    def join(self, nodes: Iterable[Node]) -> None:
        """Make these nodes one group; they must be able to."""
        units = list(dict.fromkeys(self._unit[node] for node in nodes))
        first, *others = units
        for other in others:
            for before in list(self._waits.predecessors(other)):
                self._waits.add_edge(before, first)
            for after in list(self._waits.successors(other)):
                self._waits.add_edge(first, after)
            self._waits.remove_node(other)
            for node in self._members[other]:
                self._unit[node] = first
            self._members[first] |= self._members.pop(other)
        if self._waits.has_edge(first, first):
            self._waits.remove_edge(first, first)
