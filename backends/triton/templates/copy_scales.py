"""The scales of one copy in a cast: found from largest magnitudes, spread over its elements, and stored."""

from dataclasses import dataclass

from precc.backends.triton.emit.scales import scale_text
from precc.backends.triton.templates.cast_places import block_address, block_mask, extent_of, reduce_blocks
from precc.backends.triton.templates.cast_view import EACH, WHOLE
from precc.backends.triton.templates.copy_text import CopyText

__all__ = ["CopyScales"]


@dataclass(frozen=True, slots=True)
class CopyScales(CopyText):
    """Of one copy; those of the first with the same rounded values serve all."""

    @property
    def is_tall(self) -> bool:
        """Whether its blocks are taller than a step, so that their scales are found before."""
        found = self.cast.found[self.number]
        if not self.copy.row.finds_scales or (found is not None and not self.copy.row.scale.two_level):
            return False
        extent = self.cast.view.rows.extents[self.number]
        return extent == WHOLE or extent > self.cast.tile.step

    @property
    def is_found_before(self) -> bool:
        """Whether the lines are of a loop before which its scales were found."""
        return self.lines.stepping and self.is_tall

    def tall_shape(self) -> list[str]:
        """The shape of its largest magnitudes, found in steps."""
        side = self.lines.sides[1]
        extent = side.dim.extents[self.number]
        blocks = [f"{side.parameter} // {side.own.part(extent)}", "1"]
        return ["1", *([side.parameter] if extent == EACH else ["1"] if extent == WHOLE else blocks)]

    def find(self) -> None:
        """Lines for `found`, the scales of blocks; the largest magnitudes of tall ones are there."""
        n, lines, types = self.number, self.lines, self.cast.types
        text = scale_text(self.copy.row, types.float)
        lines.call(text.functions)
        buffer, tensor = self.cast.found[n], ""
        pointer = lines.argument(f"amax{buffer}_ptr", f"*i{types.bits}") if buffer is not None else ""
        if buffer is not None and not text.two_level:
            mask = block_mask(lines, self.cast, n)
            address = block_address(lines, self.cast, n, f"amax{buffer}")
            lines.add(f"largest{n} = tl.load({pointer} + {address}{mask + ', other=0' if mask else ''})")
        elif not lines.has(f"largest{n}") and (lines.stepping or not self._steps):
            reduce_blocks(lines, self.cast, n, f"largest{n}", whole=False)
        if text.two_level:
            tensor = f"tl.load({pointer}).to({types.float}, bitcast=True)"
        lines.add(f"found{n} = {text.call(f'largest{n}.to({types.float}, bitcast=True)', tensor)}")

    @property
    def _steps(self) -> bool:
        return self.cast.tile.step < self.cast.tile.rows.length

    def spread(self) -> None:
        """Lines for `scale`, that of each element."""
        n, lines = self.number, self.lines
        if not self.is_found_before:
            self.find()
        full = self._full()
        spread = f"tl.reshape(tl.broadcast_to(found{n}, [{', '.join(full)}]), [{lines.rows}, COLUMNS])"
        lines.add(f"scale{n} = {spread if len(full) > 2 else f'found{n}'}")

    def _full(self) -> list[str]:
        """The shape of what is loaded at once, with blocks in dimensions of their own."""
        shape: list[str] = []
        for side in self.lines.sides:
            extent = extent_of(self.lines, side, self.number)
            part = side.own.part(extent)
            shape += [side.parameter] if extent in (EACH, WHOLE) else [f"{side.parameter} // {part}", f"{part}"]
        return shape

    def store(self) -> None:
        """Lines that store the scales of blocks, or that there is a NaN."""
        n, m, lines = self.number, self.shared, self.lines
        layout = self.cast.packs[n]
        if layout is None or not layout.scale_count:
            return
        pointer = lines.argument(f"scale{n}_ptr", f"*fp{self.cast.types.bits}")
        if layout.marks_nan:
            lines.add(
                f"nan{n} = tl.max(tl.max((inside & (y{m} != y{m})).to(tl.int32), 1), 0)  # it has no code",
                f'tl.store({pointer}, float("nan"), mask=nan{n} != 0)',
            )
            return
        grid = self._grid()
        value = f"tl.reshape(found{m}, [{', '.join(grid)}])" if len(self._full()) > 2 else f"found{m}"
        address = block_address(lines, self.cast, n, f"scale{n}")
        lines.add(f"tl.store({pointer} + {address}, {value}{block_mask(lines, self.cast, n)})")

    def _grid(self) -> list[str]:
        """How many blocks there are along the dimensions of what is loaded at once."""
        counts = []
        for side in self.lines.sides:
            extent = side.dim.extents[self.number]
            blocks = f"{side.parameter} // {side.own.part(extent)}"
            counts.append("1" if extent == WHOLE else side.parameter if extent == EACH else blocks)
        return counts
