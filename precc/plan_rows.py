"""The rows of the live tensor that a graph reads under a plan."""

from collections.abc import Iterable

from precc.accumulation.rows import accumulator_row
from precc.annotations import Operand, Product
from precc.plan import PrecisionPlan
from precc.rounding import slot_number

__all__ = ["draws", "operand_row", "plan_rows"]


def plan_rows(products: Iterable[Product], results: Iterable[Operand], plan: PrecisionPlan) -> list[tuple[float, ...]]:
    """Those of the products of a graph, then those of the results that have slots."""
    rows = [row for product in products for row in _rows_of_product(product, plan)]
    return rows + [operand_row(result, plan) for result in results]


def _rows_of_product(product: Product, plan: PrecisionPlan) -> list[tuple[float, ...]]:
    """One for each operand, then that of the accumulator, if the product has a slot for one."""
    rows = [operand_row(operand, plan) for operand in product.operands]
    names = [slot.name for slot in product.accumulators]
    return rows + [accumulator_row(plan.accumulator(name), slot_number(name)) for name in names]


def operand_row(operand: Operand, plan: PrecisionPlan) -> tuple[float, ...]:
    """That of one operand, or of a result."""
    name = operand.slot.name
    precision = plan.precision(name)
    signs = slot_number(operand.slot.accumulator.name) & 0xFFFFFFFF  # the same for all operands
    axes = {"axis": operand.contracted, "channel": operand.channel}
    return precision.row(**axes, slot=slot_number(name), signs=signs).current.values


def draws(products: Iterable[Product], results: Iterable[Operand], plan: PrecisionPlan) -> bool:
    """Whether a plan has stochastic bits in a product or a result."""
    stored = any(plan.precision(result.slot.name).is_stochastic for result in results)
    return stored or any(_draws(product, plan) for product in products)


def _draws(product: Product, plan: PrecisionPlan) -> bool:
    accumulator = product.sums(plan)
    return (accumulator is not None and accumulator.is_stochastic) or any(
        plan.precision(operand.slot.name).is_stochastic for operand in product.operands
    )
