"""A film strip and the formats of one plan as pictures: ops from top to bottom, a colour a format."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from precc.report.film_strip import FilmStrip
from precc.report.page.colours import bits_of, colour_of
from precc.tracking.sink import Pixels

__all__ = ["channels_of", "film_picture", "frames_shown", "legend", "map_picture"]

_NOTHING = (238, 238, 238)  # an op has no such slot, or the plan of a row is not known
_GAP = (255, 255, 255)
_WIDEST = 1000  # pixels of a film
_FILM_LINE = 8  # pixels of a line of a film, at most, unless an op has few

#: Pixels: maps and films are scaled up towards these heights, one cell at most to that; a film to that width at least.
_MAP_HEIGHT, _FILM_HEIGHT, _LARGEST, _LEAST_WIDE = 1500, 960, 24, 480


def film_picture(film: FilmStrip) -> Pixels | None:
    """Rows of the history from left to right; of each op a band with a line for each of the film's columns.

    Where there are more rows than pixels, each pixel is the last of those it stands for. None: nothing to show.
    """
    if not film.frames or not film.ops:
        return None
    shown = frames_shown(len(film.frames))
    width = len(shown)
    lines = _cells(film).reshape(-1, len(film.ops) * len(film.columns))
    unknown = np.full((1, lines.shape[1]), -1)
    numbers = np.concatenate([lines, unknown])[np.asarray(film.frames)[shown]].T
    bands = numbers.reshape(len(film.ops), len(film.columns), width)
    tall = min(_scale(len(film.ops) * len(film.columns), _FILM_HEIGHT), max(_LARGEST // len(film.columns), _FILM_LINE))
    wide = max(1, min(max(_LARGEST, _LEAST_WIDE // width), _WIDEST // width))
    return _stacked([_scaled(band, film.formats, tall, wide) for band in bands], axis=0)


def frames_shown(frames: int) -> list[int]:
    """Which of the frames of a film a picture shows."""
    width = min(frames, _WIDEST)
    return [position * frames // width - 1 for position in range(1, width + 1)]


def map_picture(film: FilmStrip, plan: int = -1, wide: int = _LARGEST) -> Pixels | None:
    """One plan of a film: a cell for each op, from top to bottom, and column, so wide. None: nothing to show."""
    if not film.plans or not film.ops:
        return None
    cells = _cells(film)[plan]
    size = _scale(len(film.ops), _MAP_HEIGHT)
    rows = [[_scaled(cell[None, None], film.formats, size, wide) for cell in row] for row in cells]
    return _stacked([_stacked(row, axis=1) for row in rows], axis=0)


def legend(films: Sequence[FilmStrip]) -> str:
    """What pictures of one net show, as Markdown: colours by format, then columns and ops in their order."""
    formats = dict.fromkeys(name for film in films for name in film.formats)
    table = ["| format | colour |", "|---|---|", *(f"| {name} | {_colour(name)} |" for name in formats)]
    ops = [f"{number}. {op}" for number, op in enumerate(films[0].ops, start=1)]
    return "\n".join([*table, "", f"columns: {', '.join(films[0].columns)}", "", "rows, from the top:", "", *ops])


def _cells(film: FilmStrip) -> NDArray[np.int64]:
    """[plans, ops, columns] numbers of formats."""
    return np.asarray(film.plans, np.int64).reshape(-1, len(film.columns), len(film.ops)).transpose(0, 2, 1)


def _scaled(numbers: NDArray[np.int64], formats: Sequence[str], tall: int, wide: int) -> Pixels:
    """In colours, each cell `tall` times `wide` pixels."""
    palette = np.array([*map(channels_of, formats), _NOTHING], np.uint8)  # -1 is the last
    coloured: Pixels = palette[numbers].repeat(tall, 0).repeat(wide, 1)
    return coloured


def _stacked(parts: Sequence[Pixels], axis: int) -> Pixels:
    """One after the other, a gap behind each but the last."""
    shape = [*parts[0].shape]
    shape[axis] = 1
    gap = np.broadcast_to(np.array(_GAP, np.uint8), shape)
    return np.concatenate([own for part in parts for own in (part, gap)][:-1], axis)


def _scale(lines: int, height: int) -> int:
    return max(1, min(_LARGEST, height // lines))


def _colour(name: str) -> str:
    bits = bits_of(name)
    return colour_of(name, 16.0 if bits is None else bits)  # of a format of the user's own


def channels_of(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a format, 0 to 255."""
    own = _colour(name)
    return int(own[1:3], 16), int(own[3:5], 16), int(own[5:7], 16)
