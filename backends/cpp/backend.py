"""Eager execution with the compiled kernels at the slots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.fx import GraphModule

from precc.accumulation.kernels import Kernels, whole
from precc.accumulation.product_ops import define_products
from precc.backends.cpp.accumulate import accumulate
from precc.backends.cpp.build import load_library
from precc.backends.cpp.kernels import round_compiled
from precc.backends.eager import implement, run_eagerly
from precc.protocols import BoxedCallable
from precc.round_op import define_rounding, round_as_planned

__all__ = ["PRODUCTS_COMPILED", "ROUND_COMPILED", "Cpp"]


@dataclass(frozen=True, slots=True)
class Cpp:
    """The reference's graph and results, bit for bit; roundings run at the speed of memory."""

    name: ClassVar[str] = "cpp"

    def check(self) -> None:
        load_library()

    def compile(
        self, graph: GraphModule, inputs: Sequence[Any], *, visible_outputs: int, backward: bool
    ) -> BoxedCallable:
        implement(graph, _round, PRODUCTS_COMPILED)
        return run_eagerly(graph)


def _round(x: Tensor, plan: Tensor, row: int) -> Tensor:
    return round_as_planned(x, plan, row, round_compiled)


#: `_round` as an operator, for graphs that another compiler runs.
ROUND_COMPILED = define_rounding("round_compiled", _round)

#: Products with a rounded sum, by name.
PRODUCTS_COMPILED = define_products("compiled_", Kernels(round_compiled, accumulate, whole(accumulate)))
