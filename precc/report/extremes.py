"""The ops of a report that make the largest and the smallest errors, and their names in little room."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from precc.report.error_figures import ErrorFigures
from precc.report.layer_row import LayerRow
from precc.report.lines import printable
from precc.report.short_names import short_names

if TYPE_CHECKING:
    from precc.report.precision_report import PrecisionReport

__all__ = ["Extreme", "extremes_of", "op_names", "root_of_squares", "shares_of_squares"]

#: Ops that are named, worst and best.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Extreme:
    """Some ops and what they predict.

    Args:
        rows: the ops, the most extreme first; all have a prediction.
        share: of the squared errors of the gradient that all ops of the net make alone, 0 to 1.
    """

    rows: tuple[LayerRow, ...]
    share: float

    @property
    def errors(self) -> tuple[ErrorFigures, ...]:
        """Of the ops."""
        return tuple(row.predicted for row in self.rows if row.predicted is not None)


def extremes_of(report: "PrecisionReport") -> tuple[Extreme, Extreme]:
    """The worst and the best ops of those that are shown, up to three each, none of them twice."""
    errors = {row.name: row.predicted.gradient for row in report.rows if row.predicted is not None}
    shares = shares_of_squares(errors, None if report.part is None else report.part.error)
    known = {row.name: row for row in report.rows if row.predicted is not None}
    ordered = sorted(known, key=lambda name: -errors[name] if errors[name] == errors[name] else 0.0)
    worst = ordered[:_NAMED]
    best = ordered[max(len(worst), len(ordered) - _NAMED) :][::-1]
    first, second = (Extreme(tuple(known[op] for op in own), sum(shares[op] for op in own)) for own in (worst, best))
    return first, second


def root_of_squares(errors: Iterable[float]) -> float:
    """The root of their sum, for errors of any size."""
    return math.hypot(*errors)


def shares_of_squares(errors: Mapping[str, float], whole: float | None = None) -> dict[str, float]:
    """Of each error in the sum of squares, 0 to 1.

    Args:
        errors: by name.
        whole: root of the sum; None: of these.

    >>> shares_of_squares({"a": 1e200, "b": 0.0})
    {'a': 1.0, 'b': 0.0}
    """
    total = root_of_squares(errors.values()) if whole is None else whole
    parts = {name: own / total if total else 0.0 for name, own in errors.items()}
    return {name: own * own for name, own in parts.items()}


def op_names(rows: Sequence[LayerRow], limit: int | None, most: int = 0) -> dict[str, str]:
    """By name of the op: that of its layer where it has no other op; in at most so many characters, None: all."""
    ops = Counter(row.layer for row in rows)
    names = {row.name: row.layer if row.layer and ops[row.layer] == 1 else row.name for row in rows}
    short = {own: own for own in names.values()} if limit is None else short_names(names.values(), limit, most)
    return {name: printable(short[own]) for name, own in names.items()}
