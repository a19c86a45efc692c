"""The codes of one copy in a cast, stored one by one or two a byte."""

from precc.backends.triton.emit.codes import code_text
from precc.backends.triton.templates.cast_places import address_of, named_dims
from precc.backends.triton.templates.cast_text import CastText
from precc.backends.triton.templates.lines import Lines

__all__ = ["store_codes"]


def store_codes(lines: Lines, cast: CastText, number: int, shared: int) -> None:
    """Lines that store the codes of a copy, from the rounded values of another that are the same."""
    copy, layout = cast.copies[number], cast.packs[number]
    assert layout is not None
    codes = code_text(copy.row, cast.dtype)
    lines.call(codes.encoder)
    if not lines.has(f"code{shared}"):
        lines.add(f"code{shared} = {codes.encode.format(f'y{shared}')}")
    if layout.storage == 4:
        _store_pairs(lines, cast, number, shared)
        return
    kind = {8: "u8", 16: "i16", 32: "i32", 64: "i64"}[layout.storage]
    stored = {8: "tl.uint8", 16: "tl.int16", 32: "tl.int32", 64: "tl.int64"}[layout.storage]
    pointer = lines.argument(f"code{number}_ptr", f"*{kind}")
    address = address_of(lines, f"code{number}", cast.places[number][0])
    lines.add(f"tl.store({pointer} + {address}, code{shared}.to({stored}), mask=inside)")


def _store_pairs(lines: Lines, cast: CastText, n: int, m: int) -> None:
    """Two codes a byte, the lower half first, along the dimension in which codes are consecutive."""
    place = cast.places[n][0]
    by_row = cast.view.rows.strides[place] == 1 and cast.view.rows.size > 1
    name, parameter = ("row", lines.rows) if by_row else ("column", "COLUMNS")
    shape = f"[COLUMNS, {lines.rows} // 2, 2]" if by_row else f"[{lines.rows}, COLUMNS // 2, 2]"
    pairs = "tl.reshape(tl.trans({}), " if by_row else "tl.reshape({}, "
    pointer = lines.argument(f"code{n}_ptr", "*u8")
    lines.add(
        f"low{n}, high{n} = tl.split({pairs.format(f'code{m}')}{shape}))",
        f"inside{n}, _ = tl.split({pairs.format('inside.to(tl.int32)')}{shape}))",
        f"{name}{n}, _ = tl.split(tl.reshape({name}, [{parameter} // 2, 2]))",
    )
    address = _half_address(lines, cast, n, name, by_row)
    lines.add(f"tl.store({pointer} + {address}, (low{n} | (high{n} << 4)).to(tl.uint8), mask=inside{n} != 0)")


def _half_address(lines: Lines, cast: CastText, n: int, paired: str, by_row: bool) -> str:
    """The offsets of bytes; two elements along the dimension of pairs share one."""
    place = cast.places[n][0]
    across = {"row": "[None, :]", "column": "[:, None]"} if by_row else {"row": "[:, None]", "column": "[None, :]"}
    terms = []
    for name, dim in named_dims(cast.view):
        if not dim.strides[place] or dim.size == 1:
            continue
        if name == paired:
            terms.append(f"({name}{n} // 2){across[name]}")
        else:
            stride = lines.argument(f"code{n}_{name}", lines.integer)
            terms.append(f"{name}{across.get(name, '')} * {stride}")
    return " + ".join(terms)
