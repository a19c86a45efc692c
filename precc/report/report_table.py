"""The table of a report within a width: which columns there are room for, and what is shortened."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len

from precc.report.error_figures import DOUBT_NOTE, percent
from precc.report.layer_row import LayerRow
from precc.report.lines import Line, printable
from precc.report.short_names import short_formats, short_names, without_scalings

__all__ = ["table_text"]

_GAP = 2

#: What a name and the formats of one column get at least, and a reason.
_LEAST_NAME, _LONG_FORMAT, _LEAST_WHY = 8, 16, 14

_FORMATS = ("fprop", "dgrad", "wgrad")

#: The rank of the names of ops where all are products, which say nothing.
_SAME = 9


@dataclass(frozen=True, slots=True)
class TableText:
    """A table as lines.

    Args:
        lines: heading first.
        notes: on what is shortened or left out, in sentences.
        reasons: whether all of them are there, whole.
    """

    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    reasons: bool = True


@dataclass(frozen=True, slots=True)
class _Column:
    """One column.

    Args:
        heading: of it.
        cells: of the rows.
        right: whether it is set to the right.
        rank: columns of a low one are kept longest.
        styles: of the cells.
    """

    heading: str
    cells: tuple[str, ...]
    right: bool = False
    rank: int = 0
    styles: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Of the widest cell."""
        return max(map(cell_len, (self.heading, *self.cells)))


def table_text(rows: Sequence[LayerRow], styles: Sequence[tuple[str, ...]], width: int) -> TableText:
    """The rows in lines of at most so many characters.

    Args:
        rows: of the report that are shown.
        styles: of the three columns of formats of each row, as rich has them.
        width: of a line.
    """
    columns = _columns(rows, styles)
    doubts = [DOUBT_NOTE] * any(own is not None and own.doubt for row in rows for own in (row.predicted, row.measured))
    found = _within(columns, width)
    return replace(found, notes=(*doubts, *found.notes))


def _within(columns: list[_Column], width: int) -> TableText:
    short = [own if own.heading not in _FORMATS else _with(own, short_formats) for own in columns]
    starred, stars = _starred(short)
    for own, said in ((columns, []), (short, []), (starred, stars)):
        if _total(own) <= width:
            return TableText(_lines(own), tuple(said))
    numbered, legend = _numbered(starred, width)
    return _narrow(numbered, [*stars, *legend], width)


def _narrow(columns: list[_Column], notes: list[str], width: int) -> TableText:
    """With short names, without the columns that there is no room for, and with lines that say so."""
    columns, named = _named(columns, max(width * 32 // 100, _LEAST_NAME), width * 44 // 100)
    kept, dropped = _fitting(columns, width)
    if _total(kept) > width:
        kept, named = _named(kept, max(width - _total(kept) + kept[0].width, _LEAST_NAME))
    kept, cut = _with_why(kept, columns, width)
    dropped = [name for name in dropped if name not in {own.heading for own in kept}]
    notes += ["… stands for the middle of a name; report.rows has them whole"] * named
    notes += ["reasons are cut off: row.why of report.rows has them whole"] * cut
    if dropped:
        notes.append(f"no room for {', '.join(dropped)}: report.text(200) or report.save('report.md') have all")
    return TableText(_lines(kept), tuple(notes), reasons=not cut and "why" not in dropped)


def _columns(rows: Sequence[LayerRow], styles: Sequence[tuple[str, ...]]) -> list[_Column]:
    """All that have something to say, in the order of the table."""
    layers = tuple(printable(row.layer) or "(root)" for row in rows)
    formats = [
        _Column(name, tuple(row.formats[k] for row in rows), rank=0, styles=tuple(own[k] for own in styles))
        for k, name in enumerate(_FORMATS)
    ]
    sizes: list[tuple[str, int, Callable[[LayerRow], str]]] = [
        ("multiply-adds", 12, lambda row: f"{row.multiply_adds:,}"),
        ("share", 4, lambda row: f"{row.share:.1%}"),
        ("range", 8, _range),
        ("condition", 7, lambda row: _figure(row.condition)),
        ("predicted", 1, lambda row: percent(row.predicted)),
        ("measured", 2, lambda row: percent(row.measured)),
        ("cost", 5, lambda row: "" if row.cost is None else f"{row.cost:.1%}"),
    ]
    numbers = [_Column(name, tuple(map(cell, rows)), right=True, rank=rank) for name, rank, cell in sizes]
    why = _Column("why", tuple(row.why for row in rows), rank=10)
    op = _Column("op", tuple(row.op for row in rows), rank=_SAME if {row.op for row in rows} == {"product"} else 3)
    return [_Column("layer", layers), op, *formats, *(own for own in (*numbers, why) if any(own.cells) or not rows)]


def _range(row: LayerRow) -> str:
    """Of all operands together, as powers of two."""
    if row.amax is None or row.amin is None or not 0 < row.amin <= row.amax < math.inf:
        return ""
    return f"2^{math.floor(math.log2(row.amin))}..{math.floor(math.log2(row.amax))}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _with(column: _Column, change: Callable[[str], str]) -> _Column:
    return replace(column, cells=tuple(map(change, column.cells)))


def _total(columns: Sequence[_Column]) -> int:
    return sum(own.width for own in columns) + _GAP * (len(columns) - 1)


def _starred(columns: list[_Column]) -> tuple[list[_Column], list[str]]:
    """Formats with stars for scalings."""
    short, notes = without_scalings(cell for own in columns if own.heading in _FORMATS for cell in own.cells)
    return [_with(own, lambda cell: short[cell]) if own.heading in _FORMATS else own for own in columns], notes


def _numbered(columns: list[_Column], width: int) -> tuple[list[_Column], list[str]]:
    """Long formats as numbers, which lines under the table explain."""
    limit = min(_LONG_FORMAT, max(width // 6, 5))
    long = dict.fromkeys(cell for own in columns if own.heading in _FORMATS for cell in own.cells if len(cell) > limit)
    marks = {cell: f"[{number}]" for number, cell in enumerate(long, start=1)}
    changed = [_with(own, lambda cell: marks.get(cell, cell)) if own.heading in _FORMATS else own for own in columns]
    return changed, [f"{mark} {cell}" for cell, mark in marks.items()]


def _named(columns: list[_Column], width: int, most: int = 0) -> tuple[list[_Column], bool]:
    """With names of layers of at most so many characters, as of `short_names`, and whether one is shortened."""
    first = columns[0]
    short = short_names(first.cells, width, most)
    own = _with(first, lambda cell: short[cell])
    return [own, *columns[1:]], own.cells != first.cells


def _fitting(columns: Sequence[_Column], width: int) -> tuple[list[_Column], list[str]]:
    """Those that there is room for; of reasons at least for a part. And the headings of the others."""
    kept = [own for own in columns if own.heading != "why"]
    while _total(kept) > width and any(own.rank for own in kept):
        last = max(kept, key=lambda own: own.rank)
        kept.remove(last)
    for own in sorted(columns, key=lambda own: own.rank):  # a narrow one may have room where a wide one had none
        if own not in kept and own.heading != "why" and own.rank != _SAME and _total([*kept, own]) <= width:
            kept = [other for other in columns if other in kept or other is own]
    return kept, [own.heading for own in columns if own not in kept]


def _with_why(kept: list[_Column], columns: Sequence[_Column], width: int) -> tuple[list[_Column], bool]:
    """With reasons in what room is left, and whether one is cut off."""
    why = next((own for own in columns if own.heading == "why"), None)
    room = width - _total(kept) - _GAP
    if why is None or room < min(_LEAST_WHY, why.width):
        return kept, False
    own = _with(why, lambda cell: cell if len(cell) <= room else f"{cell[: room - 1].rstrip()}…")
    return [*kept, own], own.cells != why.cells


def _lines(columns: Sequence[_Column]) -> tuple[Line, ...]:
    widths = [own.width for own in columns]
    count = len(columns[0].cells)
    heading = _line([(own.heading, "bold", own.right) for own in columns], widths)
    cells = (
        [(own.cells[row], own.styles[row] if own.styles else "", own.right) for own in columns] for row in range(count)
    )
    return (heading, *(_line(own, widths) for own in cells))


def _line(cells: Sequence[tuple[str, str, bool]], widths: Sequence[int]) -> Line:
    """Set in columns, without blanks at its end."""
    found: list[tuple[str, str]] = []
    blank = 0
    for (text, style, right), width in zip(cells, widths, strict=True):
        before = width - cell_len(text) if right else 0
        if text:
            found += [(" " * (blank + before), ""), (text, style)]
            blank = width - cell_len(text) - before + _GAP
        else:
            blank += width + _GAP
    return tuple(part for part in found if part[0])
