"""The named formats as a table."""

from precc.formats import (
    ALIASES,
    FAMILIES,
    FORMATS,
    BlockFormat,
    FixedPoint,
    FloatFormat,
    Format,
)

__all__ = ["format_table"]

_COLUMNS = ("name", "short", "bits", "u", "lowest", "max", "min normal", "subnormals", "finite codes")


def format_table() -> str:
    """The named formats and families as text: bits, unit roundoff, range, range of the subnormals, codes.

    For fixed point, whose error is absolute, u is half the quantum. A block format has the columns of its elements.
    """
    short: dict[str, list[str]] = {}
    for alias, name in ALIASES.items():
        short.setdefault(name, []).append(alias)
    rows = [_COLUMNS, *((fmt.name, " ".join(short.get(fmt.name, [])), *_facts(fmt)) for fmt in FORMATS.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [_line(row, widths) for row in rows]
    lines += ["", "families, with numbers in their names:"]
    width = max(len(name) for name in FAMILIES)
    lines += [f"  {name:<{width}}  {meaning}" for name, (meaning, _, _) in FAMILIES.items()]
    return "\n".join(lines)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    left = [f"{text:<{width}}" for text, width in zip(row[:2], widths[:2], strict=True)]
    right = [f"{text:>{width}}" for text, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join([*left, *right])


def _facts(fmt: Format) -> tuple[str, ...]:
    if isinstance(fmt, BlockFormat):
        return (f"{fmt.bits:g}", *_facts(fmt.element)[1:])
    ends = (f"{fmt.low:.5g}", f"{fmt.max:.5g}")
    if isinstance(fmt, FloatFormat):
        subnormals = fmt.mantissa_bits > 0 and fmt.subnormals
        # below the smallest normal number: from the smallest to the largest
        largest = fmt.smallest_normal - fmt.smallest_subnormal
        below = f"{fmt.smallest_subnormal:.3g} to {largest:.3g}" if subnormals else "-"
        return (
            str(fmt.bits),
            f"{fmt.unit_roundoff:.3g}",
            *ends,
            f"{fmt.smallest_normal:.4g}",
            below,
            _count(fmt.finite_codes),
        )
    half_quantum = f"{fmt.quantum / 2:.3g}" if isinstance(fmt, FixedPoint) else "-"
    return (str(fmt.bits), half_quantum, *ends, "-", "-", _count(2**fmt.bits))


def _count(codes: int) -> str:
    exponent = codes.bit_length() - 1
    return str(codes) if codes < 10**6 else f"2**{exponent}" if codes == 2**exponent else f"{codes:.3e}"
