"""The protocol of cost models."""

from typing import Protocol, runtime_checkable

from precc.accumulation.accumulator import Accumulator
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.precision import Precision

__all__ = ["CostModel"]


@runtime_checkable
class CostModel(Protocol):
    """The cost of a step is the sum of what these answer, in `unit`; none is negative."""

    @property
    def unit(self) -> str:
        """Of all costs, such as ``"J"`` or ``"bytes"``."""
        ...

    def product(self, work: ProductWork, pair: tuple[int, int], first: Precision, second: Precision) -> float:
        """Of multiplying the two operands at these positions, in these precisions."""
        ...

    def sums(self, work: ProductWork, accumulator: Accumulator | None) -> float:
        """Of adding up a product; None: as the tensors' own arithmetic does."""
        ...

    def copy(self, tensor: TensorWork, precision: Precision) -> float:
        """Of a copy of a tensor in a precision, whatever the number of products that read it."""
        ...

    def constant(self, step: StepWork) -> float:
        """What no plan changes."""
        ...
