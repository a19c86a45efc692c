"""The op set of precc's graphs: which ops are opened or replaced before slots are placed, for every backend alike."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from precc.fused_attention import marked_attention, marked_multi_head_attention
from precc.grouped_product import GROUPED_PRODUCT

__all__ = ["decomposition_table", "matmul", "replacement"]

_aten = torch.ops.aten


def decomposition_table() -> dict[Any, Callable[..., Any]]:
    """Decompositions that hold in every backend."""
    return {_aten.native_dropout.default: _dropout}


def _dropout(x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """`native_dropout` with the mask that eager mode draws on a processor, and its arithmetic."""
    if train is False or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    if p == 1:
        return torch.zeros_like(x), torch.zeros_like(x, dtype=torch.bool)
    kept = _aten.bernoulli.p(x, 1 - p)
    return x * (kept / (1 - p)), kept.to(torch.bool)


def replacement(target: Any, *, fused: bool) -> Callable[..., Any] | None:
    """What stands in the captured code in the place of a function or method; None where it stays.

    Args:
        target: the function, or the name of the method.
        fused: whether attention is one op.
    """
    if fused and target in _ATTENTION:
        return _ATTENTION[target]
    if target in _MATRIX_PRODUCTS:
        return matmul
    grouped = target is torch._grouped_mm or str(target) in _OF_TRANSFORMERS
    return _grouped_matmul if grouped else None


#: What Dynamo writes for ``a @ b``, ``a @= b``, `torch.matmul` and the methods.
_MATRIX_PRODUCTS = frozenset(
    {operator.matmul, operator.imatmul, torch.matmul, torch.linalg.matmul, "matmul", "__matmul__"}
)

_ATTENTION: dict[Any, Callable[..., Any]] = {
    torch.nn.functional.scaled_dot_product_attention: marked_attention,
    torch.ops.aten.scaled_dot_product_attention.default: marked_attention,
    torch.nn.functional.multi_head_attention_forward: marked_multi_head_attention,
}

#: By name, for the library may not be installed. Its operator is opaque, and both gradients are one node.
_OF_TRANSFORMERS = frozenset({"transformers.grouped_mm_fallback", "transformers.grouped_mm_fallback.default"})


def matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`torch.matmul`, with the operands of its product always in this order.

    For one matrix times a batch of them torch computes the transposed product if a gradient is needed, and else
    expands the matrix: the first operand would be ``b`` in training and ``a`` under no_grad.
    """
    if input.dim() >= 2 and other.dim() > 2:
        batch = torch.broadcast_shapes(input.shape[:-2], other.shape[:-2])
        input = input.expand(*batch, *input.shape[-2:])
    return torch.matmul(input, other) if out is None else torch.matmul(input, other, out=out)


def _grouped_matmul(
    input: Tensor,
    weight: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """`torch.nn.functional.grouped_mm`, as the product that has slots where it is one of rows in groups."""
    rows = input.dim() == 2 and weight.dim() == 3 and offs is not None
    if not rows or bias is not None or out_dtype is not None:
        return torch._grouped_mm(input, weight, offs=offs, bias=bias, out_dtype=out_dtype)
    result: Tensor = GROUPED_PRODUCT(input, weight, offs)
    return result
