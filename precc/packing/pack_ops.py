"""The nodes ``precc.pack(x, plan, row, transposed)`` and ``precc.unpack``: a rounding in two, with bytes between.

How many bytes there are depends on the live plan, so that only these two operators may look at them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from precc.packing.pack import pack, unpack

__all__ = ["PACK", "UNPACK", "define_packing"]

Unpack = Callable[[Tensor, Tensor, int, tuple[int, ...], torch.dtype, bool], Tensor]


def define_packing(
    prefix: str, packing: Callable[[Tensor, Tensor, int, bool], Tensor], unpacking: Unpack
) -> tuple[torch._ops.OpOverload, torch._ops.OpOverload]:
    """Operators ``precc::<prefix>pack`` and ``precc::<prefix>unpack`` by these implementations."""

    def unpack_as(
        packed: Tensor, plan: Tensor, row: int, size: Sequence[int], dtype: torch.dtype, transposed: bool
    ) -> Tensor:
        return unpacking(packed, plan, row, tuple(size), dtype, transposed)

    packer = _defined(f"{prefix}pack", "(Tensor x, Tensor plan, int row, bool transposed) -> Tensor", packing, _packed)
    signature = "(Tensor packed, Tensor plan, int row, SymInt[] size, ScalarType dtype, bool transposed) -> Tensor"
    return packer, _defined(f"{prefix}unpack", signature, unpack_as, _unpacked)


def _defined(
    name: str, signature: str, implementation: Callable[..., Tensor], fake: Callable[..., Tensor]
) -> torch._ops.OpOverload:
    operator = f"precc::{name}"
    torch.library.define(operator, signature, tags=[torch.Tag.pt2_compliant_tag])
    torch.library.impl(operator, "CompositeExplicitAutograd", implementation)
    torch.library.register_fake(operator, fake)
    overload: torch._ops.OpOverload = getattr(torch.ops.precc, name).default
    return overload


def _packed(x: Tensor, plan: Tensor, row: int, transposed: bool) -> Tensor:
    """As many bytes as values: the plan, which says how many there are, is not known yet."""
    return x.new_empty(x.numel(), dtype=torch.uint8)


def _unpacked(
    packed: Tensor, plan: Tensor, row: int, size: Sequence[int], dtype: torch.dtype, transposed: bool
) -> Tensor:
    return packed.new_empty(size, dtype=dtype)


PACK, UNPACK = define_packing("", pack, unpack)
