"""The text of the kernels of a cast: one that finds largest magnitudes where no tile can, and the cast itself."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from precc.backends.triton.emit.codes import code_text
from precc.backends.triton.emit.conversions import POINTERS, to_carrier, to_dtype
from precc.backends.triton.emit.device_functions import TYPES, Types, joined
from precc.backends.triton.emit.rounding import rounding_text
from precc.backends.triton.emit.scales import divided_text, scale_text
from precc.backends.triton.kernel_source import Argument
from precc.backends.triton.templates.cast_copies import Copy, PackedParts
from precc.backends.triton.templates.cast_tiles import CastTile, Extent
from precc.backends.triton.templates.cast_view import EACH, WHOLE, CastView, Dim
from precc.formats import Granularity
from precc.rounding.tensor_ops import carrier_of

__all__ = ["CastText", "Lines", "Source", "amax_text", "cast_text", "place"]


@dataclass(frozen=True, slots=True)
class Side:
    """A dimension of what a kernel loads at once: the names of its coordinates, of its number and of its length."""

    name: str
    tile: str
    dim: Dim
    own: Extent
    parameter: str


@dataclass(slots=True)
class Lines:
    """A kernel as it is written: its arguments, its lines and the functions that it calls."""

    view: CastView
    tile: CastTile
    wide: bool
    arguments: list[Argument] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    stepping: bool = False
    scope: int = 0

    @property
    def integer(self) -> str:
        """The type of sizes, strides and addresses."""
        return "i64" if self.wide else "i32"

    def argument(self, name: str, kind: str) -> str:
        """The name of an argument, which there is from then on."""
        if all(own.name != name for own in self.arguments):
            self.arguments.append(Argument(name, kind))
        return name

    def add(self, *lines: str) -> None:
        """Lines of the kernel, of its loop where it is in one."""
        self.body += [f"    {line}" if self.stepping else line for line in lines]

    def begin_steps(self) -> None:
        """From here on, lines of a loop over the steps of the tile."""
        self.add("for step in range(ROWS // STEP):")
        self.stepping, self.scope = True, len(self.body)
        self.add("row_step = row_tile * (ROWS // STEP) + step")

    def end_steps(self) -> None:
        """From here on, lines behind the loop."""
        self.stepping, self.scope = False, len(self.body)

    @property
    def rows(self) -> str:
        """The parameter for the rows of what is loaded at once."""
        return "STEP" if self.stepping else "ROWS"

    @property
    def sides(self) -> list["Side"]:
        """The dimensions of what is loaded at once."""
        rows = Extent(self.tile.step) if self.stepping else self.tile.rows
        return [
            Side("row", "row_step" if self.stepping else "row_tile", self.view.rows, rows, self.rows),
            Side("column", "column_tile", self.view.columns, self.tile.columns, "COLUMNS"),
        ]

    def has(self, name: str) -> bool:
        """Whether a line gives something this name."""
        return any(line.strip().startswith(f"{name} = ") for line in self.body[self.scope :])

    def call(self, functions: str) -> None:
        """Functions that the lines call."""
        self.functions.append(functions)

    def text(self, name: str, about: Sequence[str]) -> str:
        """The module."""
        parameters = [*(own.name for own in self.arguments), *(f"{size}: tl.constexpr" for size in self.tile.sizes)]
        names = textwrap.fill(", ".join(parameters), 100, initial_indent="    ", subsequent_indent="    ")
        states = [own.name for own in self.arguments if own.type == "u32"]
        once = f"(do_not_specialize={states!r})" if states else ""
        body = "".join(f"    {line}\n" for line in [*(f"# {line}" for line in about), *self.body])
        before = joined(*self.functions)
        between = f"{before}\n\n" if before else ""
        head = "import triton\nimport triton.language as tl\n\n\n"
        return f"{head}{between}@triton.jit{once}\ndef {name}(\n{names}\n):\n{body}"


#: Writes lines that place `row`, `column` and `inside` and give `x`; the flag: the last time, not only to find scales.
Source = Callable[[Lines, bool], None]


@dataclass(frozen=True, slots=True)
class CastText:
    """What is to be known of a cast to write it.

    Args:
        view, tile, wide: of the value; whether addresses need 64 bits.
        dtype: of the value.
        copies: of it.
        packs: the layout of each copy; None for values.
        places: position of the strides of the copy in those of the view, and that of the row-major index.
        found: for each copy that has its largest magnitudes from the first kernel, which of its buffers.
        buffers: extents and strides of blocks of these, as those of the copy or `WHOLE` for the tensor's.
    """

    view: CastView
    tile: CastTile
    wide: bool
    dtype: torch.dtype
    copies: tuple[Copy, ...]
    packs: tuple[PackedParts | None, ...]
    places: tuple[tuple[int, int], ...]
    found: tuple[int | None, ...]
    buffers: tuple[int, ...]

    @property
    def types(self) -> Types:
        """Of the carrier."""
        return TYPES[carrier_of(torch.empty(0, dtype=self.dtype), self.copies[0].row).dtype]


def amax_text(cast: CastText) -> Lines:
    """The kernel that finds largest magnitudes: integers that order as the magnitudes do, NaN above all."""
    lines = _placed(cast)
    steps = cast.tile.step < cast.tile.rows.length
    if steps:
        lines.begin_steps()
    _load(lines, cast)
    for number, copy in enumerate(cast.buffers):
        lines.add(f"# largest magnitudes, of {_shared(cast, copy)}")
        _reduced(lines, cast, copy, f"amax{number}", whole=copy < 0)
        address = _block_address(lines, cast, copy, f"amax{number}")
        pointer = lines.argument(f"amax{number}_ptr", f"*i{cast.types.bits}")
        mask = _block_mask(lines, cast, copy)
        lines.add(f"tl.atomic_max({pointer} + {address}, amax{number}{mask})")
    return lines


def cast_text(cast: CastText, source: Source | None = None) -> Lines:
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
    for number, copy in enumerate(cast.copies):
        shared = first.setdefault(_rounded(cast, number), number)
        written.append(_Written(lines, cast, number, copy, shared))
    if cast.tile.step < cast.tile.rows.length:
        _find_tall([own for own in written if own.is_tall], load)
        lines.begin_steps()
    load(lines, True)
    for own in written:
        own.write()
    return lines


def _find_tall(written: Sequence["_Written"], load: Source) -> None:
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
        _reduced(lines, cast, own.number, f"part{own.number}", whole=False)
        lines.add(f"largest{own.number} = tl.maximum(largest{own.number}, part{own.number})")
    lines.end_steps()
    for own in firsts:
        own.find()
    for own in written:
        own.store_scales()


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
        tiles = f"tl.cdiv({side.name}s, {_step(side.own, side.parameter)})"
        lines.add(f"{side.tile} = tile % {tiles}", f"tile = tile // {tiles}")
    for n in reversed(range(1, len(cast.view.outer))):
        size = lines.argument(f"size{n}", lines.integer)
        lines.add(f"outer{n} = tile % {size}", f"tile = tile // {size}")
    if cast.view.outer:
        lines.add("outer0 = tile")
    lines.add(*_coordinates(lines.sides[1]))
    return lines


def _loaded(cast: CastText) -> Source:
    return lambda lines, last: _load(lines, cast)


def place(lines: Lines) -> None:
    """Lines for the coordinates of what is loaded at once, and for `inside`, where there is something."""
    lines.add(*_coordinates(lines.sides[0]))
    masks = [f"({_at(side.name)} < {side.name}s)" for side in lines.sides]
    masks += [f"({_at(side.name)} >= 0)" for side in lines.sides if side.own.unit != side.own.padded]
    lines.add(f"inside = {' & '.join(masks)}")


def _load(lines: Lines, cast: CastText) -> None:
    """Lines that load `x`, in the carrier, from where `inside` says that there is something."""
    place(lines)
    read = to_carrier(cast.dtype, cast.types.float)
    lines.call(read.functions)
    load = f"tl.load(x_ptr + {_address(lines, 'x', 0)}, mask=inside, other=0.0)"
    lines.add(f"x = {read.of(load)}")


def _step(own: Extent, parameter: str) -> str:
    return parameter if own.unit == own.padded else f"({parameter} // {own.padded} * {own.unit})"


def _coordinates(side: Side) -> list[str]:
    """Lines for the coordinates along one dimension; -1 in what pads a block to a power of two."""
    name, own, parameter = side.name, side.own, side.parameter
    if own.unit == own.padded:
        return [f"{name} = {side.tile} * {parameter} + tl.arange(0, {parameter})"]
    return [
        f"{name} = tl.arange(0, {parameter})",
        f"{name}_in = {name} % {own.padded}  # blocks of {own.unit} in {own.padded}",
        f"{name} = {side.tile} * {_step(own, parameter)} + {name} // {own.padded} * {own.unit} + {name}_in",
        f"{name} = tl.where({name}_in < {own.unit}, {name}, -1)",
    ]


def _at(name: str) -> str:
    """Coordinates as a block of two dimensions."""
    return {"row": "row[:, None]", "column": "column[None, :]"}.get(name, name)


def _coordinate_names(view: CastView) -> list[tuple[str, Dim]]:
    return [*((f"outer{n}", dim) for n, dim in enumerate(view.outer)), ("row", view.rows), ("column", view.columns)]


def _term(lines: Lines, prefix: str, name: str, coordinate: str, stride: int) -> str:
    if stride == 1:
        return coordinate
    return f"{coordinate} * {lines.argument(f'{prefix}_{name}', lines.integer)}"


def _address(lines: Lines, prefix: str, place: int, **instead: str) -> str:
    """The offset of each element by the strides at a place."""
    names = _coordinate_names(lines.view)
    terms = [
        _term(lines, prefix, name, instead.get(name, _at(name)), dim.strides[place])
        for name, dim in names
        if dim.strides[place] and dim.size > 1
    ]
    zero = f"tl.zeros([{lines.rows}, COLUMNS], tl.int32)"
    if not any(name in ("row", "column") and dim.strides[place] and dim.size > 1 for name, dim in names):
        terms.append(zero)
    return " + ".join(terms)


def _reduced(lines: Lines, cast: CastText, copy: int, name: str, whole: bool) -> list[str]:
    """Lines for the largest magnitudes of the blocks in a tile, as integers; their shape, 1 for what is reduced."""
    types = cast.types
    if not lines.has("size"):
        lines.add(f"size = x.to({types.integer}, bitcast=True) & 0x{types.magnitude_mask:X}")
    shape, axes, left = [], [], []
    for side in lines.sides:
        extent = WHOLE if whole else _extent(lines, side, copy)
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


def _extent(lines: Lines, side: Side, copy: int) -> int:
    """Of a copy's blocks along a side; all of it where a block is taller than a step."""
    extent = side.dim.extents[copy]
    return WHOLE if lines.stepping and side.name == "row" and extent > lines.tile.step else extent


def _block_address(lines: Lines, cast: CastText, copy: int, prefix: str) -> str:
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


def _block_mask(lines: Lines, cast: CastText, copy: int) -> str:
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


@dataclass(frozen=True, slots=True)
class _Written:
    """One copy.

    Args:
        lines: of the kernel.
        cast: what it is for.
        number: of the copy.
        copy: itself.
        shared: number of the first copy with the same rounded values, whose scales and values it has.
    """

    lines: Lines
    cast: CastText
    number: int
    copy: Copy
    shared: int

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

    def write(self) -> None:
        """Its lines."""
        self.lines.add(f"# {_about(self.copy, self.number)}")
        if self.copy.row.is_identity(self.cast.dtype):
            self._store("x", "y")
            return
        if self.shared == self.number:
            self._round()
        if self.cast.packs[self.number] is not None:
            self._codes()
        else:
            scaled = self.copy.row.granularity is not None
            self._store(f"y{self.shared} * scale{self.shared}" if scaled else f"y{self.shared}", "y")

    def _store(self, value: str, prefix: str) -> None:
        """A line that stores values of the carrier in the dtype of the tensor."""
        n, lines = self.number, self.lines
        write = to_dtype(self.cast.types.float, self.cast.dtype)
        lines.call(write.functions)
        value = f"({value})" if " " in value and write.expression != "{}" else value
        pointer = lines.argument(f"{prefix}{n}_ptr", POINTERS[self.cast.dtype])
        address = _address(lines, f"{prefix}{n}", self.cast.places[n][0])
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
                self._spread()
            else:
                self._given()
            value = f"{name}(x, scale{n})"
        index = _address(lines, f"index{n}", self.cast.places[n][1]) if rounding.draws else ""
        for argument in rounding.arguments(f"draw{n}"):
            lines.argument(argument.name, argument.type)
        lines.add(f"y{n} = {rounding.call(value, index, f'draw{n}')}")

    def _given(self) -> None:
        n, lines = self.number, self.lines
        if self.cast.types.float == "tl.float32":
            lines.add(f"scale{n} = {lines.argument(f'given{n}', 'fp32')}")
        else:
            bits = lines.argument(f"given{n}", "i64")
            lines.add(f"scale{n} = tl.cast({bits}, tl.int64).to(tl.float64, bitcast=True)")

    def find(self) -> None:
        """Lines for `found`, the scales of blocks; the largest magnitudes of tall ones are there."""
        n, lines, types = self.number, self.lines, self.cast.types
        text = scale_text(self.copy.row, types.float)
        lines.call(text.functions)
        buffer, tensor = self.cast.found[n], ""
        pointer = lines.argument(f"amax{buffer}_ptr", f"*i{types.bits}") if buffer is not None else ""
        if buffer is not None and not text.two_level:
            mask = _block_mask(lines, self.cast, n)
            address = _block_address(lines, self.cast, n, f"amax{buffer}")
            lines.add(f"largest{n} = tl.load({pointer} + {address}{mask + ', other=0' if mask else ''})")
        elif not lines.has(f"largest{n}") and (lines.stepping or not self._steps):
            _reduced(lines, self.cast, n, f"largest{n}", whole=False)
        if text.two_level:
            tensor = f"tl.load({pointer}).to({types.float}, bitcast=True)"
        lines.add(f"found{n} = {text.call(f'largest{n}.to({types.float}, bitcast=True)', tensor)}")

    @property
    def _steps(self) -> bool:
        return self.cast.tile.step < self.cast.tile.rows.length

    def _spread(self) -> None:
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
            extent = _extent(self.lines, side, self.number)
            part = side.own.part(extent)
            shape += [side.parameter] if extent in (EACH, WHOLE) else [f"{side.parameter} // {part}", f"{part}"]
        return shape

    def _codes(self) -> None:
        n, m, lines = self.number, self.shared, self.lines
        parts = self.cast.packs[n]
        assert parts is not None
        codes = code_text(self.copy.row, self.cast.dtype)
        lines.call(codes.encoder)
        if not self.is_found_before:
            self.store_scales()
        if not lines.has(f"code{m}"):
            lines.add(f"code{m} = {codes.encode.format(f'y{m}')}")
        if parts.storage == 4:
            self._pairs()
            return
        kind = {8: "u8", 16: "i16", 32: "i32", 64: "i64"}[parts.storage]
        stored = {8: "tl.uint8", 16: "tl.int16", 32: "tl.int32", 64: "tl.int64"}[parts.storage]
        pointer = lines.argument(f"code{n}_ptr", f"*{kind}")
        address = _address(lines, f"code{n}", self.cast.places[n][0])
        lines.add(f"tl.store({pointer} + {address}, code{m}.to({stored}), mask=inside)")

    def store_scales(self) -> None:
        """Lines that store the scales of blocks, or that there is a NaN."""
        n, m, lines = self.number, self.shared, self.lines
        parts = self.cast.packs[n]
        if parts is None or not parts.scales:
            return
        pointer = lines.argument(f"scale{n}_ptr", f"*fp{self.cast.types.bits}")
        if parts.flag:
            lines.add(
                f"nan{n} = tl.max(tl.max((inside & (y{m} != y{m})).to(tl.int32), 1), 0)  # it has no code",
                f'tl.store({pointer}, float("nan"), mask=nan{n} != 0)',
            )
            return
        grid = self._grid()
        value = f"tl.reshape(found{m}, [{', '.join(grid)}])" if len(self._full()) > 2 else f"found{m}"
        address = _block_address(lines, self.cast, n, f"scale{n}")
        lines.add(f"tl.store({pointer} + {address}, {value}{_block_mask(lines, self.cast, n)})")

    def _grid(self) -> list[str]:
        """How many blocks there are along the dimensions of what is loaded at once."""
        counts = []
        for side in self.lines.sides:
            extent = side.dim.extents[self.number]
            blocks = f"{side.parameter} // {side.own.part(extent)}"
            counts.append("1" if extent == WHOLE else side.parameter if extent == EACH else blocks)
        return counts

    def _pairs(self) -> None:
        """Two codes a byte, the lower half first, along the dimension in which codes are consecutive."""
        n, m, lines, place = self.number, self.shared, self.lines, self.cast.places[self.number][0]
        by_row = self.cast.view.rows.strides[place] == 1 and self.cast.view.rows.size > 1
        name, parameter = ("row", lines.rows) if by_row else ("column", "COLUMNS")
        shape = f"[COLUMNS, {lines.rows} // 2, 2]" if by_row else f"[{lines.rows}, COLUMNS // 2, 2]"
        pairs = "tl.reshape(tl.trans({}), " if by_row else "tl.reshape({}, "
        pointer = lines.argument(f"code{n}_ptr", "*u8")
        lines.add(
            f"low{n}, high{n} = tl.split({pairs.format(f'code{m}')}{shape}))",
            f"inside{n}, _ = tl.split({pairs.format('inside.to(tl.int32)')}{shape}))",
            f"{name}{n}, _ = tl.split(tl.reshape({name}, [{parameter} // 2, 2]))",
        )
        address = self._half_address(name, by_row)
        lines.add(f"tl.store({pointer} + {address}, (low{n} | (high{n} << 4)).to(tl.uint8), mask=inside{n} != 0)")

    def _half_address(self, paired: str, by_row: bool) -> str:
        n, place = self.number, self.cast.places[self.number][0]
        across = {"row": "[None, :]", "column": "[:, None]"} if by_row else {"row": "[:, None]", "column": "[None, :]"}
        terms = []
        for name, dim in _coordinate_names(self.cast.view):
            if not dim.strides[place] or dim.size == 1:
                continue
            if name == paired:
                terms.append(f"({name}{n} // 2){across[name]}")
            else:
                stride = self.lines.argument(f"code{n}_{name}", self.lines.integer)
                terms.append(f"{name}{across.get(name, '')} * {stride}")
        return " + ".join(terms)


def _about(copy: Copy, number: int) -> str:
    row = copy.row
    granularity = "no scale" if row.granularity is None else f"scale by {row.granularity.value}"
    what = ("packed, transposed" if copy.transposed else "packed") if copy.packed else "values"
    return f"copy {number}: {granularity}, {row.mode.value}, {what}"
