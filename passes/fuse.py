"""Put what one kernel can compute together into submodules: products, norms and casts, each with what is around it."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule, Node

from precc.annotations import Product, annotate, annotation_of
from precc.fusion_group import FusionGroup
from precc.passes.fusion_modules import into_submodule, sort_topologically
from precc.passes.fusion_search import FoundGroup, find_groups
from precc.protocols import GraphContext
from precc.slots import Slot
from precc.stored_nodes import behind_views

__all__ = ["Fuse"]


@dataclass(frozen=True, slots=True)
class Fuse:
    """Each group becomes one node ``call_module`` with a `FusionGroup`; the graph computes the same, bit for bit.

    Groups are convex: no way leads out of one and back. They are named after the first slot or op in them.
    """

    name: ClassVar[str] = "fuse"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        names: Counter[str] = Counter()
        for found in find_groups(graph.graph, context.constants):
            name = _unique(_name(found), names)
            kept = tuple(node.name for node in found.nodes)
            call = into_submodule(graph, found.nodes, name)
            values = [behind_views(own) for own in call.all_input_nodes]
            fixed = [own.op == "placeholder" and own.name in context.constants for own in values]
            parameters = tuple(n for n, own in enumerate(fixed) if own)
            annotate(call, FusionGroup(name, found.kind, kept, _slots(found.nodes), parameters))
        sort_topologically(graph.graph)


def _slots(nodes: tuple[Node, ...]) -> tuple[str, ...]:
    names: list[str] = []
    for node in nodes:
        record = annotation_of(node)
        if isinstance(record, Slot):
            names.append(record.name)
        elif isinstance(record, Product):
            names += [slot.name for slot in record.accumulators]
    return tuple(names)


def _name(found: FoundGroup) -> str:
    records = [annotation_of(node) for node in found.nodes]
    product = next((own for own in records if isinstance(own, Product)), None)
    if product is not None:
        return _identifier(f"{product.op}/{product.role.value}")
    slot = next(own for own in records if isinstance(own, Slot))
    return _identifier(f"{found.kind.value}/{slot.name}")


#: Letters of a name: files of kernels are called after it, here and by Triton.
_MOST = 120


def _identifier(name: str) -> str:
    cleaned = re.sub(r"\W+", "_", name).strip("_")[:_MOST]
    return cleaned if cleaned[:1].isalpha() else f"net_{cleaned}"


def _unique(name: str, names: Counter[str]) -> str:
    names[name] += 1
    return name if names[name] == 1 else f"{name}_{names[name]}"
