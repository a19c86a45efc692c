"""What an analysis knows of each slot: one typed record, also in ``node.meta["precc"]`` of its rounding node."""

from dataclasses import dataclass

from precc.analysis.condition import Condition
from precc.analysis.value_range import ValueRange
from precc.slots import Slot

__all__ = ["SlotRecord", "SlotSensitivity"]


@dataclass(frozen=True, slots=True)
class SlotSensitivity:
    """How loss and gradient answer to relative errors of 1 in all values of the slot, random and independent.

    Args:
        loss: ``sqrt(sum((dL/dv * v)**2))``; absolute.
        gradient: root mean square of the change of the gradient, relative to the gradient's 2-norm.
        curvature: ``1/2 sum(v**2 * d2L/dv2)``, the mean of the loss error; absolute.
        standard_error: of `gradient`.
    """

    loss: float
    gradient: float
    curvature: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """Of one slot.

    Args:
        slot: where it is.
        multiply_adds: of its product; 0 of a sum of activations.
        outputs: of its product, each a sum; of fused attention its results.
        value_range: of its values.
        condition: of the product, componentwise relative, with respect to its operands.
        sensitivity: of loss and gradient; None for an accumulator.
        unknown: what its errors also reach past an operator without a derivative, which `sensitivity` and predictions
            leave out: "loss", "gradient", both or none.
        saved: of a result of the forward, whether anything in the backward reads it.
    """

    slot: Slot
    multiply_adds: int
    outputs: int
    value_range: ValueRange
    condition: Condition | None
    sensitivity: SlotSensitivity | None
    unknown: tuple[str, ...] = ()
    saved: bool = False
