"""The ops of a net as rows of a report: formats and work, and what the slots of each say of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from precc.annotations import Operand, Product
from precc.plan import PrecisionPlan
from precc.report.layer_row import LayerRow
from precc.report.net_parts import NetParts
from precc.report.slot_row import SlotRow, rows_by_op
from precc.report.step_errors import StepErrors
from precc.slots import Role

__all__ = ["ROLES", "layer_rows"]

#: Of the columns of a table.
ROLES = (
    (Role.FPROP,),
    (Role.DGRAD, Role.DGRAD_A),
    (Role.WGRAD, Role.DGRAD_B),
)


def layer_rows(
    plan: PrecisionPlan,
    parts: NetParts,
    slots: Sequence[SlotRow],
    errors: StepErrors,
    costs: Mapping[str, float],
    reasons: Mapping[str, str],
) -> tuple[LayerRow, ...]:
    """One row a product, then one for each sum of two activations that is rounded where it is stored.

    Args:
        plan: in force.
        parts: of the net.
        slots: rows of its slots.
        errors: of the step that was analysed.
        costs: shares of each op, 0 to 1, where they are known.
        reasons: why, by op.
    """
    rows = [*_products(plan, parts), *_additions(plan, parts)]
    own = rows_by_op(slots)
    return tuple(
        replace(
            _with_values(row, own.get(row.name, ())),
            predicted=errors.predicted.get(row.name),
            measured=errors.measured.get(row.name),
            cost=costs.get(row.name),
            why=reasons.get(row.name, ""),
            place=parts.places.get(row.name),
        )
        for row in rows
    )


def _products(plan: PrecisionPlan, parts: NetParts) -> list[LayerRow]:
    work = parts.work
    total = sum(work.values())
    return [
        LayerRow(
            layer=_first(roles).operands[0].slot.layer,
            op=op.rpartition("/")[2],
            formats=_formats(roles, plan),
            multiply_adds=work[op],
            share=work[op] / total if total else 0.0,
        )
        for op, roles in parts.ops.items()
    ]


def _additions(plan: PrecisionPlan, parts: NetParts) -> list[LayerRow]:
    """The sums of two activations that are rounded where they are stored."""
    rounded = [(result.slot, result) for result in parts.additions if result.is_rounded(plan)]
    return [
        LayerRow(slot.layer, slot.op.rpartition("/")[2], (_stored(result, plan), "-", "-"), 0, 0.0)
        for slot, result in rounded
    ]


def _with_values(row: LayerRow, slots: Sequence[SlotRow]) -> LayerRow:
    """With what the slots of the op say of their values."""
    values = [own.values for own in slots if own.values is not None]
    conditions = [own.condition for own in slots if own.condition is not None and not math.isnan(own.condition)]
    return replace(
        row,
        amin=min((own.amin for own in values if own.amin > 0), default=None),
        amax=max((own.amax for own in values), default=None),
        condition=max(conditions, default=None),
    )


def _stored(result: Operand | None, plan: PrecisionPlan) -> str:
    rounded = result is not None and result.is_rounded(plan)
    return f"stored {plan.precision(result.slot.name)}" if result is not None and rounded else ""


def _first(roles: Mapping[Role, Product]) -> Product:
    return next(iter(roles.values()))


def _formats(roles: Mapping[Role, Product], plan: PrecisionPlan) -> tuple[str, str, str]:
    texts = []
    for column in ROLES:
        product = next((roles[role] for role in column if role in roles), None)
        texts.append("-" if product is None else _operand_formats(product, plan))
    return texts[0], texts[1], texts[2]


def _operand_formats(product: Product, plan: PrecisionPlan) -> str:
    own = {operand.slot.operand: str(operand.computed_in(plan)) for operand in product.operands}
    accumulator = product.sums(plan)
    said = ["" if accumulator is None else f"sums {accumulator}", _stored(product.result, plan)]
    sums = "".join(f", {own}" for own in said if own)
    if len(set(own.values())) == 1:
        return next(iter(own.values())) + sums
    return " x ".join(f"{operand} {precision}" for operand, precision in own.items()) + sums
