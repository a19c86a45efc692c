"""Running a graph op by op in eager mode."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from precc.protocols import BoxedCallable
from precc.round_op import ROUND

__all__ = ["run_eagerly"]


def run_eagerly(graph: GraphModule, rounding: Callable[[Tensor, Tensor, int], Tensor]) -> BoxedCallable:
    """The graph as it is, with `rounding(x, plan, row)` at each slot; its arguments are freed as they are used."""
    for node in graph.graph.find_nodes(op="call_function", target=ROUND):
        node.target = rounding
    graph.recompile()

    def run(args: list[Any]) -> Sequence[Any]:
        outputs: Sequence[Any] = graph(*args)
        args.clear()
        return outputs

    return run
