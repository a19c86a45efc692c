"""The rounding node ``precc.round(x, plan, row)``: one node a slot, in every graph of every backend.

`plan` is the live float64 tensor ``[slots, ROW_WIDTH]`` of rows, in the processor's memory: reading one never waits for
an accelerator. A new plan is a new tensor. A backend may put an operator of its own in the place of this one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from precc.amax_history import record
from precc.rounding import Row, parse_row, quantize
from precc.rounding.transforms import transformed

__all__ = ["ROUND", "define_rounding", "round_as_planned", "round_by_tensor_ops"]


def round_as_planned(x: Tensor, plan: Tensor, row: int, rounding: Callable[[Tensor, Row, int], Tensor]) -> Tensor:
    """``rounding(x, row, key)`` by a row of the plan, after its transform if it has one.

    The largest magnitude of what is rounded is recorded where the row says so.
    """
    values = plan[row].tolist()

    def recorded(x: Tensor, parsed: Row, key: int) -> Tensor:
        record(x, values, row)
        return rounding(x, parsed, key)

    return transformed(x, *parse_row(values), recorded)


def round_by_tensor_ops(x: Tensor, plan: Tensor, row: int) -> Tensor:
    """`x` rounded as a row of the plan says; `x` itself where nothing changes."""
    return round_as_planned(x, plan, row, quantize)


def define_rounding(name: str, implementation: Callable[[Tensor, Tensor, int], Tensor]) -> torch._ops.OpOverload:
    """An operator ``precc::<name>`` that rounds: a new tensor with the strides of ``torch.empty_like(x)``."""
    operator = f"precc::{name}"
    torch.library.define(operator, "(Tensor x, Tensor plan, int row) -> Tensor", tags=[torch.Tag.pt2_compliant_tag])

    def run(x: Tensor, plan: Tensor, row: int) -> Tensor:
        rounded = implementation(x, plan, row)
        if rounded is not x and rounded.stride() == x.stride():
            return rounded
        return torch.empty_like(x).copy_(rounded)  # an operator's result is no alias of its argument

    torch.library.impl(operator, "CompositeExplicitAutograd", run)
    torch.library.register_fake(operator, _like)
    overload: torch._ops.OpOverload = getattr(torch.ops.precc, name).default
    return overload


def _like(x: Tensor, plan: Tensor, row: int) -> Tensor:
    return torch.empty_like(x)


#: The operator, as the target of an fx node.
ROUND = define_rounding("round", round_by_tensor_ops)
