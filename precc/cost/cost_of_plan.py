"""The cost of a plan, by a model."""

from dataclasses import replace

from precc.accumulation.sums import one_pass
from precc.cost.cost_model import CostModel, amount
from precc.cost.plan_cost import PlanCost
from precc.cost.work import ProductWork, StepWork
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import Slot

__all__ = ["cost_of"]


def cost_of(plan: PrecisionPlan, work: StepWork, model: CostModel) -> PlanCost:
    """The sum over products, sums, and copies of tensors: one in each precision that its readers have."""
    total = amount(model.constant(work), model) + sum(_product(plan, own, model) for own in work.products)
    for tensor in work.tensors:
        readers: dict[Precision, tuple[Slot, ...]] = {}
        for slot in tensor.slots:
            own = plan.precision(slot.name).kept_in(tensor.dtype)
            if tensor.holds(slot, own):
                readers[own] = (*readers.get(own, ()), slot)
        costs = (model.copy(replace(tensor, slots=slots), own) for own, slots in readers.items())
        total += sum(amount(own, model) for own in costs)
    return PlanCost(total, model.unit, repr(model))


def _product(plan: PrecisionPlan, work: ProductWork, model: CostModel) -> float:
    precisions = [plan.precision(slot.name) for slot in work.operands]
    products = (model.product(work, (a, b), precisions[a], precisions[b]) for a, b in work.pairs)
    sums = (model.sums(work, one_pass(plan.accumulator(name), "the cost")) for name in work.accumulators)
    return sum(amount(own, model) for own in (*products, *sums))
