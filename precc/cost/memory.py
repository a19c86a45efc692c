"""Memory: what a step keeps."""

from dataclasses import dataclass

from precc.accumulation.accumulator import Accumulator
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.precision import Precision
from precc.slots import Role, Slot

__all__ = ["Memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of copies of weights, of activations that wait for the backward, of master weights and the optimizer's
    state.

    Each precision that readers of a weight have needs a copy beside the master, unless it is float32, the master's own.
    Of an activation that the backward reads each copy counts, also one that only the forward reads; incoming gradients
    and what the forward alone reads are not kept. In inference the weights alone count, without a master.

    Args:
        master: bytes of a master weight.
        optimizer_state: bytes of the optimizer's state for a weight, such as 8 of Adam.
        training: or inference.

    >>> Memory().unit
    'bytes'
    """

    master: float = 4.0
    optimizer_state: float = 8.0
    training: bool = True

    @property
    def unit(self) -> str:
        return "bytes"

    def product(self, work: ProductWork, pair: tuple[int, int], first: Precision, second: Precision) -> float:
        return 0.0

    def sums(self, work: ProductWork, accumulator: Accumulator | None) -> float:
        return 0.0

    def copy(self, tensor: TensorWork, precision: Precision) -> float:
        if _is_weight(tensor):
            is_master = self.training and precision.format.name == "float32" and precision.scaling is None
            return 0.0 if is_master else tensor.elements * precision.bits / 8
        return tensor.elements * precision.bits / 8 if self.training and _is_saved(tensor) else 0.0

    def constant(self, step: StepWork) -> float:
        weights = sum(own.elements for own in step.tensors if _is_weight(own))
        return weights * (self.master + self.optimizer_state) if self.training else 0.0


def _is_weight(tensor: TensorWork) -> bool:
    return any(slot.operand == "weight" for slot in tensor.slots)


def _is_saved(tensor: TensorWork) -> bool:
    """Whether the backward reads a tensor of the forward."""
    return any(slot.role is not Role.FPROP and not _comes_in(slot) for slot in tensor.slots)


def _comes_in(slot: Slot) -> bool:
    return slot.operand == "grad_output"
