"""All good plans at once: the least error at each cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from precc.analysis.analysis import Analysis
from precc.assignment.assigner import Assigner, Scored
from precc.assignment.limits import Limits
from precc.cost.cost_model import CostModel
from precc.errors import PlanError
from precc.plan import PrecisionPlan
from precc.policies.budget_policy import BudgetPolicy
from precc.policies.uniform_errors import best_uniform, formats_of_width
from precc.provenance import Provenance
from precc.rule import Rule
from precc.target import Target

__all__ = ["Front", "pareto"]

#: Bits of the uniform formats whose errors weigh loss and gradient against each other.
_WIDTH = 8


@dataclass(frozen=True, kw_only=True, repr=False)
class Front(BudgetPolicy):
    """What `pareto` may choose from: the arguments of every policy with a budget."""

    def _solve(self, assigner: Assigner) -> Scored:
        raise PlanError("a front is many plans: precc.pareto(analysis, options=precc.Front(...))")

    def plans(self, assigner: Assigner, points: int) -> list[PrecisionPlan]:
        """As `pareto`."""
        limits = best_uniform(assigner, formats_of_width(_WIDTH))
        found = assigner.front(points, limits)
        digest = assigner.analysis.digest
        return [
            replace(own.plan, provenance=Provenance(repr(self), _budget(found, k, limits), digest, own.error, own.cost))
            for k, own in enumerate(found)
        ]


def pareto(
    analysis: Analysis,
    *,
    cost: CostModel | None = None,
    target: Target | str = "cpu-emulated",
    rules: Sequence[Rule] = (),
    points: int = 24,
    options: Front | None = None,
) -> list[PrecisionPlan]:
    """Plans of which none is both cheaper and finer than another, from the cheapest to the finest one.

    Of loss and gradient the larger error counts, each relative to that of the best uniform format of 8 bits. The
    ``budget`` in a plan's provenance says what 1% more cost would buy there, from this plan to the next.

    Args:
        analysis: of a step.
        cost: model, as in ``ErrorBudget.assign``.
        target: that runs the plans, likewise.
        rules: that hold over them, likewise.
        points: costs that are tried, from that of the cheapest to that of the finest plan.
        options: candidates and the like, ``precc.Front(candidates=[...])``.

    Raises:
        AnalysisError, InfeasibleError, PlanError: as a policy's ``assign``.
    """
    if type(points) is not int or points < 2:
        raise PlanError(f"points is a whole number of at least 2, not {points!r}")
    own = options or Front()
    return own.plans(own.assigner(analysis, cost=cost, target=target, rules=rules), points)


def _budget(found: list[Scored], k: int, limits: Limits) -> str:
    """Where on the front a plan is, and its shadow price."""
    if k + 1 == len(found):
        return "front: the finest plan"
    here, there = found[k], found[k + 1]
    gain = math.log(limits.share_of(here.errors) / max(limits.share_of(there.errors), 1e-300)) / 2  # of squares
    price = math.log(there.cost.value / here.cost.value) if here.cost.value else math.inf
    less = 1 - 1.01 ** -(gain / price) if price else 0.0
    return f"front: 1% more cost, {100 * less:.3g}% less error" if price else "front"
