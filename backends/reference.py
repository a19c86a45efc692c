"""The oracle: the graph's ATen ops one by one in eager mode, each rounding by tensor operations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.fx import GraphModule

from precc.accumulation.product_ops import PRODUCT_OPS
from precc.backends.eager import implement, run_eagerly
from precc.protocols import BoxedCallable
from precc.round_op import round_by_tensor_ops

__all__ = ["Reference"]


@dataclass(frozen=True, slots=True)
class Reference:
    """Eager execution. Needs no compiler, and pays for roundings only where the format is coarser."""

    name: ClassVar[str] = "reference"

    def check(self) -> None:
        return None

    def compile(
        self, graph: GraphModule, inputs: Sequence[Any], *, visible_outputs: int, backward: bool
    ) -> BoxedCallable:
        implement(graph, round_by_tensor_ops, PRODUCT_OPS)
        return run_eagerly(graph)
