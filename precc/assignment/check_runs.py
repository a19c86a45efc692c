"""Whether a target runs a plan that is made."""

from precc.cost.work import StepWork
from precc.errors import PlanError
from precc.plan import PrecisionPlan
from precc.target import Target

__all__ = ["check_runs"]


def check_runs(plan: PrecisionPlan, work: StepWork, target: Target) -> None:
    """Refuse a plan that a target does not run.

    Raises:
        PlanError: it does not; the message names the product.
    """
    for product in work.products:
        precisions = [plan.precision(slot.name) for slot in product.operands]
        for first, second in product.pairs:
            problem = target.product_problem(product, precisions[first], precisions[second])
            for name in product.accumulators:
                sums = plan.accumulator(name)
                problem = problem or target.accumulator_problem(sums, precisions[first], precisions[second])
            if problem:
                raise PlanError(f"{product.operands[0].op}/{product.role.value}: {problem}")
    for tensor in work.tensors:
        own = None if tensor.result is None else plan.precision(tensor.result.name)
        if own is not None and own.changes(tensor.dtype) and (problem := target.result_problem(own)):
            assert tensor.result is not None
            raise PlanError(f"{tensor.result.name}: {problem}")
