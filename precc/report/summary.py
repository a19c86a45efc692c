"""The first ten lines of a report."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from precc.report.error_figures import ErrorFigures
from precc.report.layer_row import LayerRow
from precc.report.lines import printable
from precc.report.short_names import short_names

if TYPE_CHECKING:
    from precc.report.precision_report import PrecisionReport

__all__ = ["average_bits", "ordered_by_error", "summary_lines"]

#: Ops that are named, worst and best, and how long their names may be.
_NAMED, _USUAL, _LONGEST = 3, 16, 32


def summary_lines(report: "PrecisionReport") -> list[str]:
    """At most ten lines; of a report without an analysis two."""
    lines = [f"precision of {report.title}", f"  size       {_size(report)}"]
    step = report.step
    if step is not None:
        lines.append(f"  step       loss {step.loss:.4g}, gradient {step.gradient_norm:.4g}, {step.batch}")
        lines.append(f"  predicted  {_error(step.predicted)}")
        if step.measured is not None:
            lines.append(f"  measured   {_error(step.measured)}, in {step.draws} draws")
        lines += _extremes(report.rows)
        lines.append(f"  trust      {_trust(report)}")
    if report.cost is not None:
        lines.append(f"  cost       {_cost(report)}")
    if report.against is not None:
        lines.append(f"  against    {_against(report, report.against)}")
    return lines


def _size(report: "PrecisionReport") -> str:
    ops = len({row.name for row in report.rows})
    bits = average_bits(report)
    said = [f"{ops:,} op{'s' * (ops != 1)}", f"{sum(row.multiply_adds for row in report.rows):,} multiply-adds a step"]
    return ", ".join([*said, *([] if bits is None else [f"{bits:.3g} bits an operand"])])


def average_bits(report: "PrecisionReport") -> float | None:
    """Of the operands that are shown, weighted by multiply-adds; None if there are none."""
    operands = [row for row in report.slots if not row.slot.is_result and row.slot.operand != "accumulator"]
    work = sum(row.multiply_adds for row in operands)
    return sum(row.bits * row.multiply_adds for row in operands) / work if work else None


def _error(own: ErrorFigures | None) -> str:
    if own is None:
        return "not known"
    partial = ", partial" if own.partial else ""
    return f"loss {own.loss_mean:+.1e} +- {own.loss:.1e}, gradient {own.gradient:.2%}{partial}"


def ordered_by_error(rows: Sequence[LayerRow]) -> list[tuple[LayerRow, float]]:
    """Ops whose error is predicted, the largest first, with their shares of the squared errors of the gradient."""
    known = [(row, row.predicted.gradient) for row in rows if row.predicted is not None]
    total = sum(own**2 for _, own in known)
    ordered = sorted(known, key=lambda own: -own[1] if own[1] == own[1] else 0.0)
    return [(row, own**2 / total if total else 0.0) for row, own in ordered]


def _extremes(rows: Sequence[LayerRow]) -> list[str]:
    """The worst and the best ops, none of them twice."""
    ordered = ordered_by_error(rows)
    worst = ordered[:_NAMED]
    best = ordered[max(len(worst), len(ordered) - _NAMED) :][::-1]
    names = _names(rows)
    lines = []
    for name, own in (("worst", worst), ("best", best)):
        said = [f"{names[row.name]} {row.predicted.gradient:.2%}" for row, _ in own if row.predicted is not None]
        lines += [f"  {name:<9}  {', '.join(said)}; {sum(share for _, share in own):.0%} of the squares"] * bool(said)
    return lines


def _names(rows: Sequence[LayerRow]) -> dict[str, str]:
    """By name of the op: in short, that of the layer where it has no other op."""
    ops = Counter(row.layer for row in rows)
    names = {row.name: row.layer if row.layer and ops[row.layer] == 1 else row.name for row in rows}
    short = short_names(names.values(), _USUAL, _LONGEST)
    return {name: printable(short[own]) for name, own in names.items()}


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


def _cost(report: "PrecisionReport") -> str:
    largest = max((row for row in report.rows if row.cost is not None), key=lambda row: row.cost or 0.0, default=None)
    name = "" if largest is None else _names(report.rows)[largest.name]
    most = "" if largest is None or largest.cost is None else f", {largest.cost:.0%} of it {name}"
    assert report.cost is not None
    return f"{report.cost} by {report.cost.model.partition('(')[0]}{most}"


def _against(report: "PrecisionReport", other: "PrecisionReport") -> str:
    """What is otherwise in the other report."""
    changes = len(other.plan.diff(report.plan))
    errors = [None if one.step is None else one.step.predicted for one in (other, report)]
    before, after = (None if own is None else own.gradient for own in errors)
    figures = "" if before is None or after is None else f", gradient {before:.2%} -> {after:.2%}"
    first, second = average_bits(other), average_bits(report)
    widths = "" if first is None or second is None else f", {first:.3g} -> {second:.3g} bits an operand"
    return f"{other.title}: {changes} change{'s' * (changes != 1)} of the plan{figures}{widths}"
