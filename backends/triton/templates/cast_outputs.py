"""The copies that a cast writes: their memory, and the arguments by which its kernels find it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.program import LiveRow
from precc.backends.triton.templates.cast_text import CastText
from precc.backends.triton.templates.output import Output
from precc.backends.triton.templates.row_arguments import RowArguments

__all__ = ["CastOutputs", "sizes_of"]

#: Of codes, by their bits.
_STORAGE = {4: torch.uint8, 8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}


@dataclass(frozen=True, slots=True)
class CastOutputs:
    """All copies, each with what the kernels are given of its row."""

    outputs: tuple[tuple[Output, RowArguments], ...]

    @classmethod
    def of(cls, text: CastText, shape: tuple[int, ...], sources: Sequence[KernelSource]) -> "CastOutputs":
        """Of a value of this shape, by these kernels."""
        arguments = [argument for source in sources for argument in source.arguments]
        numbers = range(len(text.copies))
        return cls(tuple((_output(text, shape, n), RowArguments.of(f"copy{n}", arguments)) for n in numbers))

    def empty(self, device: torch.device) -> list[Tensor]:
        """The copies before they are written."""
        return [own.empty(device) for own, _ in self.outputs]

    def given(self, results: Sequence[Tensor], live: Sequence[LiveRow]) -> dict[str, Any]:
        """Arguments by name, for these tensors and rows."""
        given: dict[str, Any] = {}
        for (own, arguments), result, row in zip(self.outputs, results, live, strict=True):
            own.give(given, result)
            arguments.give(given, row, result.device)
        return given


def _output(text: CastText, shape: tuple[int, ...], n: int) -> Output:
    copy, layout = text.copies[n], text.packs[n]
    if layout is None:
        return Output(f"y{n}_ptr", text.dtype, copy.sizes(shape), copy.strides)
    scales = f"scale{n}_ptr" if layout.scale_count else ""
    if copy.row.is_identity(text.dtype):
        return Output(f"y{n}_ptr", text.dtype, layout=layout, scales=scales)
    return Output(f"code{n}_ptr", _STORAGE[layout.storage], layout=layout, scales=scales)


def sizes_of(text: CastText) -> dict[str, int]:
    """Sizes and strides, by the names that the kernels give them."""
    view = text.view
    named = [("row", view.rows), ("column", view.columns), *((f"outer{n}", dim) for n, dim in enumerate(view.outer))]
    given = {"rows": view.rows.size, "columns": view.columns.size}
    given |= {f"size{n}": dim.size for n, dim in enumerate(view.outer)}
    for name, dim in named:
        given[f"x_{name}"] = dim.strides[0]
        for n, (place, index) in enumerate(text.places):
            layout = text.packs[n]
            halved = 2 if layout is not None and layout.storage == 4 else 1
            given[f"y{n}_{name}"] = given[f"code{n}_{name}"] = dim.strides[place] // halved
            given[f"index{n}_{name}"] = dim.strides[index]
            given[f"scale{n}_{name}"] = dim.blocks[n]
        for number, copy in enumerate(text.buffers):
            given[f"amax{number}_{name}"] = dim.blocks[copy] if copy >= 0 else 0
    return given
