"""The rounding node ``precc.round(x, plan, row)``: one node a slot, in every graph of every backend.

`plan` is the live float64 tensor ``[slots, ROW_WIDTH]`` of `precc.rounding.Row`s; a new plan is a new tensor.
"""

import torch
from torch import Tensor

from precc.rounding import round_row

__all__ = ["ROUND"]


@torch.library.custom_op("precc::round", mutates_args=())
def _round(x: Tensor, plan: Tensor, row: int) -> Tensor:
    rounded = round_row(x, plan, row)
    return rounded.clone() if rounded is x else rounded


@_round.register_fake
def _(x: Tensor, plan: Tensor, row: int) -> Tensor:
    return torch.empty_like(x)


#: The operator, as the target of an fx node.
ROUND = torch.ops.precc.round.default
