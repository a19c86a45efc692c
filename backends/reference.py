"""The oracle: the graph's ATen ops one by one in eager mode, each rounding by `precc.rounding.quantize`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from precc.protocols import BoxedCallable
from precc.round_op import ROUND
from precc.rounding import Row, quantize

__all__ = ["Reference"]


@dataclass(frozen=True, slots=True)
class Reference:
    """Eager execution. Needs no compiler, and pays for roundings only where the format is coarser."""

    name: ClassVar[str] = "reference"

    def check(self) -> None:
        return None

    def plan_device(self, device: torch.device) -> torch.device:
        """The processor's memory, so that reading a row never waits for an accelerator."""
        return torch.device("cpu")

    def compile(
        self, graph: GraphModule, inputs: Sequence[Any], *, visible_outputs: int, backward: bool
    ) -> BoxedCallable:
        for node in graph.graph.find_nodes(op="call_function", target=ROUND):
            node.target = _round
        graph.recompile()

        def run(args: list[Any]) -> Sequence[Any]:
            outputs: Sequence[Any] = graph(*args)
            args.clear()
            return outputs

        return run


def _round(x: Tensor, plan: Tensor, row: int) -> Tensor:
    mantissa_bits, k_min, largest, overflow_to = plan[row].tolist()
    return quantize(x, Row(int(mantissa_bits), int(k_min), largest, overflow_to))
