"""The product of rows in groups: ``precc::grouped_product(a, b, offs)``, as a mixture of experts has it.

Each group of rows, in the order of the groups, has a matrix of its own. `offs` holds the row at which each group ends.

- ``a`` [rows, k] and ``b`` [groups, k, n] give [rows, n]: fprop and dgrad; rows after the last group are 0.
- ``a`` [m, rows] and ``b`` [rows, n] give [groups, m, n]: wgrad, sums over the rows of each group. It has no gradient.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["GROUPED_PRODUCT", "by_group"]


def by_group(a: Tensor, b: Tensor, offs: Tensor, multiply: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """The product by ``multiply(a, b, first)`` for each group, `first` being the number of its first output."""
    if b.dim() == 2:
        parts = [multiply(a[:, rows], b[rows], group * a.shape[0] * b.shape[1]) for group, rows in _groups(offs)]
        return torch.stack(parts) if parts else a.new_empty(0, a.shape[0], b.shape[1])
    result = a.new_zeros(a.shape[0], b.shape[2])
    for group, rows in _groups(offs):
        if rows.start < rows.stop:
            result[rows] = multiply(a[rows], b[group], rows.start * b.shape[2])
    return result


def _groups(offs: Tensor) -> Iterator[tuple[int, slice]]:
    start = 0
    for group, end in enumerate(offs.tolist()):
        yield group, slice(start, end)
        start = end


def _plain(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    return by_group(a, b, offs, lambda first, second, _: first @ second)


def _like(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
    shape = (offs.shape[0], a.shape[0], b.shape[1]) if b.dim() == 2 else (a.shape[0], b.shape[2])
    return a.new_empty(shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    a, b, offs = ctx.saved_tensors
    needs_a, needs_b, _ = ctx.needs_input_grad
    if b.dim() == 2:  # the gradient of a weight, whose sums run over the rows of a group
        rows = GROUPED_PRODUCT(b, gradient.transpose(1, 2), offs).t() if needs_a else None
        return rows, GROUPED_PRODUCT(a.t(), gradient, offs) if needs_b else None, None
    of_a = GROUPED_PRODUCT(gradient, b.transpose(1, 2), offs) if needs_a else None
    of_b = GROUPED_PRODUCT(a.t(), gradient, offs) if needs_b else None
    return of_a, of_b, None


def _define() -> torch._ops.OpOverload:
    name = "precc::grouped_product"
    torch.library.define(name, "(Tensor a, Tensor b, Tensor offs) -> Tensor", tags=[torch.Tag.pt2_compliant_tag])
    torch.library.impl(name, "CompositeExplicitAutograd", _plain)
    torch.library.register_fake(name, _like)
    torch.library.register_autograd(name, _gradients, setup_context=_save)
    overload: torch._ops.OpOverload = torch.ops.precc.grouped_product.default
    return overload


#: The operator, as the target of an fx node.
GROUPED_PRODUCT = _define()
