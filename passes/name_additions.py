"""Name the sums of two activations, as of a residual stream: they are stored, and no product made them."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from precc.annotations import Addition, annotate, is_annotated
from precc.passes.dependence import activations_in, backward_of
from precc.passes.leave_outside import why_outside
from precc.passes.module_paths import module_path
from precc.passes.products import result_of
from precc.protocols import GraphContext
from precc.slots import ADDITION, Role, Slot

__all__ = ["NameAdditions"]

_ADD = torch.ops.aten.add.Tensor


@dataclass(frozen=True, slots=True)
class NameAdditions:
    """Annotate each ``a + b`` of the forward whose terms are both activations; sizes do not matter, so names are the
    same for all batches.

    Biases, masks, positions, the epsilon of a norm and averages of statistics are no activations. Such sums have slots
    for their results as products have; what is in between lies inside of fused kernels, or is an operand of a product.
    """

    name: ClassVar[str] = "name_additions"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        nodes = list(graph.graph.nodes)
        backward, activations = backward_of(nodes), activations_in(nodes, context)
        found = [n for n in nodes if n.target is _ADD and n not in backward and _is_sum(n, activations)]
        layers = {n: module_path(n, context) for n in found if not is_annotated(n)}
        layers = {n: layer for n, layer in layers.items() if not why_outside(n, layer, context.regions)}
        bases = context.numbers.number(context.frame, Counter((layer, ADDITION) for layer in layers.values()))
        used: Counter[str] = Counter()
        for node, layer in layers.items():
            slot = Slot(layer, ADDITION, bases[layer, ADDITION] + used[layer], Role.FPROP, "a")
            used[layer] += 1
            annotate(node, Addition(result_of(node, slot.result)))


def _is_sum(node: Node, activations: set[Node]) -> bool:
    value = node.meta["val"]
    real = value.is_floating_point() and value.dim() > 0
    return real and all(isinstance(own, Node) and own in activations for own in node.args[:2])
