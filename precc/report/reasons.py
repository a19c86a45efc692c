"""Why an op has the formats that it has, in a clause."""

from collections.abc import Mapping, Sequence

from precc.first_match import first_match
from precc.plan import PrecisionPlan
from precc.report.error_figures import ErrorFigures
from precc.report.extremes import shares_of_squares
from precc.report.net_parts import NetParts
from precc.report.short_names import short_formats
from precc.report.slot_row import SlotRow, rows_by_op

__all__ = ["reasons"]

#: Shares of values that are lost, above which it is said.
_LOST = 1e-3

#: The smallest share of the squared error of the gradient that is worth a word.
_LARGE = 0.25


def reasons(
    plan: PrecisionPlan, parts: NetParts, slots: Sequence[SlotRow], predicted: Mapping[str, ErrorFigures]
) -> dict[str, str]:
    """By op: what its formats rest on, and what is the matter with them: values that are lost, a large error.

    Args:
        plan: in force.
        parts: of the net.
        slots: rows of its slots.
        predicted: errors of ops that alone round.
    """
    shares = shares_of_squares({op: predicted[op].gradient for op in parts.ops if op in predicted})
    found = {}
    for op, rows in rows_by_op(slots).items():
        said = [_basis(plan, rows), _lost(rows), _large(op, shares)]
        found[op] = "; ".join(clause for clause in said if clause)
    return found


def _basis(plan: PrecisionPlan, rows: Sequence[SlotRow]) -> str:
    """What decided: rules, names in the plan, the policy behind it, or its default."""
    decided = first_match(plan.rules)
    ruled = {position for row in rows if (position := decided.position(row.name)) is not None}
    if ruled:
        paths = ", ".join(sorted({repr(plan.rules[position].path) for position in ruled}))
        part = "" if all(decided.position(row.name) is not None for row in rows) else " in part"
        return f"rule{'s' * (len(ruled) > 1)} {paths}{part}"
    if not any(row.rounded for row in rows):
        return "not rounded"
    named = [row for row in rows if row.name in plan.slots or row.name in plan.accumulators]
    policy = plan.provenance.policy.partition("(")[0]
    if policy:
        budget = f", {plan.provenance.budget}" if plan.provenance.budget else ""
        return f"policy {policy}{budget}"
    if not named:
        return "default of the plan"
    return "named in the plan" if len(named) == len(rows) else "named in the plan in part"


def _lost(rows: Sequence[SlotRow]) -> str:
    """The slot that loses the largest share of its values."""
    lost = [
        (share, what, row)
        for row in rows
        if row.values is not None
        for what, share in (("underflow", row.values.underflow), ("overflow", row.values.overflow))
        if share is not None and share > _LOST
    ]
    if not lost:
        return ""
    share, what, row = max(lost, key=lambda own: own[0])
    return f"range: {share:.1%} {what} in {short_formats(row.format)} ({row.slot.role.value}.{row.slot.operand})"


def _large(op: str, shares: Mapping[str, float]) -> str:
    own = shares.get(op, 0.0)
    if not own >= _LARGE:
        return ""
    most = "largest share" if own == max(shares.values()) else "large share"
    return f"{most} of the error ({own:.0%})"
