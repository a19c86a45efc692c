"""Memory: the bytes that a step keeps."""

from dataclasses import dataclass

import torch

from precc.accumulation.accumulator import Accumulator
from precc.checks import require_number
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.precision import Precision
from precc.slots import ATTENTION, Role, Slot

__all__ = ["Memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of weights, of activations that wait for the backward, and of the optimizer.

    Bits over 8 times elements, scales of blocks too, of

    - a copy of a weight in each precision that reads it, but of one that leaves float32 as it is: that is the master;
    - a copy of an activation that anything in the backward reads, or fused attention, whose kernel keeps what it read;
    - a result that anything in the backward reads, where results have slots, in what it is stored: operands in the same
      precision read it, and have no copy beside it;

    and beside them the master of each weight, and the state of the optimizer of those that have a gradient (of 8 bytes:
    the two moments of Adam; Kingma and Ba 2015; the sum is that of ZeRO; Rajbhandari et al. 2020). An incoming gradient
    is not kept, nor is a copy that the forward alone reads. What no product reads or makes (biases, embeddings, masks)
    is not known here.

    Args:
        training: otherwise the weights that the forward reads count, in its precision, and nothing else: no master.
        master: bytes a weight.
        optimizer_state: bytes a weight that is trained.

    Raises:
        PlanError: bytes that are negative.

    >>> Memory().unit
    'bytes'
    """

    training: bool = True
    master: float = 4.0
    optimizer_state: float = 8.0

    def __post_init__(self) -> None:
        for name in ("master", "optimizer_state"):
            require_number(getattr(self, name), f"{name} of a weight in bytes", zero=True)

    @property
    def unit(self) -> str:
        return "bytes"

    def product(self, work: ProductWork, pair: tuple[int, int], first: Precision, second: Precision) -> float:
        return 0.0

    def sums(self, work: ProductWork, accumulator: Accumulator | None) -> float:
        return 0.0

    def copy(self, tensor: TensorWork, precision: Precision) -> float:
        kept = self._keeps_weight(tensor, precision) if _weights(tensor) else self.training and _is_saved(tensor)
        return precision.bits / 8 * tensor.elements if kept else 0.0

    def constant(self, step: StepWork) -> float:
        if not self.training:
            return 0.0
        trained = {slot.op for own in step.products if own.role is Role.WGRAD for slot in own.operands}
        total = 0.0
        for tensor in step.tensors:
            weights = _weights(tensor)
            total += tensor.elements * self.master * bool(weights)
            total += tensor.elements * self.optimizer_state * any(slot.op in trained for slot in weights)
        return total

    def _keeps_weight(self, tensor: TensorWork, precision: Precision) -> bool:
        if self.training:
            return precision.changes(torch.float32)
        return any(slot.role is Role.FPROP for slot in _weights(tensor))


def _weights(tensor: TensorWork) -> list[Slot]:
    return [slot for slot in tensor.slots if slot.operand == "weight"]


def _is_saved(tensor: TensorWork) -> bool:
    """Whether it is an activation that is read after the forward."""
    if tensor.result is not None and tensor.saved:
        return True
    activations = [slot for slot in tensor.slots if slot.operand != "grad_output" and not slot.is_result]
    return any(slot.role is not Role.FPROP or slot.family == ATTENTION for slot in activations)
