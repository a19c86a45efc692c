"""Leave the products of an analysed step that a call of the net does not round: those of the loss, and of no region."""

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import GraphModule, Node

from precc.analysis.traced_step import LOSS_FRAME
from precc.annotations import Unrounded, annotate
from precc.fused_attention import ATTENTION_OPERANDS
from precc.passes.module_paths import module_path
from precc.passes.products import PRODUCTS
from precc.protocols import GraphContext

__all__ = ["LeaveOutside", "why_outside"]


@dataclass(frozen=True, slots=True)
class LeaveOutside:
    """Annotate them, before others are named."""

    name: ClassVar[str] = "leave_outside"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        for node in graph.graph.nodes:
            if node.target in PRODUCTS or node.target is ATTENTION_OPERANDS:
                layer = module_path(node, context)
                reason = why_outside(node, layer, context.regions)
                if reason:
                    annotate(node, Unrounded(layer, reason))


def why_outside(node: Node, layer: str, regions: tuple[str, ...]) -> str:
    """Why a node, in a module, has no slots in a call of the net; empty if it may have some."""
    if f"in {LOSS_FRAME}" in (node.meta.get("stack_trace") or ""):
        return "it is of the loss, outside of the net"
    inside = not regions or any(layer == path or layer.startswith(f"{path}.") for path in regions)
    return "" if inside else "it is in no region"
