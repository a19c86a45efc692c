"""Operators as an analysis differentiates them: those without a derivative in the place of which others stand.

Backward operators are differentiated like any other. Of some autograd has no derivative: they are opened by torch's own
decomposition, or by one that is here. A norm over groups is opened with its backward, whose derivative by the mean and
deviation that the forward saved would be lost otherwise.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._pytree import tree_leaves, tree_map_only

from precc.analysis.node_values import listed, records_gradient
from precc.errors import UnsupportedError

__all__ = ["WithoutDerivative", "differentiable", "missing_derivatives_named", "says_missing"]

_aten = torch.ops.aten

#: What torch says where a derivative is missing.
_MISSING = ("derivative", "no autograd formula", "does not support automatic differentiation")


class WithoutDerivative(Exception):
    """Neither the operator nor one in its place can be differentiated."""


def differentiable(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The value of an operator, by operators that can be differentiated.

    Raises:
        WithoutDerivative: there are none.
    """
    if target in _REPLACED and any(map(records_gradient, tree_leaves((args, kwargs)))):
        return _REPLACED[target](*args, **kwargs)
    result = target(*args, **kwargs)
    if not _lacks_derivative(result):
        return result
    if torch.Tag.nondeterministic_seeded in target.tags:
        return tree_map_only(Tensor, Tensor.detach, result)  # what is drawn does not depend on the values
    if target not in decomposition_table:
        raise WithoutDerivative
    return decomposition_table[target](*args, **kwargs)


def says_missing(error: Exception) -> bool:
    """Whether this is how torch says that a derivative is missing."""
    return any(words in str(error) for words in _MISSING)


@contextmanager
def missing_derivatives_named() -> Iterator[None]:
    """Word the errors of operators whose derivative is found missing in spite of all.

    Raises:
        UnsupportedError: one is.
    """
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        if not says_missing(error):
            raise
        raise UnsupportedError(
            "a step with this operator cannot be analysed, for its gradient cannot be differentiated: "
            f"{str(error).splitlines()[0]}. Analyse the net with another in its place"
        ) from error


def _lacks_derivative(result: Any) -> bool:
    results = listed(result)
    found = (own.grad_fn for own in results if isinstance(own, Tensor))
    return any(type(grad_fn).__name__ == "NotImplemented" for grad_fn in found if grad_fn is not None)


def _embedding_bag_backward(
    gradient: Tensor,
    indices: Tensor,
    offsets: Tensor,
    offset2bag: Tensor,
    bag_size: Tensor,
    maximum_indices: Tensor,
    num_weights: int,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: Tensor | None,
    padding_idx: int = -1,
) -> Tensor:
    """Of bags that are summed (mode 0) or averaged (mode 1)."""
    if mode not in (0, 1) or scale_grad_by_freq or sparse:
        raise WithoutDerivative  # of maxima, of sparse gradients, or scaled by frequency
    places = torch.arange(len(indices), device=indices.device)
    bags = torch.bucketize(places, offsets, right=True) - 1
    rows = gradient.index_select(0, bags)
    if mode == 1:
        counts = torch.zeros(len(gradient), dtype=gradient.dtype, device=gradient.device)
        counts = counts.index_add(0, bags, (indices != padding_idx).to(gradient.dtype)).clamp(min=1)
        rows = rows / counts[bags][:, None]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    rows = rows * (indices != padding_idx)[:, None]
    return gradient.new_zeros(num_weights, gradient.shape[1]).index_add(0, indices, rows)


def _slice_scatter(
    x: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """Of complex numbers too, as the backward of a transform of real ones needs it."""
    return x.index_copy(dim, torch.arange(x.shape[dim], device=x.device)[start:end:step], source)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """By the kernel, which has no derivative by its mask, unless the mask depends on what is rounded."""
    if not records_gradient(attn_mask):
        result: tuple[Tensor, Tensor] = _attention_kernel(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )
        return result
    if dropout_p or query.shape[1] != key.shape[1]:
        raise WithoutDerivative
    scores = _scores(query, key, attn_mask, is_causal, _factor(query, scale))
    return scores.softmax(-1) @ value, scores.logsumexp(-1)


def _attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``softmax(scale Q K^T + mask) V``, from Q, K and V alone."""
    if dropout_p or query.shape[1] != key.shape[1]:
        raise WithoutDerivative
    factor = _factor(query, scale)
    weights = _scores(query, key, attn_mask, is_causal, factor).softmax(-1)
    of_weights = gradient @ value.transpose(-1, -2)
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * factor
    return of_scores @ key, of_scores.transpose(-1, -2) @ query, weights.transpose(-1, -2) @ gradient


def _scores(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool, factor: float) -> Tensor:
    scores = query @ key.transpose(-1, -2) * factor
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
    return scores


def _factor(query: Tensor, scale: float | None) -> float:
    own: float = query.shape[-1] ** -0.5
    return own if scale is None else scale


_attention_kernel = _aten._scaled_dot_product_flash_attention_for_cpu.default

_REPLACED: dict[Any, Callable[..., Any]] = {
    _aten.copy.default: lambda x, source, non_blocking=False: source.to(x.dtype).expand(x.shape).clone(),
    torch.ops.prims.convert_element_type.default: lambda x, dtype: x.to(dtype),
    _aten._embedding_bag_backward.default: _embedding_bag_backward,
    _aten.slice_scatter.default: _slice_scatter,
    _aten.view.default: _aten.reshape.default,  # what stands in the place of a kernel may lay out its result otherwise
    _attention_kernel: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward,
    _aten.native_group_norm.default: decomposition_table[_aten.native_group_norm.default],
    _aten.native_group_norm_backward.default: decomposition_table[_aten.native_group_norm_backward.default],
}
