"""Fused attention as one op: markers around each call, by which passes find it whatever kernel torch takes.

Query, key and value go through ``precc::attention_operands``, the result through ``precc::attention_end``. Autograd
puts ``precc::attention_gradient`` where the gradient of the result enters, and ``precc::attention_end`` behind the
gradients that leave, so that all of a call lies between its markers, forward and backward. Each marker is an identity
and has the number of its call. Passes take them out again: no graph runs with one.
"""

import itertools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "ATTENTION_END",
    "ATTENTION_GRADIENT",
    "ATTENTION_MASK",
    "ATTENTION_OPERANDS",
    "marked_attention",
    "marked_multi_head_attention",
]

_calls = itertools.count()


def marked_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` between markers."""
    call = next(_calls)
    query, key, value = ATTENTION_OPERANDS(query, key, value, call)
    if attn_mask is not None and attn_mask.requires_grad:
        attn_mask = ATTENTION_MASK(attn_mask, call)
    result: Tensor = ATTENTION_END(F.scaled_dot_product_attention(query, key, value, attn_mask, *args, **kwargs), call)
    return result


_multi_head_attention = FunctionType(
    F.multi_head_attention_forward.__code__,
    # torch's tracer has a function mode, to which the original would hand itself over
    {**vars(F), "scaled_dot_product_attention": marked_attention, "has_torch_function": lambda arguments: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


def marked_multi_head_attention(*args: Any, **kwargs: Any) -> Any:
    """`torch.nn.functional.multi_head_attention_forward`, one call in captured code, with marked attention inside."""
    return _multi_head_attention(*args, **kwargs)


def _like(x: Tensor) -> Tensor:
    # with all strides, those of expanded tensors too: torch chooses the kernel by them
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)


def _operands_like(query: Tensor, key: Tensor, value: Tensor, call: int) -> tuple[Tensor, Tensor, Tensor]:
    return _like(query), _like(key), _like(value)


def _one_like(x: Tensor, call: int) -> Tensor:
    return _like(x)


def _keep_call(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.call = inputs[-1]


def _end_of_operands(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:-1]
    ended = [ATTENTION_END(own, ctx.call) if need else None for own, need in zip(gradients, needed, strict=True)]
    return *ended, None


def _start_of_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return ATTENTION_GRADIENT(gradient, ctx.call), None


def _define(
    name: str, fake: Callable[..., Any], backward: Callable[..., Any] | None, signature: str = "Tensor x"
) -> torch._ops.OpOverload:
    results = ", ".join(["Tensor"] * len(signature.split(",")))
    operator = f"precc::{name}"
    schema = f"({signature}, int call) -> ({results})"
    torch.library.define(operator, schema, tags=[torch.Tag.pt2_compliant_tag])
    torch.library.register_fake(operator, fake)
    if backward is not None:
        torch.library.register_autograd(operator, backward, setup_context=_keep_call)
    overload: torch._ops.OpOverload = getattr(torch.ops.precc, name).default
    return overload


#: Where query, key and value enter.
ATTENTION_OPERANDS = _define(
    "attention_operands", _operands_like, _end_of_operands, "Tensor query, Tensor key, Tensor value"
)

#: Where a mask enters that has a gradient.
ATTENTION_MASK = _define("attention_mask", _one_like, _end_of_operands)

#: Where the gradient of the result enters.
ATTENTION_GRADIENT = _define("attention_gradient", _one_like, None)

#: Where the result, or a gradient, leaves.
ATTENTION_END = _define("attention_end", _one_like, _start_of_gradient)
