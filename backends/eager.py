"""Running a graph op by op in eager mode, and which implementations stand in it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from precc.accumulation.product_ops import PRODUCT_OPS
from precc.packing import PACK, UNPACK
from precc.protocols import BoxedCallable
from precc.round_op import ROUND

__all__ = ["implement", "run_eagerly"]


def implement(
    graph: GraphModule,
    rounding: Callable[..., Tensor],
    products: Mapping[str, Callable[..., Tensor]],
    packing: tuple[Callable[..., Tensor], Callable[..., Tensor]] = (PACK, UNPACK),
) -> None:
    """Put these in the place of precc's operators: `rounding(x, plan, row)`, the products by name, and the packing.

    Args:
        graph: that has them.
        rounding: in the place of `precc.round_op.ROUND`.
        products: of those in `precc.accumulation.product_ops.PRODUCT_OPS`.
        packing: of `precc.packing.PACK` and `UNPACK`.
    """
    targets = {ROUND: rounding, PACK: packing[0], UNPACK: packing[1]}
    targets |= {operator: products[name] for name, operator in PRODUCT_OPS.items()}
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in targets:
            node.target = targets[node.target]
    graph.recompile()


def run_eagerly(graph: GraphModule) -> BoxedCallable:
    """The graph as it is; its arguments are freed as they are used."""

    def run(args: list[Any]) -> Sequence[Any]:
        outputs: Sequence[Any] = graph(*args)
        args.clear()
        return outputs

    return run
