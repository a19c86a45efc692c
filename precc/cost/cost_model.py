"""The protocols of cost models."""

from typing import Protocol, runtime_checkable

from precc.accumulation.accumulator import Accumulator
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.errors import PlanError
from precc.precision import Precision
from precc.target import Target

__all__ = ["CostModel", "DeviceCost", "amount"]


@runtime_checkable
class CostModel(Protocol):
    """The cost of a step is the sum of what these answer, in `unit`.

    None is negative; what a machine cannot do costs infinitely much.
    """

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
        """Of a copy of a tensor in a precision, whatever the number of slots that read it: those of the tensor.

        With a slot of a result among them (`TensorWork.result`) it is no copy, but what an op stores.
        """
        ...

    def constant(self, step: StepWork) -> float:
        """What no plan changes."""
        ...


@runtime_checkable
class DeviceCost(Protocol):
    """Of a cost model that is of one device, beside the methods of `CostModel`: policies ask it before they choose."""

    def target_problem(self, target: Target) -> str:
        """Why it does not say what a step costs on the target of a plan; empty if it does."""
        ...


def amount(value: object, model: CostModel) -> float:
    """A cost as a number; infinite for what a machine cannot do.

    Raises:
        PlanError: what a model says is none.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
        raise PlanError(f"{model!r:.80} says {value!r:.40} where a cost is a number of at least 0")
    return float(value)
