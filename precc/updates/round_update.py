"""One update of one parameter, rounded: pure functions of tensors and rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from torch import Tensor

from precc.errors import FormatError, PlanError
from precc.plan import PrecisionPlan
from precc.precision import AS_STORED
from precc.rounding import RoundingMode, Row, quantize, slot_number
from precc.rounding.scales import block_shape, divisor_of, scale_of
from precc.rounding.tensor_ops import carrier_of, round_elements
from precc.slots import UPDATES, update_slot

__all__ = ["RoundTensor", "UpdateRows", "lost_to_nearest", "round_update"]

#: ``rounding(x, row, key)``: `x` rounded, or `x` itself where nothing changes.
RoundTensor = Callable[[Tensor, Row, int], Tensor]


@dataclass(frozen=True, slots=True)
class UpdateRows:
    """How the update of one parameter is rounded; None: not at all."""

    gradient: Row | None = None
    momentum: Row | None = None
    step: Row | None = None
    master: Row | None = None

    @classmethod
    def of(cls, plan: PrecisionPlan, path: str, parameter: Tensor) -> "UpdateRows":
        """What a plan says of the parameter at a path.

        Rows and blocks of scalings are along its last dimension, channels are those of the first.

        Raises:
            PlanError: a scaling that does not fit its shape.
        """
        return cls(**{what: _row(plan, update_slot(path, what), parameter) for what in UPDATES})

    def of_state(self, name: str) -> Row | None:
        """How a state of the optimizer is rounded: as momentum, with random bits of its own."""
        return None if self.momentum is None else _with_bits_of(self.momentum, name)

    @property
    def draws(self) -> bool:
        """Whether any of it needs random bits."""
        return any(
            row is not None and row.is_stochastic for row in (self.gradient, self.momentum, self.step, self.master)
        )


@lru_cache(maxsize=8192)  # kernels are prepared once a row
def _with_bits_of(row: Row, name: str) -> Row:
    return replace(row, slot=row.slot ^ slot_number(name)) if row.is_stochastic else row


def _row(plan: PrecisionPlan, slot: str, parameter: Tensor) -> Row | None:
    own = plan.precision(slot)
    if own == AS_STORED:
        return None
    row = own.row(axis=-1, channel=0, slot=slot_number(slot))
    try:
        block_shape(parameter.shape, row)
    except FormatError as error:
        raise PlanError(f"slot {slot!r} cannot have the precision {own}: {error}") from None
    return row


def round_update(
    old: Tensor, step: Tensor, rows: UpdateRows, key: int = 0, *, rounding: RoundTensor = quantize
) -> Tensor:
    """What a parameter becomes that takes a step, ``master(old + step(step))``, in the dtype of `old`.

    The sum is in the wider dtype of the two.

    Args:
        old: the parameter.
        step: what is added to it; of its shape.
        rows: `UpdateRows.of` the plan; gradient and momentum are not looked at.
        key: of the random bits, one a step of the optimizer: `precc.rounding.draw_key`; for rows that draw none, any.
        rounding: computes what `quantize` does.

    >>> import torch
    >>> rows = UpdateRows.of(PrecisionPlan("fp32", default_update={"master": "e4m3"}), "fc.weight", torch.ones(2))
    >>> round_update(torch.ones(2), torch.tensor([0.05, 0.1]), rows)
    tensor([1.0000, 1.1250])
    """
    taken = step if rows.step is None else rounding(step, rows.step, key)
    new = old + taken
    return (new if rows.master is None else rounding(new, rows.master, key)).to(old.dtype)


def lost_to_nearest(old: Tensor, step: Tensor, master: Row) -> Tensor:
    """How many elements of a step to nearest rounding loses: not 0, and below half a quantum of the master weight.

    Whatever rounding the master weight has; its scales are those of `old`. A tensor of no dimensions, on its device.
    """
    row = replace(master, mode=RoundingMode.NEAREST_EVEN)
    values = old.to(carrier_of(old, row).dtype)
    scale = divisor_of(scale_of(values, row))
    before, after = (round_elements(own / scale, row) for own in (values, values + step.to(values.dtype)))
    return ((before == after) & (step != 0)).sum()
