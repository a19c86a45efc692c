"""The plan that errs least at an average number of bits."""

from dataclasses import dataclass, field

from precc.assignment.assigner import Assigner, Scored
from precc.checks import require_number
from precc.cost.operand_bits import OperandBits
from precc.errors import PlanError
from precc.policies.budget_policy import BudgetPolicy
from precc.policies.uniform_errors import best_uniform, formats_of_width

__all__ = ["BitBudget"]


@dataclass(frozen=True, kw_only=True, repr=False)
class BitBudget(BudgetPolicy):
    """The plan with the smallest error whose `PrecisionPlan.average_bits` are no more than these.

    Of loss and gradient the larger error counts, each relative to that of the best uniform format of that width
    (rounded down, 4 to 32 bits), scaled if it has fewer than 16 bits.

    Args:
        average_bits: of an operand, weighted by multiply-adds; what rules decide counts.
        candidates, accumulators, share, inference, lost, solver: as in `precc.policies.budget_policy.BudgetPolicy`.

    Raises:
        PlanError: it is no positive number; or results are to be chosen, which average bits do not count.

    >>> BitBudget(6, candidates=["e2m1", "e4m3", "bf16"]).average_bits
    6
    """

    average_bits: float = field(kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self.average_bits, "average_bits")
        if self.results:
            raise PlanError("average bits are those of operands, and results cost none: ErrorBudget or CostBudget")

    @property
    def _budget(self) -> str:
        return f"{self.average_bits:g} bits on average"

    def _solve(self, assigner: Assigner) -> Scored:
        limits = best_uniform(assigner, formats_of_width(int(min(self.average_bits, 64))))
        return assigner.priced(OperandBits.of).least(self.average_bits, limits)
