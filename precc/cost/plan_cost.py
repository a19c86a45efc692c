"""The cost of a plan, as a value."""

from dataclasses import dataclass

__all__ = ["PlanCost"]


@dataclass(frozen=True, slots=True)
class PlanCost:
    """What one step costs under a plan.

    Args:
        value: in units of the model.
        unit: such as ``"J"``.
        model: that says so.

    >>> print(PlanCost(2.5e9, "bit operations", "BitOps()"))
    2.5e+09 bit operations
    """

    value: float
    unit: str
    model: str

    def __str__(self) -> str:
        return f"{self.value:.4g} {self.unit}"
