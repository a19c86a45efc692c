"""Policies that know the rules over their plan."""

from collections.abc import Sequence

from precc.cost.cost_model import CostModel
from precc.plan import PrecisionPlan
from precc.rule import Rule
from precc.target import Target

__all__ = ["RuledPolicy"]


class RuledPolicy:
    """What `FirstLastHigh` composes with by rules: an `assign` that takes cost, target and rules."""

    def assign(
        self,
        analysis: object | None = None,
        *,
        cost: CostModel | None = None,
        target: Target | str = "cpu-emulated",
        rules: Sequence[Rule] = (),
    ) -> PrecisionPlan:
        """The plan, under rules that hold over it; with its ``predicted_error`` and ``cost``, where they are known."""
        raise NotImplementedError
