"""Groups of operations along rows, traced from functions, and plans for them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from precc.backends.triton.device import Device
from precc.backends.triton.live_rows import PlanRows, rows_read
from precc.backends.triton.program import Group, Rows
from precc.backends.triton.templates.rows import RowsProgram, RowsTemplate
from precc.fusion_group import FusionGroup, GroupKind
from precc.packing import PACK
from precc.precision import Precision
from precc.round_op import ROUND
from precc.rounding import KEY_COLUMNS

KEY = 1234567


def plan_of(*precisions: Precision) -> Tensor:
    """A row each, for matrices that are contracted along their last dimension; the last once more, along the first."""
    rows = []
    for n, precision in enumerate((*precisions, precisions[-1])):
        axis = 0 if n == len(precisions) else -1
        values = list(precision.row(axis=axis, channel=0, slot=7 * n).current.values)
        values[KEY_COLUMNS[0] : KEY_COLUMNS[1] + 1] = [float(KEY >> 32), float(KEY & 0xFFFFFFFF)]
        rows.append(values)
    return torch.tensor(rows, dtype=torch.float64)


def group_of(function: Callable[..., Any], args: Sequence[Tensor], plan: Tensor, name: str) -> tuple[Group, Rows]:
    """A function of tensors and a plan, as a group, with its live rows."""
    traced = make_fx(function)(*args, plan)
    record = FusionGroup(name, GroupKind.ROWS, tuple(node.name for node in traced.graph.nodes), ("fc/product.a",))
    return Group(record, traced, False), PlanRows.of(rows_read(traced), plan).rows


def program_of(
    function: Callable[..., Any], args: Sequence[Tensor], plan: Tensor, device: Device, name: str = "rows"
) -> tuple[RowsProgram, Rows]:
    """The program of such a group."""
    group, rows = group_of(function, args, plan, name)
    program = RowsTemplate().build(group, args, rows, device)
    assert isinstance(program, RowsProgram), program
    return program, rows


def rounded(value: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
    """A value with a copy by row 0, and one of its transpose by row 1."""
    return value, ROUND(value, plan, 0), ROUND(value.t(), plan, 1)


def packed(value: Tensor, plan: Tensor) -> tuple[Tensor, ...]:
    """A value with its codes in both layouts."""
    return value, PACK(value, plan, 0, False), PACK(value, plan, 2, True)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Of rows, as PyTorch decomposes it."""
    return x * torch.rsqrt(x.pow(2).mean(-1, True) + 1e-6) * weight


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """What the third product of a gated network reads."""
    return torch.nn.functional.silu(gate) * up


def residual_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """A sum, and its norm with the statistics."""
    total = x + y
    return (*torch.native_layer_norm(total, [x.shape[-1]], weight, bias, 1e-5), total)


def softmax(x: Tensor) -> Tensor:
    """Along rows."""
    return torch.ops.aten._softmax.default(x, -1, False)  # type: ignore[no-any-return]


def softmax_backward(gradient: Tensor, y: Tensor) -> Tensor:
    """Likewise."""
    return torch.ops.aten._softmax_backward_data.default(gradient, y, -1, y.dtype)  # type: ignore[no-any-return]


def layer_norm_backward(gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """The gradients of what is normalised, of its weight and of its bias."""
    op = torch.ops.aten.native_layer_norm_backward.default
    made: tuple[Tensor, ...] = op(gradient, x, [x.shape[-1]], mean, rstd, weight, weight, [True, True, True])
    return made
