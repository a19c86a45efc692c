"""Place one node ``precc.round(x, plan, row)`` behind each result that has a slot, and give the plan rows for them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Graph, GraphModule, Node

from precc.annotations import Operand, annotate, results_of
from precc.passes.place_rounding import plan_of, rounding_meta
from precc.protocols import GraphContext
from precc.round_op import ROUND
from precc.rounding import ROW_WIDTH
from precc.stored_nodes import stored_by

__all__ = ["PlaceResults"]


@dataclass(frozen=True, slots=True)
class PlaceResults:
    """Round the results of products and of sums of activations; all that read them read what is rounded.

    There are rows for them in any case, behind those of the products; nodes only where the graph is built so that
    results can be rounded, and, where it is built for one plan alone, those that the plan changes.
    """

    name: ClassVar[str] = "place_results"

    def run(self, graph: GraphModule, context: GraphContext) -> None:
        plan = plan_of(graph, context)
        row = plan.meta["val"].shape[0]
        for node, result in results_of(graph.graph):
            if context.results and (context.only_plan is None or result.is_rounded(context.only_plan)):
                _round(graph.graph, stored_by(node, context.constants), result, plan, row)
            row += 1
        with plan.meta["val"].fake_mode:
            plan.meta["val"] = torch.empty(row, ROW_WIDTH, dtype=torch.float64, device=plan.meta["val"].device)


def _round(graph: Graph, value: Node | None, result: Operand, plan: Node, row: int) -> None:
    assert value is not None, "a result that nothing takes has no slot"
    with graph.inserting_after(value):
        rounded = graph.call_function(ROUND, (value, plan, row))
    rounded.meta = rounding_meta(value, value, result.slot)
    annotate(rounded, result.slot)
    value.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
