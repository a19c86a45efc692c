"""How a kernel of rows reaches the elements of a tensor: offsets from `row` and `column`, whatever its strides."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from precc.backends.triton.templates.lines import Lines

__all__ = ["RowTensor"]


@dataclass(frozen=True, slots=True)
class RowTensor:
    """A tensor as rows of a value see it.

    Args:
        name: of it in the kernel.
        dtype: of its elements.
        leading: sizes and strides of the dimensions that rows are counted along, the last first; without those of
            stride 0, which `counts` has.
        counts: for each of them how many rows share an index of it.
        column: stride along a row; 0 where a row has one number.
    """

    name: str
    dtype: torch.dtype
    leading: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    column: int

    @classmethod
    def of(cls, name: str, tensor: Tensor, shape: Sequence[int]) -> "RowTensor":
        """A tensor broadcast to a shape, the last dimension of which is along the rows."""
        own = tensor.expand(list(shape)) if shape else tensor.reshape(1)
        sizes, strides = list(own.shape), list(own.stride())
        column = strides[-1] if sizes[-1] > 1 else 0
        dims = [(size, stride) for size, stride in zip(sizes[:-1], strides[:-1], strict=True) if size > 1]
        merged: list[tuple[int, int]] = []
        for size, stride in reversed(dims):
            inner = merged[-1] if merged else None
            if inner is not None and stride == inner[0] * inner[1]:
                merged[-1] = (inner[0] * size, inner[1])
            else:
                merged.append((size, stride))
        counts, count = [], 1
        for size, _ in merged:
            counts.append(count)
            count *= size
        kept = [n for n, (_, stride) in enumerate(merged) if stride]
        return cls(name, tensor.dtype, tuple(merged[n] for n in kept), tuple(counts[n] for n in kept), column)

    def offset(self, lines: Lines, rows: int) -> str:
        """The expression for the offsets; empty for a single number.

        Args:
            lines: that it stands in; gets its arguments.
            rows: how many there are in all.
        """
        terms = []
        for n, ((size, stride), count) in enumerate(zip(self.leading, self.counts, strict=True)):
            index = "row" if count == 1 else f"(row // {count})"
            index = index if size * count == rows else f"({index} % {size})"
            place = f"{index}[:, None]" if index == "row" else f"({index})[:, None]"
            terms.append(_times(lines, place, stride, f"{self.name}_row{n if n else ''}"))
        if self.column:
            terms.append(_times(lines, "column[None, :]", self.column, f"{self.name}_column"))
        return " + ".join(terms)

    @property
    def given(self) -> dict[str, int]:
        """The values of the arguments that offsets have."""
        rows = {f"{self.name}_row{n if n else ''}": stride for n, (_, stride) in enumerate(self.leading)}
        return {**rows, f"{self.name}_column": self.column}

    @property
    def mask(self) -> str:
        """Where there is something; empty for a single number."""
        if self.leading and self.column:
            return "inside"
        if self.leading:
            return "(row < rows)[:, None]"
        return "(column < columns)[None, :]" if self.column else ""


def _times(lines: Lines, place: str, stride: int, name: str) -> str:
    return place if stride == 1 else f"{place} * {lines.argument(name, lines.integer)}"
