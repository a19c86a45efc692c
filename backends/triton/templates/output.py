"""What a kernel writes: its memory, and the arguments that say where it is."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precc.backends.triton.templates.packed_tensors import codes_in, empty_packed, scales_in
from precc.packing import PackedLayout

__all__ = ["Output"]


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor of values, or a packed one.

    Args:
        pointer: the name of its argument.
        dtype: of its elements, as the kernel writes them.
        sizes, strides: of values.
        layout: of a packed tensor; None of values.
        scales: the name of the argument for its scales; empty if the kernel writes none.
    """

    pointer: str
    dtype: torch.dtype
    sizes: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    layout: PackedLayout | None = None
    scales: str = ""

    @classmethod
    def like(cls, pointer: str, value: Tensor) -> "Output":
        """Values that lie as those of a tensor."""
        return cls(pointer, value.dtype, tuple(value.shape), value.stride())

    def empty(self, device: torch.device) -> Tensor:
        """Its memory."""
        if self.layout is None:
            return torch.empty_strided(self.sizes, self.strides, dtype=self.dtype, device=device)
        return empty_packed(self.layout, device)

    def give(self, given: dict[str, Any], memory: Tensor) -> None:
        """Put its arguments to others, by name."""
        given[self.pointer] = memory if self.layout is None else codes_in(memory, self.dtype)
        if self.scales and self.layout is not None:
            given[self.scales] = scales_in(memory, self.layout)
