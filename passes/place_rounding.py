"""Place one node ``precc.round(x, plan, row)`` at each operand's slot, and give the plan its number of rows."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Node

from precc.annotations import Operand, Product, annotate, products_of
from precc.errors import CaptureError
from precc.plan import PrecisionPlan
from precc.protocols import GraphContext
from precc.round_op import ROUND
from precc.rounding import ROW_WIDTH
from precc.slots import Role, Slot

__all__ = ["PlaceRounding", "plan_of", "rounding_meta"]

#: What the partitioner and the compilers read of a node, taken over from the product that a rounding serves.
_INHERITED = (
    "ac_graph_id",
    "fwd_nn_module_stack",
    "nn_module_stack",
    "partitioner_tag",
    "recompute",
    "seq_nr",
    "stack_trace",
)


@dataclass(frozen=True, slots=True)
class PlaceRounding:
    """Round all operands of every product, each in a slot of its own; a product has one more row, for its sum.

    Where a graph is built for one plan alone, only those operands that the plan changes.
    """

    name: ClassVar[str] = "place_rounding"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        plan = plan_of(graph, context)
        row = 0
        for node, product in products_of(graph.graph):
            annotate(node, replace(product, row=row))
            for operand in product.operands:
                value = node.args[operand.position]
                assert isinstance(value, Node)
                if context.only_plan is not None and not _is_rounded(product, operand, context.only_plan):
                    row += 1
                    continue
                with graph.graph.inserting_before(node):
                    rounded = graph.graph.call_function(ROUND, (value, plan, row))
                rounded.meta = rounding_meta(node, value, operand.slot)
                annotate(rounded, operand.slot)
                node.update_arg(operand.position, rounded)
                row += 1
            row += len(product.accumulators)
        # Only now is the number of slots known: the placeholder gets the shape that the live tensor has.
        with plan.meta["val"].fake_mode:
            plan.meta["val"] = torch.empty(row, ROW_WIDTH, dtype=torch.float64, device=plan.meta["val"].device)


def plan_of(graph: GraphModule, context: GraphContext) -> Node:
    """The placeholder of the plan.

    Raises:
        CaptureError: there is none.
    """
    plan: Node | None = next((node for node in graph.graph.nodes if node.name == context.plan), None)
    if plan is None:
        raise CaptureError("the captured graph has lost its plan input")
    return plan


def _is_rounded(product: Product, operand: Operand, plan: PrecisionPlan) -> bool:
    """Whether a plan changes an operand; a product with a rounded sum finds the plan by the nodes of its operands."""
    return operand.is_rounded(plan) or product.sums(plan) is not None


def rounding_meta(node: Node, value: Node, slot: Slot) -> dict[str, Any]:
    """Of the node that rounds a value for another node."""
    meta = {key: node.meta[key] for key in _INHERITED if key in node.meta}
    fake = value.meta["val"]
    with fake.fake_mode:
        meta["val"] = torch.empty_like(fake)
    if slot.role is not Role.FPROP:
        # Or the partitioner would round in the forward, and save the rounded copy beside the original.
        meta["partitioner_tag"] = "must_be_in_backward"
    return meta
