"""The lines of a cast that make one copy: rounded, and written as values or codes."""

from dataclasses import dataclass

from precc.backends.triton.emit.amax_record import amax_argument, amax_line, magnitudes
from precc.backends.triton.emit.conversions import POINTERS, to_dtype
from precc.backends.triton.emit.live_numbers import live_argument, scale_line
from precc.backends.triton.emit.rounding import rounding_text
from precc.backends.triton.emit.scales import divided_text
from precc.backends.triton.templates.cast_copies import Copy
from precc.backends.triton.templates.cast_places import address_of
from precc.backends.triton.templates.copy_codes import store_codes
from precc.backends.triton.templates.copy_scales import CopyScales
from precc.backends.triton.templates.copy_text import CopyText

__all__ = ["CopyLines"]


@dataclass(frozen=True, slots=True)
class CopyLines(CopyText):
    """Writes one copy."""

    @property
    def scales(self) -> CopyScales:
        """Its scales."""
        return CopyScales(self.lines, self.cast, self.number, self.shared)

    def write(self) -> None:
        """Its lines."""
        self.lines.add(f"# {_about(self.copy, self.number)}")
        if self.copy.records:
            self._record()
        if self.copy.row.is_identity(self.cast.dtype):
            self._store("x", "y")
            return
        if self.shared == self.number:
            self._round()
        if self.cast.packs[self.number] is not None:
            if not self.scales.is_found_before:
                self.scales.store()
            store_codes(self.lines, self.cast, self.number, self.shared)
        else:
            scaled = self.copy.row.granularity is not None
            self._store(f"y{self.shared} * scale{self.shared}" if scaled else f"y{self.shared}", "y")

    def _record(self) -> None:
        """Lines that record the largest magnitude of what is loaded at once."""
        lines, carrier, prefix = self.lines, self.cast.types.float, f"copy{self.number}"
        own = amax_argument(prefix)
        lines.argument(own.name, own.type)
        if not lines.has("largest"):
            lines.add(f"largest = tl.max(tl.max({magnitudes('x', carrier)}, 1), 0)  # for scales of later forwards")
        lines.add(amax_line(prefix, "largest", carrier))

    def _store(self, value: str, prefix: str) -> None:
        """A line that stores values of the carrier in the dtype of the tensor."""
        n, lines = self.number, self.lines
        write = to_dtype(self.cast.types.float, self.cast.dtype)
        lines.call(write.functions)
        value = f"({value})" if " " in value and write.expression != "{}" else value
        pointer = lines.argument(f"{prefix}{n}_ptr", POINTERS[self.cast.dtype])
        address = address_of(lines, f"{prefix}{n}", self.cast.places[n][0])
        lines.add(f"tl.store({pointer} + {address}, {write.of(value)}, mask=inside)")

    def _round(self) -> None:
        """Lines for `y`, the rounded values before they are scaled back, and for `scale`."""
        row, n, lines = self.copy.row, self.number, self.lines
        rounding = rounding_text(row, self.cast.dtype, self.cast.wide)
        lines.call(rounding.functions)
        value = "x"
        if row.granularity is not None:
            name, text = divided_text(self.cast.types.float)
            lines.call(text)
            if row.finds_scales:
                self.scales.spread()
            else:
                self._given()
            value = f"{name}(x, scale{n})"
        index = address_of(lines, f"index{n}", self.cast.places[n][1]) if rounding.draws else ""
        for argument in rounding.arguments(f"copy{n}"):
            lines.argument(argument.name, argument.type)
        lines.add(*rounding.before(f"copy{n}"))
        lines.add(f"y{n} = {rounding.call(value, index, f'copy{n}')}")

    def _given(self) -> None:
        n, lines = self.number, self.lines
        own = live_argument(f"copy{n}")
        lines.argument(own.name, own.type)
        lines.add(scale_line(f"scale{n}", f"copy{n}", self.cast.types.float))


def _about(copy: Copy, number: int) -> str:
    row = copy.row
    granularity = "no scale" if row.granularity is None else f"scale by {row.granularity.value}"
    what = ("packed, transposed" if copy.transposed else "packed") if copy.packed else "values"
    return f"copy {number}: {granularity}, {row.mode.value}, {what}"
