"""Blocks of a tile of results that have one scale each, found from the values where these are made."""

from collections.abc import Sequence
from dataclasses import dataclass

from precc.rounding import Row
from precc.rounding.scales import block_shape

__all__ = ["ScaleBlocks"]


@dataclass(frozen=True, slots=True)
class ScaleBlocks:
    """Blocks of rows and columns of a tile, and where the grid of their scales lies in memory.

    Args:
        rows, columns: of a block; powers of two.
        by_column: whether the scales of one column of blocks follow each other.
    """

    rows: int
    columns: int
    by_column: bool

    @classmethod
    def of(cls, row: Row, shape: Sequence[int], sizes: tuple[int, int, int], swapped: bool) -> "ScaleBlocks | None":
        """Of a value of [batches, rows, columns]; None where a tile does not hold whole blocks.

        Args:
            row: by which it is rounded.
            shape: of the value.
            sizes: of the product.
            swapped: whether its last two dimensions are columns and rows.
        """
        if not row.finds_scales or row.lacks_history or row.scale.two_level or len(shape) < 2:
            return None
        _, rows, columns = sizes
        extent = block_shape(shape, row)
        *outer, first, second = extent
        as_matrices = tuple(shape[-2:]) == ((columns, rows) if swapped else (rows, columns))
        if any(own != 1 for own in outer) or not (as_matrices or (first == 1 and not swapped)):
            return None
        if any(own & (own - 1) for own in (first, second)):
            return None
        height, width = (second, first) if swapped else (first, second)
        return cls(height, width, swapped)

    def fits(self, rows: int, columns: int) -> bool:
        """Whether a tile of so many holds whole blocks."""
        return self.rows <= rows and self.columns <= columns

    def found(self, value: str, name: str, scale: str) -> list[str]:
        """Lines for the scales `name`, by a function of largest magnitudes, and `name`_each, those of the elements."""
        sides = [("BLOCK_M", self.rows), ("BLOCK_N", self.columns)]
        parts = [[f"{side} // {own}", f"{own}"] if own > 1 else [side] for side, own in sides]
        shape = f"[{', '.join([*parts[0], *parts[1]])}]"
        reduced = [len(parts[0]) + 1] * (self.columns > 1) + [1] * (self.rows > 1)
        largest = f"tl.reshape(tl.where(inside, {value}.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0), {shape})"
        for axis in reduced:
            largest = f"tl.max({largest}, {axis})"
        spread = ", ".join(":, None" if len(part) > 1 else ":" for part in parts)
        blocks = f"{self.rows} x {self.columns}"
        return [
            f"# one scale for {blocks} values, from the largest magnitude",
            f"{name}_amax = {largest}",
            f"{name} = {scale}({name}_amax.to(tl.float32, bitcast=True))",
            f"{name}_each = tl.reshape(tl.broadcast_to({name}[{spread}], {shape}), [BLOCK_M, BLOCK_N])",
        ]

    def stored(self, name: str, pointer: str) -> list[str]:
        """Lines that write the scales."""
        of_block = f"{name}_columns[None, :] * {name}_down + {name}_rows[:, None]"
        if not self.by_column:
            of_block = f"{name}_rows[:, None] * {name}_across + {name}_columns[None, :]"
        return [
            f"{name}_down, {name}_across = tl.cdiv(M, {self.rows}), tl.cdiv(N, {self.columns})",
            f"{name}_rows = m * (BLOCK_M // {self.rows}) + tl.arange(0, BLOCK_M // {self.rows})",
            f"{name}_columns = n * (BLOCK_N // {self.columns}) + tl.arange(0, BLOCK_N // {self.columns})",
            f"{name}_in = ({name}_rows[:, None] * {self.rows} < M) & ({name}_columns[None, :] * {self.columns} < N)",
            f"{name}_at = z * ({name}_down * {name}_across) + {of_block}",
            f"tl.store({pointer} + {name}_at, {name}, mask={name}_in)",
        ]
