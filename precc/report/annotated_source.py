"""The source of a model with the formats beside each line that computes an op."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from precc.report.layer_row import LayerRow
from precc.report.short_names import short_formats, without_scalings
from precc.report.source_listing import SourceListing

if TYPE_CHECKING:
    from precc.report.precision_report import PrecisionReport

__all__ = ["annotated_source"]

#: Rows by name, with their formats.
_Rows = Mapping[str, tuple[LayerRow, str]]

#: Formats begin at most here, as a share of the width.
_CODE = 0.55

#: Lines of a function from which on it is not shown whole, but so many around each that has formats.
_LONG, _AROUND = 40, 3

#: Where formats begin if no line is short enough.
_LEAST = 30

#: Formats that are listed where the ops of one line differ.
_LISTED = 4


def annotated_source(report: "PrecisionReport", width: int) -> str:
    """Each function, with formats of fprop | dgrad | wgrad behind a ``#``, below the line where there is no room."""
    texts, stars = without_scalings(short_formats(text) for row in report.rows for text in row.formats)
    rows = {row.name: (row, _together([texts[short_formats(own)] for own in row.formats])) for row in report.rows}
    parts = [_listing(listing, rows, width) for listing in report.source]
    if not parts:
        return "no line of the model is known to compute an op: call the net, whose source is read then"
    nowhere = [row.name for row in report.rows if row.name not in _listed(report.source)]
    named = f"{', '.join(nowhere[:_LISTED])}{', ...' if len(nowhere) > _LISTED else ''}"
    rest = [f"{len(nowhere)} ops have no line of yours: {named}"] * bool(nowhere)
    return "\n\n".join(["; ".join(["# op: fprop | dgrad | wgrad, once where they are alike", *stars]), *parts, *rest])


def _together(formats: Sequence[str]) -> str:
    return formats[0] if len(set(formats)) == 1 else " | ".join(formats)


def _listed(source: Sequence[SourceListing]) -> set[str]:
    return {op for listing in source for line in listing.lines for op in line.ops}


def _listing(listing: SourceListing, rows: _Rows, width: int) -> str:
    digits = len(str(listing.lines[-1].number))
    codes = [f"{line.number:>{digits}}  {line.text}".rstrip() for line in listing.lines]
    marked = [len(code) for code, line in zip(codes, listing.lines, strict=True) if line.ops]
    column = max((own for own in marked if own <= width * _CODE), default=_LEAST) + 2
    found = [f"{listing.name or 'lines'} ({listing.file})"]
    near = {at + off for at, line in enumerate(listing.lines) if line.ops for off in range(-_AROUND, _AROUND + 1)}
    left_out = 0
    for at, (code, line) in enumerate(zip(codes, listing.lines, strict=True)):
        if len(codes) > _LONG and at and at not in near:
            left_out += 1
            continue
        found += _left_out(left_out, digits)
        left_out = 0
        found += _annotated(code, [rows[op] for op in line.ops if op in rows], column, width)
    return "\n".join([*found, *_left_out(left_out, digits)])


def _left_out(lines: int, digits: int) -> list[str]:
    return [f"{'':>{digits}}  … {lines} line{'s' * (lines != 1)}"] * bool(lines)


def _annotated(code: str, ops: Sequence[tuple[LayerRow, str]], column: int, width: int) -> list[str]:
    """One line of code, with what it computes in behind it or below."""
    lines = [code]
    for k, text in enumerate(_said(ops)):
        place = max(column, len(code) + 2) if k == 0 else column
        if place + 2 + len(text) > width or (k and len(lines) == 1):
            indent = " " * max(4, min(column, width - len(text) - 2))
            lines += textwrap.wrap(text, width, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        elif k == 0:
            lines[0] = f"{code:<{place}}# {text}"
        else:
            lines.append(f"{'':<{place}}# {text}")
    return lines


def _said(ops: Sequence[tuple[LayerRow, str]]) -> list[str]:
    """One text for each choice of formats: which ops have it."""
    choices = Counter(formats for _, formats in ops)
    if len(ops) <= 1:
        return [f"{row.name.removesuffix('/product')}: {formats}" for row, formats in ops]
    if len(choices) == 1:
        return [f"{len(ops)} ops: {ops[0][1]}"]
    common = choices.most_common(_LISTED)
    lines = [f"{count} of {len(ops)} ops: {formats}" for formats, count in common]
    return lines + [f"and {len(choices) - len(common)} other choices"] * (len(choices) > len(common))
