"""Pictures with what one needs to read them beside the colours: names, steps, losses, the formats."""

import math
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from precc.extras import imported
from precc.report.film_strip import FilmStrip
from precc.report.short_names import short_formats, short_names
from precc.tracking.pictures import channels_of, film_picture, frames_shown, map_picture
from precc.tracking.sink import Pixels

__all__ = ["can_draw", "drawn_film", "drawn_map"]

_LINE, _PAD = 15, 6  # pixels: of a line of text, and around things
_NAMES = 30  # characters of an op's name
_CURVE = 90  # pixels: height of the losses
_INK, _PAPER, _LOSS = (30, 30, 30), (255, 255, 255), (176, 36, 36)


def can_draw() -> bool:
    """Whether pillow is there, which the extra of each tracker has."""
    return find_spec("PIL") is not None


def drawn_map(film: FilmStrip, plan: int = -1) -> Pixels | None:
    """`map_picture` with its ops, its columns, and the format in each cell that has room. None: nothing to show.

    Raises:
        ExtraError: pillow is not installed.
    """
    pen = _Pen()
    heads = [column.split(".") for column in film.columns]
    wide = max((pen.width(part) for head in heads for part in head), default=0) + 2 * _PAD
    block = map_picture(film, plan, wide)
    if block is None:
        return None
    page = _Page(film, [plan], block, above=_PAD + _LINE * max(map(len, heads)))
    for column, head in enumerate(heads):
        for line, part in enumerate(head):
            page.text(column * (wide + 1) + wide / 2, _LINE * (line - len(head)), part, "ma")
    if page.step >= _LINE:
        _cell_names(page, film, plan, wide)
    return page.pixels([])


def drawn_film(film: FilmStrip) -> Pixels | None:
    """`film_picture` with its ops, its steps, the losses above, and a tick where a plan changes.

    Raises:
        ExtraError: pillow is not installed.
    """
    block = film_picture(film)
    if block is None:
        return None
    shown = frames_shown(len(film.frames))
    losses = [film.rows[frame].loss for frame in shown]
    curve = any(loss is not None and math.isfinite(loss) for loss in losses)
    plans = sorted({film.frames[frame] for frame in shown} - {-1})
    page = _Page(film, plans, block, above=_PAD + _LINE + curve * (_CURVE + _LINE), below=_LINE)
    wide = block.shape[1] / len(shown)
    if curve:
        _draw_losses(page, losses, wide)
    before = None
    for at, frame in enumerate(shown):
        if before is not None and film.frames[frame] != before:
            page.line([(at * wide, -_LINE / 2), (at * wide, -2)], _INK)
        before = film.frames[frame]
    _draw_steps(page, [film.rows[frame].step for frame in shown], wide, block.shape[0])
    order = "one line" if len(film.columns) == 1 else f"{len(film.columns)} lines"
    return page.pixels([f"of each op {order}: {', '.join(film.columns)}", "ticks: another plan"])


class _Pen:
    """Pillow, with its own font."""

    def __init__(self) -> None:
        self.image, self.draw = (imported(f"PIL.{name}", "tensorboard") for name in ("Image", "ImageDraw"))
        self.font = imported("PIL.ImageFont", "tensorboard").load_default(size=12)

    def width(self, text: str) -> int:
        """In pixels."""
        pixels: int = math.ceil(self.font.getlength(text))
        return pixels


class _Page:
    """A block of cells with room around it; positions are relative to the block.

    Args:
        film: whose ops are named at the left.
        plans: of it, whose formats are explained.
        block: the cells.
        above, below: pixels beside it.
    """

    def __init__(self, film: FilmStrip, plans: Sequence[int], block: Pixels, above: int, below: int = 0) -> None:
        self.pen = pen = _Pen()
        self._formats, self._block, self._below = _formats(film, plans), block, below
        names = {op: _on_one_line(name) for op, name in short_names(film.ops, _NAMES).items()}
        #: Pixels from one op to the next.
        self.step = block.shape[0] / len(film.ops)
        self._every = math.ceil(_LINE / self.step)  # ops from one name to the next
        self._left, self._top = max(map(pen.width, names.values())) + 2 * _PAD, above + _PAD
        self._notes: list[tuple[tuple[float, float], str, str, tuple[int, int, int]]] = []
        self._lines: list[tuple[list[tuple[float, float]], tuple[int, int, int]]] = []
        for number in range(0, len(film.ops), self._every):
            self.text(-_PAD, (number + 0.5) * self.step, names[film.ops[number]], "rm")

    def text(self, x: float, y: float, text: str, anchor: str, ink: tuple[int, int, int] = _INK) -> None:
        """Write, with an anchor as pillow has them."""
        self._notes.append(((x, y), text, anchor, ink))

    def line(self, points: Sequence[tuple[float, float]], ink: tuple[int, int, int]) -> None:
        """Draw a line through points."""
        self._lines.append((list(points), ink))

    def pixels(self, captions: Sequence[str]) -> Pixels:
        """All of it, with captions and the formats below."""
        tall, wide = self._block.shape[:2]
        if self._every > 1:
            captions = [f"one op of {self._every} is named here, all of them in precc/legend", *captions]
        keys = _wrapped(self.pen, self._formats, max(self._left + wide, 400))
        under = self._top + tall + self._below + _PAD
        longest = max([0, *map(self.pen.width, captions), *(x + w for line in keys for _, x, w in line)])
        notes = max(self._left + x + self.pen.width(text) / 2 for (x, _), text, *_ in self._notes)
        size = (
            math.ceil(max(self._left + wide, longest, notes)) + 2 * _PAD,
            under + _LINE * (len(captions) + len(keys)) + _PAD,
        )
        canvas = self.pen.image.new("RGB", size, _PAPER)
        canvas.paste(self.pen.image.fromarray(self._block), (self._left, self._top))
        draw = self.pen.draw.Draw(canvas)
        for points, ink in self._lines:
            draw.line([(self._left + x, self._top + y) for x, y in points], ink, 2)
        for (x, y), text, anchor, ink in self._notes:
            draw.text((self._left + x, self._top + y), text, ink, self.pen.font, anchor)
        for number, caption in enumerate(captions):
            draw.text((_PAD, under + _LINE * number), caption, _INK, self.pen.font)
        for number, line in enumerate(keys, start=len(captions)):
            for name, x, _ in line:
                y = under + _LINE * number
                draw.rectangle((x, y + 2, x + 10, y + 12), channels_of(name))
                draw.text((x + 14, y), short_formats(name), _INK, self.pen.font)
        pixels: Pixels = np.asarray(canvas, np.uint8)
        return pixels


def _formats(film: FilmStrip, plans: Sequence[int]) -> list[str]:
    """Those that plans use."""
    used = {number for plan in plans for column in film.plans[plan] for number in column}
    return [name for number, name in enumerate(film.formats) if number in used]


def _on_one_line(name: str) -> str:
    return "".join(own if own.isprintable() else "?" for own in name)


def _cell_names(page: _Page, film: FilmStrip, plan: int, wide: int) -> None:
    for column, numbers in enumerate(film.plans[plan]):
        for row, number in enumerate(numbers):
            name = short_formats(film.formats[number]) if number >= 0 else ""
            if name and page.pen.width(name) < wide:
                place = column * (wide + 1) + wide / 2, (row + 0.5) * page.step
                page.text(*place, name, "mm", _ink_on(channels_of(film.formats[number])))


def _draw_losses(page: _Page, losses: Sequence[float | None], wide: float) -> None:
    """A curve from the least to the largest, with gaps at what is not finite."""
    known = [own for own in losses if own is not None and math.isfinite(own)]
    least, most = min(known), max(known)
    base = -_LINE - _PAD
    pieces: list[list[tuple[float, float]]] = [[]]
    for at, loss in enumerate(losses):
        if loss is None:
            continue  # a row that says nothing of it
        if math.isfinite(loss):
            part = (loss - least) / (most - least) if most > least else 0.5
            pieces[-1].append(((at + 0.5) * wide, base - part * _CURVE))
        else:
            pieces.append([])
    for piece in filter(None, pieces):
        x, y = piece[-1]
        page.line([*piece, (x + 1, y)], _LOSS)  # one that stands alone is seen too
    page.text(-_PAD, base - _CURVE, f"loss {most:.4g}", "rm", _LOSS)
    if most > least:
        page.text(-_PAD, base, f"{least:.4g}", "rm", _LOSS)


def _draw_steps(page: _Page, steps: Sequence[int], wide: float, tall: int) -> None:
    """Below: the first and the last, and some between."""
    room = max(page.pen.width(str(step)) for step in steps) + 3 * _PAD
    every = math.ceil(room / wide)
    for at in [*range(0, len(steps) - every, every), len(steps) - 1]:
        page.text((at + 0.5) * wide, tall + 3, str(steps[at]), "ma")
    page.text(-room / 2 - _PAD, tall + 3, "step", "ra")


def _wrapped(pen: _Pen, names: Sequence[str], width: int) -> list[list[tuple[str, int, int]]]:
    """Lines of (format, place, width)."""
    lines: list[list[tuple[str, int, int]]] = [[]]
    x = _PAD
    for name in names:
        own = 14 + pen.width(short_formats(name)) + 2 * _PAD
        if lines[-1] and x + own > width:
            lines.append([])
            x = _PAD
        lines[-1].append((name, x, own))
        x += own
    return lines


def _ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = colour
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else _PAPER
