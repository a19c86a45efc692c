"""The rows of the live tensor that products read under a plan."""

from precc.accumulation.rows import accumulator_row
from precc.annotations import Operand, Product
from precc.plan import PrecisionPlan
from precc.rounding import slot_number

__all__ = ["draws", "rows_of_product"]


def rows_of_product(product: Product, plan: PrecisionPlan) -> list[tuple[float, ...]]:
    """One for each operand, then that of the accumulator, if the product has a slot for one."""
    rows = [_operand_row(operand, plan) for operand in product.operands]
    names = [slot.name for slot in product.accumulators]
    return rows + [accumulator_row(plan.accumulator(name), slot_number(name)) for name in names]


def _operand_row(operand: Operand, plan: PrecisionPlan) -> tuple[float, ...]:
    name = operand.slot.name
    precision = plan.precision(name)
    signs = slot_number(operand.slot.accumulator.name) & 0xFFFFFFFF  # the same for all operands
    axes = {"axis": operand.contracted, "channel": operand.channel}
    return precision.row(**axes, slot=slot_number(name), signs=signs).current.values


def draws(product: Product, plan: PrecisionPlan) -> bool:
    """Whether a plan has stochastic bits in a product."""
    accumulator = product.sums(plan)
    return (accumulator is not None and accumulator.is_stochastic) or any(
        plan.precision(operand.slot.name).is_stochastic for operand in product.operands
    )
