"""Where a tile of a cast is: coordinates, masks, and the offsets of its elements and blocks."""

from precc.backends.triton.templates.cast_text import CastText
from precc.backends.triton.templates.cast_tiles import Extent
from precc.backends.triton.templates.cast_view import EACH, WHOLE, CastView, Dim
from precc.backends.triton.templates.lines import Lines, Side

__all__ = [
    "address_of",
    "block_address",
    "block_mask",
    "coordinates",
    "covered",
    "extent_of",
    "named_dims",
    "place",
    "reduce_blocks",
]


def place(lines: Lines) -> None:
    """Lines for the coordinates of what is loaded at once, and for `inside`, where there is something."""
    lines.add(*coordinates(lines.sides[0]))
    masks = [f"({_at(side.name)} < {side.name}s)" for side in lines.sides]
    masks += [f"({_at(side.name)} >= 0)" for side in lines.sides if side.own.unit != side.own.padded]
    lines.add(f"inside = {' & '.join(masks)}")


def covered(own: Extent, parameter: str) -> str:
    return parameter if own.unit == own.padded else f"({parameter} // {own.padded} * {own.unit})"


def coordinates(side: Side) -> list[str]:
    """Lines for the coordinates along one dimension; -1 in what pads a block to a power of two."""
    name, own, parameter = side.name, side.own, side.parameter
    if own.unit == own.padded:
        return [f"{name} = {side.tile} * {parameter} + tl.arange(0, {parameter})"]
    return [
        f"{name} = tl.arange(0, {parameter})",
        f"{name}_in = {name} % {own.padded}  # blocks of {own.unit} in {own.padded}",
        f"{name} = {side.tile} * {covered(own, parameter)} + {name} // {own.padded} * {own.unit} + {name}_in",
        f"{name} = tl.where({name}_in < {own.unit}, {name}, -1)",
    ]


def _at(name: str) -> str:
    """Coordinates as a block of two dimensions."""
    return {"row": "row[:, None]", "column": "column[None, :]"}.get(name, name)


def named_dims(view: CastView) -> list[tuple[str, Dim]]:
    return [*((f"outer{n}", dim) for n, dim in enumerate(view.outer)), ("row", view.rows), ("column", view.columns)]


def _term(lines: Lines, prefix: str, name: str, coordinate: str, stride: int) -> str:
    if stride == 1:
        return coordinate
    return f"{coordinate} * {lines.argument(f'{prefix}_{name}', lines.integer)}"


def address_of(lines: Lines, prefix: str, place: int, **instead: str) -> str:
    """The offset of each element by the strides at a place."""
    names = named_dims(lines.view)
    terms = [
        _term(lines, prefix, name, instead.get(name, _at(name)), dim.strides[place])
        for name, dim in names
        if dim.strides[place] and dim.size > 1
    ]
    zero = f"tl.zeros([{lines.rows}, COLUMNS], tl.int32)"
    if not any(name in ("row", "column") and dim.strides[place] and dim.size > 1 for name, dim in names):
        terms.append(zero)
    return " + ".join(terms)


def reduce_blocks(lines: Lines, cast: CastText, copy: int, name: str, whole: bool) -> list[str]:
    """Lines for the largest magnitudes of the blocks in a tile, as integers; their shape, 1 for what is reduced."""
    types = cast.types
    if not lines.has("size"):
        lines.add(f"size = x.to({types.integer}, bitcast=True) & 0x{types.magnitude_mask:X}")
    shape, axes, left = [], [], []
    for side in lines.sides:
        extent = WHOLE if whole else extent_of(lines, side, copy)
        if extent == EACH:
            shape.append(side.parameter)
            left.append(side.parameter)
        elif extent == WHOLE:
            axes.append(len(shape))
            shape.append(side.parameter)
            left.append("1")
        else:
            part = side.own.part(extent)
            shape += [f"{side.parameter} // {part}", f"{part}"]
            axes.append(len(shape) - 1)
            left += [f"{side.parameter} // {part}", "1"]
    value = "size" if len(shape) == 2 else f"tl.reshape(size, [{', '.join(shape)}])"
    for axis in reversed(axes):
        value = f"tl.max({value}, {axis}, keep_dims=True)"
    lines.add(f"{name} = {value}")
    return left


def extent_of(lines: Lines, side: Side, copy: int) -> int:
    """Of a copy's blocks along a side; all of it where a block is taller than a step."""
    extent = side.dim.extents[copy]
    return WHOLE if lines.stepping and side.name == "row" and extent > lines.tile.step else extent


def block_address(lines: Lines, cast: CastText, copy: int, prefix: str) -> str:
    """The offset of each block, as a block of two dimensions."""
    if copy < 0:
        return "tl.zeros([1, 1], tl.int32)"
    terms = [
        _term(lines, prefix, f"outer{n}", f"outer{n}", dim.blocks[copy])
        for n, dim in enumerate(cast.view.outer)
        if dim.blocks[copy]
    ]
    for side in lines.sides:
        extent, name = side.dim.extents[copy], side.name
        if extent == WHOLE or side.dim.size == 1:
            vector = "tl.arange(0, 1)" if extent == WHOLE else f"(tl.arange(0, {side.parameter}) * 0)"
            terms.append(_across(vector, name))
        else:
            at = _at(name) if extent == EACH else _block_number(lines, side, extent)
            terms.append(_term(lines, prefix, name, at, side.dim.blocks[copy]))
    return " + ".join(terms)


def _across(vector: str, name: str) -> str:
    return f"{vector}[:, None]" if name == "row" else f"{vector}[None, :]"


def _block_number(lines: Lines, side: Side, extent: int) -> str:
    """The numbers of the blocks of a tile along one dimension, as a block of two dimensions."""
    number = f"{side.name}_block{extent}"
    if not lines.has(number):
        count = f"{side.parameter} // {side.own.part(extent)}"
        lines.add(f"{number} = {side.tile} * ({count}) + tl.arange(0, {count})")
    return _across(number, side.name)


def block_mask(lines: Lines, cast: CastText, copy: int) -> str:
    """The mask of the blocks that there are; empty for one."""
    masks = []
    if copy >= 0:
        for side in lines.sides:
            extent, size = side.dim.extents[copy], f"{side.name}s"
            if extent == EACH:
                masks.append(f"({_at(side.name)} < {size})")
                if side.own.unit != side.own.padded:
                    masks.append(f"({_at(side.name)} >= 0)")
            elif extent != WHOLE:
                masks.append(f"({_block_number(lines, side, extent)} * {extent} < {size})")
    return f", mask={' & '.join(masks)}" if masks else ""
