"""The tile of a cast: whole blocks in both of its dimensions, small enough for the registers."""

from collections.abc import Sequence
from dataclasses import dataclass

from precc.backends.triton.device import Device
from precc.backends.triton.powers import power_from
from precc.backends.triton.templates.cast_view import EACH, WHOLE, CastView, Dim
from precc.errors import BackendError

__all__ = ["CastTile", "Extent", "tile_of"]

#: Elements of a tile: the most that stay in the registers of a program, and how many keep the memory busy.
_MOST, _ENOUGH = 1 << 14, 1 << 12
#: The largest block that is read in steps of a few rows, and how many at least.
_MOST_BLOCK, _LEAST_STEP = 1 << 16, 16
#: A program of the interpreter costs a millisecond whatever its size.
_MOST_INTERPRETED = 1 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """One dimension of a tile.

    Args:
        length: of the tile, a power of two.
        unit: of the largest block along it; 1 where there are none.
        padded: the power of two that a unit takes.
    """

    length: int
    unit: int = 1
    padded: int = 1

    @property
    def covered(self) -> int:
        """Elements of the value along it."""
        return self.length // self.padded * self.unit

    def part(self, extent: int) -> int:
        """What a block of this extent takes."""
        return self.padded if extent == self.unit else extent


@dataclass(frozen=True, slots=True)
class CastTile:
    """A tile, how many of its rows are loaded at once, and the warps of a program."""

    rows: Extent
    columns: Extent
    step: int
    num_warps: int

    @property
    def sizes(self) -> dict[str, int]:
        """The constants of a kernel."""
        steps = {"STEP": self.step} if self.step < self.rows.length else {}
        return {"ROWS": self.rows.length, **steps, "COLUMNS": self.columns.length}

    def holds(self, view: CastView, copy: int) -> bool:
        """Whether the tile holds whole blocks of one scale of a copy."""
        outer = all(dim.extents[copy] == EACH for dim in view.outer)
        inner = ((view.rows, self.rows), (view.columns, self.columns))
        return outer and all(dim.extents[copy] != WHOLE or own.covered >= dim.size for dim, own in inner)


def tile_of(view: CastView, finding: Sequence[int], device: Device, width: int, rounded: int) -> CastTile:
    """The tile for a view.

    Args:
        view: of the value.
        finding: the copies whose scales are found from the values.
        device: that it runs on.
        width: bytes of the carrier.
        rounded: how many roundings there are.

    Raises:
        BackendError: blocks that no tile holds, or that do not fit into each other.
    """
    most = _MOST_INTERPRETED if device.interpreted else _MOST * 4 // width
    share = min(rounded, 2) * (2 if device.capability < 89 else 1)  # whose compiled code needs more registers
    enough = most >> 2 if device.interpreted else _ENOUGH * 4 // width // share
    rows, columns = _least(view.rows), _least(view.columns)
    if min(rows.length, _LEAST_STEP) * columns.length > most or rows.length * columns.length > _MOST_BLOCK:
        sides = " x ".join(str(max(dim.parts, default=1)) for dim in (view.rows, view.columns))
        raise BackendError(f"triton: blocks of {sides} values are larger than a tile of a cast")
    for copy in finding:  # scales are found in one pass where the tile can hold what shares them
        wider = [_whole(dim, own, copy) for dim, own in ((view.rows, rows), (view.columns, columns))]
        if wider[0].length * wider[1].length <= (most if device.interpreted else most // 2):
            rows, columns = wider
    rows, columns = _grown(view, rows, columns, enough)
    step = rows.length
    if not device.interpreted and rows.unit == rows.padded:
        while step * columns.length > enough and step > _LEAST_STEP and step > _largest_inside(view.rows, rows):
            step //= 2
    warps = max(1, min(16, step * columns.length * width * share // 4096))
    return CastTile(rows, columns, step, warps)


def _largest_inside(dim: Dim, rows: Extent) -> int:
    """The largest extent of blocks that are whole in each step: not those of the whole tile."""
    return max((part for part in dim.parts if part < rows.length), default=1)


def _least(dim: Dim) -> Extent:
    """One block of the largest extent."""
    unit = max(dim.parts, default=1)
    for part in dim.parts:
        if part != unit and (unit % part or part & (part - 1) or unit & (unit - 1)):
            raise BackendError(f"triton: blocks of {part} and of {unit} values do not share a tile")
    least = 2 if dim.size > 1 else 1  # codes of 4 bits go in pairs
    return Extent(max(power_from(unit), least), unit, power_from(unit))


def _whole(dim: Dim, own: Extent, copy: int) -> Extent:
    if dim.extents[copy] != WHOLE or own.covered >= dim.size:
        return own
    return Extent(own.padded * power_from(-(-dim.size // own.unit)), own.unit, own.padded)


def _grown(view: CastView, rows: Extent, columns: Extent, enough: int) -> tuple[Extent, Extent]:
    square = any(stride == 1 for stride in view.rows.strides)
    while rows.length * columns.length < enough:
        more = [own.covered < dim.size for dim, own in ((view.rows, rows), (view.columns, columns))]
        if not any(more):
            break
        first = columns.length < (max(rows.length, 32) if square else 512)
        if more[1] and (first or not more[0]):
            columns = Extent(columns.length * 2, columns.unit, columns.padded)
        else:
            rows = Extent(rows.length * 2, rows.unit, rows.padded)
    return rows, columns
