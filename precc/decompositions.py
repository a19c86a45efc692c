"""The op set of precc's graphs: which ATen ops are opened before slots are placed, for every backend alike."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions

__all__ = ["MATRIX_PRODUCTS", "decomposition_table", "matmul"]

_aten = torch.ops.aten


def decomposition_table() -> dict[Any, Callable[..., Any]]:
    """Decompositions that hold in every backend.

    `native_dropout` becomes a comparison with `rand_like`, so that every backend draws the same mask from torch's
    generator.
    """
    table: dict[Any, Callable[..., Any]] = dict(get_decompositions([_aten.native_dropout]))
    return table


#: What Dynamo writes for ``a @ b``, ``a @= b``, `torch.matmul` and the methods.
MATRIX_PRODUCTS = frozenset(
    {operator.matmul, operator.imatmul, torch.matmul, torch.linalg.matmul, "matmul", "__matmul__"}
)


def matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`torch.matmul`, with the operands of its product always in this order.

    For one matrix times a batch of them torch computes the transposed product if a gradient is needed, and else
    expands the matrix: the first operand would be ``b`` in training and ``a`` under no_grad.
    """
    if input.dim() >= 2 and other.dim() > 2:
        batch = torch.broadcast_shapes(input.shape[:-2], other.shape[:-2])
        input = input.expand(*batch, *input.shape[-2:])
    return torch.matmul(input, other) if out is None else torch.matmul(input, other, out=out)
