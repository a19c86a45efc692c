"""Put the nodes of a group into a submodule that computes the same."""

import operator
from collections.abc import Iterable, Sequence
from itertools import pairwise

import networkx as nx
from torch.fx import Graph, GraphModule, Node

__all__ = ["into_submodule", "sort_topologically"]


def into_submodule(graph: GraphModule, nodes: Sequence[Node], name: str) -> Node:
    """Replace nodes, in graph order, by one ``call_module``, whose module returns a tuple; the graph is unsorted then.

    Its arguments are what the nodes read, in the order in which they read it.
    """
    inside = set(nodes)
    inputs = list(dict.fromkeys(own for node in nodes for own in node.all_input_nodes if own not in inside))
    outputs = [node for node in nodes if any(user not in inside for user in node.users)]
    graph.add_submodule(name, GraphModule({}, _copied(nodes, inputs, outputs), class_name=name))
    with graph.graph.inserting_after(nodes[-1]):
        call = graph.graph.call_module(name, tuple(inputs))
    call.meta["val"] = tuple(own.meta.get("val") for own in outputs)
    for n, own in reversed(list(enumerate(outputs))):
        with graph.graph.inserting_after(call):
            item = graph.graph.call_function(operator.getitem, (call, n))
        item.meta = dict(own.meta)
        item.meta.pop("precc", None)
        own.replace_all_uses_with(item, delete_user_cb=lambda user: user not in inside)
    for node in reversed(nodes):
        graph.graph.erase_node(node)
    return call


def _copied(nodes: Sequence[Node], inputs: Sequence[Node], outputs: Sequence[Node]) -> Graph:
    graph, new = Graph(), {}
    for own in inputs:
        new[own] = graph.placeholder(own.name)
        new[own].meta = dict(own.meta)
    for own in nodes:
        new[own] = graph.node_copy(own, new.__getitem__)
    graph.output(tuple(new[own] for own in outputs))
    return graph


def sort_topologically(graph: Graph) -> None:
    """Move nodes behind all that they read, with the least change of their order."""
    places = {node: n for n, node in enumerate(graph.nodes)}
    waits: nx.DiGraph[Node] = nx.DiGraph()
    waits.add_nodes_from(places)
    waits.add_edges_from(_edges(places))
    ordered = list(nx.lexicographical_topological_sort(waits, key=places.__getitem__))
    for before, after in pairwise(ordered):
        if before.next is not after:
            before.append(after)


def _edges(nodes: Iterable[Node]) -> Iterable[tuple[Node, Node]]:
    return ((source, node) for node in nodes for source in node.all_input_nodes)
