"""The cost of a plan, by a model: of the whole step, and the part of each op."""

from collections.abc import Iterator
from dataclasses import replace

from precc.accumulation.sums import one_pass
from precc.cost.cost_model import CostModel, amount
from precc.cost.plan_cost import PlanCost
from precc.cost.work import ProductWork, StepWork, TensorWork
from precc.plan import PrecisionPlan
from precc.precision import Precision
from precc.slots import Slot

__all__ = ["cost_by_op", "cost_of"]


def cost_of(plan: PrecisionPlan, work: StepWork, model: CostModel) -> PlanCost:
    """The sum over products, sums, and copies of tensors: one in each precision that its readers have."""
    total = amount(model.constant(work), model) + sum(cost for _, cost in _parts(plan, work, model))
    return PlanCost(total, model.unit, repr(model))


def cost_by_op(plan: PrecisionPlan, work: StepWork, model: CostModel) -> dict[str, float]:
    """The part of each op, by its name: with what no plan changes, they add up to the cost of the plan.

    A copy of a tensor that several ops read is part of the first one.
    """
    found: dict[str, float] = {}
    for op, cost in _parts(plan, work, model):
        found[op] = found.get(op, 0.0) + cost
    return found


def _parts(plan: PrecisionPlan, work: StepWork, model: CostModel) -> Iterator[tuple[str, float]]:
    """Costs with the op that they are of."""
    for own in work.products:
        yield own.operands[0].op, _product(plan, own, model)
    for tensor in work.tensors:
        for slots, precision in _copies(plan, tensor):
            yield slots[0].op, amount(model.copy(replace(tensor, slots=slots), precision), model)


def _copies(plan: PrecisionPlan, tensor: TensorWork) -> list[tuple[tuple[Slot, ...], Precision]]:
    """The slots that read one copy of a tensor, and its precision."""
    readers: dict[Precision, tuple[Slot, ...]] = {}
    for slot in tensor.slots:
        own = plan.precision(slot.name).kept_in(tensor.dtype)
        if tensor.holds(slot, own):
            readers[own] = (*readers.get(own, ()), slot)
    return [(slots, own) for own, slots in readers.items()]


def _product(plan: PrecisionPlan, work: ProductWork, model: CostModel) -> float:
    precisions = [plan.precision(slot.name) for slot in work.operands]
    products = (model.product(work, (a, b), precisions[a], precisions[b]) for a, b in work.pairs)
    sums = (model.sums(work, one_pass(plan.accumulator(name), "the cost")) for name in work.accumulators)
    return sum(amount(own, model) for own in (*products, *sums))
