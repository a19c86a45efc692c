"""By what products are computed that are made of precc's arithmetic: tensor operations, or kernels of a backend."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from torch import Tensor

from precc.accumulation.accumulator import Accumulator
from precc.accumulation.patches import Patches
from precc.accumulation.tensor_ops import accumulate_tensor_ops
from precc.rounding import Row, quantize

__all__ = ["TENSOR_OPS", "Accumulate", "Kernels", "Rounded", "Selected", "accumulate_fastest", "offer", "whole"]


class Accumulate(Protocol):
    """A product with a rounded sum, as `precc.accumulation.tensor_ops.accumulate_tensor_ops`."""

    def __call__(
        self, a: Tensor, b: Tensor | Patches, accumulator: Accumulator, key: int = 0, *, slot: int = 0, first: int = 0
    ) -> Tensor: ...


class Rounded(Protocol):
    """A rounded tensor, as `precc.rounding.quantize`."""

    def __call__(self, x: Tensor, row: Row, key: int = 0) -> Tensor: ...


class Selected(Protocol):
    """A product of which only the selected components count; the others may be anything."""

    def __call__(
        self,
        a: Tensor,
        b: Tensor,
        select: Tensor,
        accumulator: Accumulator,
        key: int = 0,
        *,
        slot: int = 0,
        first: int = 0,
    ) -> Tensor: ...


def whole(accumulate: Accumulate) -> Selected:
    """All components, whatever is selected."""

    def product(
        a: Tensor,
        b: Tensor,
        select: Tensor,
        accumulator: Accumulator,
        key: int = 0,
        *,
        slot: int = 0,
        first: int = 0,
    ) -> Tensor:
        return accumulate(a, b, accumulator, key, slot=slot, first=first)

    return product


@dataclass(frozen=True, slots=True)
class Kernels:
    """What gives the same bits as tensor operations do.

    Args:
        rounded: rounds operands.
        accumulate: multiplies matrices.
        selected: likewise where only some components count.
        two_pass: a product in two passes at once, as `precc.accumulation.two_pass_rule.compute`, or None where it
            cannot; None where each pass is a product of its own.
    """

    rounded: Rounded
    accumulate: Accumulate
    selected: Selected
    two_pass: Callable[..., Any] | None = None


#: Of any device, fake tensors too.
TENSOR_OPS = Kernels(quantize, accumulate_tensor_ops, whole(accumulate_tensor_ops))


_offers: list[Callable[[], Accumulate | None]] = []


def offer(kernel: Callable[[], Accumulate | None]) -> None:
    """Have `accumulate_fastest` compute by this one, of a backend, unless it is None: this machine cannot build it."""
    _offers.append(kernel)
    _fastest.cache_clear()


def accumulate_fastest(
    a: Tensor, b: Tensor | Patches, accumulator: Accumulator, key: int = 0, *, slot: int = 0, first: int = 0
) -> Tensor:
    """As `accumulate_tensor_ops`, bit for bit, by a compiled kernel where this machine has one."""
    return _fastest()(a, b, accumulator, key, slot=slot, first=first)


@cache
def _fastest() -> Accumulate:
    return next(filter(None, (kernel() for kernel in _offers)), accumulate_tensor_ops)
