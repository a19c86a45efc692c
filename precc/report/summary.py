"""The first ten lines of a report, as data: what is printed and what the page shows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from precc.report.error_figures import ErrorFigures
from precc.report.extremes import Extreme, extremes_of, op_names
from precc.report.lines import plain, wrapped
from precc.slots import ACCUMULATOR

if TYPE_CHECKING:
    from precc.report.precision_report import PrecisionReport

__all__ = ["WIDTH", "Summary", "average_bits", "indent_of", "summary_lines", "summary_of"]

#: Of text that nobody gave a width for.
WIDTH = 100

#: How long names may be, from the longest; None: as they are.
_LIMITS = ((None, 0), (48, 0), (32, 0), (24, 32), (16, 32))

#: Columns before the text of a line, and before its second line where there are so many.
_INDENT, _ROOMY = 13, 60

#: Ops of equal cost that are named.
_EQUAL = 3

#: Names of ops by `LayerRow.name`, for each of the limits.
_Names = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Summary:
    """What is said first of a report.

    Args:
        title: name of the net.
        entries: pairs of a heading, such as ``predicted``, and a text; at most nine.
        worst: ops of the largest predicted errors.
        best: of the smallest, none of those.
        doubt: why the prediction of the whole is not sure; empty where it is, or there is none.
    """

    title: str
    entries: tuple[tuple[str, str], ...]
    worst: Extreme
    best: Extreme
    doubt: str = ""


def summary_of(report: "PrecisionReport", width: int = WIDTH) -> Summary:
    """Of a report without an analysis its size alone.

    Args:
        report: of a net.
        width: of a line, in which names are cut where they have no room.
    """
    entries = [("size", _size(report))]
    worst, best = extremes_of(report)
    known = report.step is not None or report.cost is not None
    names = [op_names(report.rows, limit, most) for limit, most in _LIMITS] if known else []
    step = report.step
    if step is not None:
        entries.append(("step", f"loss {step.loss:.4g}, gradient {step.gradient_norm:.4g}, {step.batch}"))
        remedy = ": measure it" * (step.measured is None)
        whole = "of the whole net: " * (report.part is not None)
        entries.append(("predicted", f"{whole}{_error(step.predicted, remedy)}"))
        if step.measured is not None:
            entries.append(("measured", f"{whole}{_error(step.measured)}, in {step.draws} draws"))
        found = (("worst", worst), ("best", best))
        entries += [(name, _extreme(own, names, width)) for name, own in found if own.rows]
        entries.append(("trust", _trust(report)))
    if report.cost is not None:
        entries.append(("cost", _cost(report, names, width)))
    if report.against is not None:
        entries.append(("against", _against(report, report.against)))
    doubt = "" if step is None or step.predicted is None else step.predicted.doubt
    return Summary(report.title, tuple(entries), worst, best, doubt)


def summary_lines(report: "PrecisionReport", width: int = WIDTH) -> list[str]:
    """At most ten lines; of a report without an analysis two."""
    found = summary_of(report, width)
    return [f"precision of {found.title}", *(f"  {name:<9}  {text}" for name, text in found.entries)]


def indent_of(width: int) -> str:
    """Of the second line of an entry."""
    return " " * (_INDENT if width >= _ROOMY else 4)


def _size(report: "PrecisionReport") -> str:
    ops = len({row.name for row in report.rows})
    bits = average_bits(report)
    count = f"{ops:,} op{'s' * (ops != 1)}" if report.part is None else f"{ops:,} of {report.part.ops:,} ops shown"
    said = [count, f"{sum(row.multiply_adds for row in report.rows):,} multiply-adds a step"]
    return ", ".join([*said, *([] if bits is None else [f"{bits:.3g} bits an operand"])])


def average_bits(report: "PrecisionReport") -> float | None:
    """Of the operands that are shown, weighted by multiply-adds; None if there are none."""
    operands = [row for row in report.slots if not row.slot.is_result and row.slot.operand != ACCUMULATOR]
    work = sum(row.multiply_adds for row in operands)
    return sum(row.bits * row.multiply_adds for row in operands) / work if work else None


def _error(own: ErrorFigures | None, remedy: str = "") -> str:
    if own is None:
        return "not known"
    error = own.standard_error or 0.0
    sure = f" (+- {100 * error:.2g}%)" if 0 < error < math.inf else ""
    partial = ", partial" if own.partial else ""
    unsure = f"; unsure, for {own.doubt}{remedy}" if own.doubt else ""
    return f"loss {own.loss_mean:+.1e} +- {own.loss:.1e}, gradient {own.gradient:.2%}{sure}{partial}{unsure}"


def _extreme(found: Extreme, every: _Names, width: int) -> str:
    def text(names: Mapping[str, str]) -> str:
        pairs = zip(found.rows, found.errors, strict=True)
        said = [f"{names[row.name]} {own.gradient:.2%}{'?' * bool(own.doubt)}" for row, own in pairs]
        return f"{', '.join(said)}; {found.share:.0%} of the squares"

    return _fitting(every, width, text)


def _fitting(names: _Names, width: int, text: Callable[[Mapping[str, str]], str]) -> str:
    """A text with the longest names with which it is no wider, and takes no more lines, than with shorter ones."""

    def size(own: str) -> tuple[int, int]:
        lines = plain(wrapped(" " * _INDENT + own, width, indent=indent_of(width))).splitlines()
        return max(width, *map(len, lines)), len(lines)

    return min(map(text, names), key=size)


def _trust(report: "PrecisionReport") -> str:
    step = report.step
    assert step is not None
    count = sum(own.count for own in step.calibration)
    groups = len(step.calibration)
    calibrated = (
        f"calibrated by {count} measurement{'s' * (count != 1)} of {groups} group{'s' * (groups != 1)}"
        if groups
        else "not calibrated"
    )
    if step.rank_correlation is not None:
        ranks = f"rank correlation with measured {step.rank_correlation:.2f}"
    elif step.measured is not None:
        ranks = "too few different errors for a rank correlation"
    else:
        ranks = "rank correlation not measured"
    return f"{calibrated}; {ranks}"


def _cost(report: "PrecisionReport", every: _Names, width: int) -> str:
    """What the step costs, and the ops with the largest part; several where they are alike."""
    assert report.cost is not None
    whole = f"{report.cost} by {report.cost.model.partition('(')[0]}{' of the whole net' * (report.part is not None)}"
    known = {row.name: row.cost for row in report.rows if row.cost is not None and row.cost == row.cost}
    if not known:
        return whole
    most = max(known.values())
    alike = [name for name, own in known.items() if math.isclose(own, most, rel_tol=1e-9)]
    more = f" and {len(alike) - _EQUAL:,} more" if len(alike) > _EQUAL else ""
    each = " in each of" if len(alike) > 1 else ""

    def text(names: Mapping[str, str]) -> str:
        return f"{whole}, {most:.0%} of it{each} {', '.join(names[name] for name in alike[:_EQUAL])}{more}"

    return _fitting(every, width, text)


def _against(report: "PrecisionReport", other: "PrecisionReport") -> str:
    """What is otherwise in the other report."""
    changes = len(other.plan.diff(report.plan))
    errors = [None if one.step is None else one.step.predicted for one in (other, report)]
    before, after = (None if own is None else own.gradient for own in errors)
    figures = "" if before is None or after is None else f", gradient {before:.2%} -> {after:.2%}"
    first, second = average_bits(other), average_bits(report)
    widths = "" if first is None or second is None else f", {first:.3g} -> {second:.3g} bits an operand"
    return f"{other.title}: {changes} change{'s' * (changes != 1)} of the plan{figures}{widths}"
