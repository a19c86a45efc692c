"""The plan that errs least at an average number of bits."""

import math
from dataclasses import dataclass, field

from precc.assignment.assigner import Assigner, Scored
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
        average_bits: of an operand, weighted by multiply-adds.

    Raises:
        PlanError: it is no positive number.

    >>> BitBudget(6, candidates=["e2m1", "e4m3", "bf16"]).average_bits
    6
    """

    average_bits: float = field(kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        bits = self.average_bits
        if not isinstance(bits, (int, float)) or isinstance(bits, bool) or not 0 < bits < math.inf:
            raise PlanError(f"average_bits is a positive number, not {bits!r}")

    @property
    def _budget(self) -> str:
        return f"{self.average_bits:g} bits on average"

    def _solve(self, assigner: Assigner) -> Scored:
        limits = best_uniform(assigner, formats_of_width(int(self.average_bits)))
        return assigner.priced(OperandBits.of).least(self.average_bits, limits)
