"""The kernels of a cast: one that finds largest magnitudes where no tile can, and the cast itself."""

from collections.abc import Callable, Sequence

from precc.backends.triton.emit.conversions import POINTERS, to_carrier
from precc.backends.triton.templates.cast_places import (
    address_of,
    block_address,
    block_mask,
    coordinates,
    covered,
    place,
    reduce_blocks,
)
from precc.backends.triton.templates.cast_text import CastText
from precc.backends.triton.templates.copy_lines import CopyLines
from precc.backends.triton.templates.copy_scales import CopyScales
from precc.backends.triton.templates.lines import Lines
from precc.formats import Granularity

__all__ = ["Source", "amax_lines", "cast_lines"]


#: Writes lines that place `row`, `column` and `inside` and give `x`; the flag: the last time, not only to find scales.
Source = Callable[[Lines, bool], None]


def amax_lines(cast: CastText) -> Lines:
    """The kernel that finds largest magnitudes: integers that order as the magnitudes do, NaN above all."""
    lines = _placed(cast)
    steps = cast.tile.step < cast.tile.rows.length
    if steps:
        lines.begin_steps()
    _load(lines, cast)
    for number, copy in enumerate(cast.buffers):
        lines.add(f"# largest magnitudes, of {_shared(cast, copy)}")
        reduce_blocks(lines, cast, copy, f"amax{number}", whole=copy < 0)
        address = block_address(lines, cast, copy, f"amax{number}")
        pointer = lines.argument(f"amax{number}_ptr", f"*i{cast.types.bits}")
        mask = block_mask(lines, cast, copy)
        lines.add(f"tl.atomic_max({pointer} + {address}, amax{number}{mask})")
    return lines


def cast_lines(cast: CastText, source: Source | None = None) -> Lines:
    """The kernel that rounds and writes the copies; in steps where a tile is more than registers hold.

    Then a first loop finds the largest magnitudes of blocks that are taller than a step, and a second, which reads the
    tile again from the cache, rounds.

    Args:
        cast: what is known of it.
        source: gives the value; None where it is loaded.
    """
    load = source if source is not None else _loaded(cast)
    lines = _placed(cast, reads=source is None)
    first: dict[object, int] = {}
    written = []
    for number in range(len(cast.copies)):
        shared = first.setdefault(_rounded(cast, number), number)
        written.append(CopyLines(lines, cast, number, shared))
    if cast.tile.step < cast.tile.rows.length:
        _find_tall([own.scales for own in written if own.scales.is_tall], load)
        lines.begin_steps()
    load(lines, True)
    for own in written:
        own.write()
    return lines


def _find_tall(written: Sequence[CopyScales], load: Source) -> None:
    """The loop that finds the scales of blocks taller than a step, and what is behind it."""
    if not written:
        return
    lines, cast = written[0].lines, written[0].cast
    firsts = [own for own in written if own.shared == own.number]
    for own in firsts:
        shape = ", ".join(own.tall_shape())
        lines.add(f"largest{own.number} = tl.zeros([{shape}], {cast.types.integer})")
    lines.begin_steps()
    load(lines, False)
    for own in firsts:
        reduce_blocks(lines, cast, own.number, f"part{own.number}", whole=False)
        lines.add(f"largest{own.number} = tl.maximum(largest{own.number}, part{own.number})")
    lines.end_steps()
    for own in firsts:
        own.find()
    for own in written:
        own.store()


def _rounded(cast: CastText, number: int) -> object:
    """Equal for copies whose elements are rounded to the same values."""
    copy, dims = cast.copies[number], (*cast.view.outer, cast.view.rows, cast.view.columns)
    blocks = tuple(dim.extents[number] for dim in dims)
    index = tuple(dim.strides[cast.places[number][1]] for dim in dims) if copy.row.is_stochastic else ()
    return copy.row, copy.numbers, blocks, index


def _shared(cast: CastText, copy: int) -> str:
    granularity = cast.copies[copy].row.granularity if copy >= 0 else Granularity.TENSOR
    assert granularity is not None
    return f"one {granularity.value} each"


def _placed(cast: CastText, reads: bool = True) -> Lines:
    """A kernel that knows which tile is its own."""
    lines = Lines(cast.view, cast.tile, cast.wide)
    if reads:
        lines.argument("x_ptr", POINTERS[cast.dtype])
    lines.add(f"tile = tl.program_id(0){'.to(tl.int64)' if cast.wide else ''}")
    for side in lines.sides:
        lines.argument(f"{side.name}s", lines.integer)
    for side in reversed(lines.sides):
        tiles = f"tl.cdiv({side.name}s, {covered(side.own, side.parameter)})"
        lines.add(f"{side.tile} = tile % {tiles}", f"tile = tile // {tiles}")
    for n in reversed(range(1, len(cast.view.outer))):
        size = lines.argument(f"size{n}", lines.integer)
        lines.add(f"outer{n} = tile % {size}", f"tile = tile // {size}")
    if cast.view.outer:
        lines.add("outer0 = tile")
    lines.add(*coordinates(lines.sides[1]))
    return lines


def _loaded(cast: CastText) -> Source:
    return lambda lines, last: _load(lines, cast)


def _load(lines: Lines, cast: CastText) -> None:
    """Lines that load `x`, in the carrier, from where `inside` says that there is something."""
    place(lines)
    read = to_carrier(cast.dtype, cast.types.float)
    lines.call(read.functions)
    load = f"tl.load(x_ptr + {address_of(lines, 'x', 0)}, mask=inside, other=0.0)"
    lines.add(f"x = {read.of(load)}")
