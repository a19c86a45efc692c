"""Eager execution with the compiled kernels at the slots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.fx import GraphModule

from precc.backends.cpp.build import load_library
from precc.backends.cpp.kernels import round_compiled
from precc.backends.eager import run_eagerly
from precc.protocols import BoxedCallable
from precc.round_op import define_rounding
from precc.rounding import parse_row

__all__ = ["ROUND_COMPILED", "Cpp"]


@dataclass(frozen=True, slots=True)
class Cpp:
    """The reference's graph and results, bit for bit; roundings run at the speed of memory."""

    name: ClassVar[str] = "cpp"

    def check(self) -> None:
        load_library()

    def compile(
        self, graph: GraphModule, inputs: Sequence[Any], *, visible_outputs: int, backward: bool
    ) -> BoxedCallable:
        return run_eagerly(graph, _round)


def _round(x: Tensor, plan: Tensor, row: int) -> Tensor:
    return round_compiled(x, *parse_row(plan[row].tolist()))


#: `_round` as an operator, for graphs that another compiler runs.
ROUND_COMPILED = define_rounding("round_compiled", _round)
