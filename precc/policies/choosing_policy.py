"""What all policies that choose from an analysis, within rules, have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from precc.analysis.analysis import Analysis
from precc.assignment.candidates import CANDIDATES, parse_candidates
from precc.assignment.groups import Share
from precc.assignment.lagrangian import DEFAULT_SOLVER
from precc.assignment.solver import Solver
from precc.cost.cost_model import CostModel, DeviceCost
from precc.errors import AnalysisError, PlanError
from precc.formats import Format
from precc.policies.ruled_policy import RuledPolicy
from precc.precision import Precision
from precc.target import Target

__all__ = ["ChoosingPolicy", "checked_analysis", "checked_cost"]


@dataclass(frozen=True, kw_only=True)
class ChoosingPolicy(RuledPolicy):
    """Chooses among candidates what rules leave open: `assign` takes cost, target and rules.

    Args:
        candidates: precisions, formats, or their names; formats of fewer than 16 bits get one float32 scale a tensor
            (`precc.scaled`). Default: e2m1 e2m3 e3m2 e3m4 e4m3 e5m2 e4m5 e5m4 float16 bfloat16 float32.
        solver: of the problem of assignment.

    Raises:
        FormatError, PlanError: an option that makes no sense.
    """

    candidates: Sequence[Precision | Format | str] = CANDIDATES
    solver: Solver = DEFAULT_SOLVER

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", parse_candidates(self.candidates))
        if isinstance(self.solver, type) or not isinstance(self.solver, Solver):
            raise PlanError(f"solver has solve(problem) and least_error(problem, cost); {self.solver!r} has not")

    @property
    def _candidates(self) -> tuple[Precision, ...]:
        return parse_candidates(self.candidates)

    def __repr__(self) -> str:
        said = [_said(own.name, getattr(self, own.name)) for own in fields(self) if own.repr and self._differs(own)]
        return f"{type(self).__name__}({', '.join(said)})"

    def _differs(self, own: Any) -> bool:
        return bool(getattr(self, own.name) != own.default)


def _said(name: str, value: Any) -> str:
    if name == "candidates":
        return f"candidates={[str(own) for own in value]}"
    if name == "accumulators":
        return f"accumulators={[None if own is None else str(own) for own in value]}"
    if isinstance(value, Precision):
        return f"{name}={str(value)!r}"
    return f"{name}={value.value if isinstance(value, Share) else value!r}"


def checked_analysis(analysis: object | None, policy: object, *, gradient: bool = True) -> Analysis:
    """An analysis with products, and a gradient unless none is needed.

    Raises:
        AnalysisError: it is none.
    """
    if analysis is None:
        name = type(policy).__name__
        raise AnalysisError(
            f"{name} chooses from an analysis: net = precc.compile(model), then "
            f"net.set_plan({name}(...).assign(net.analyze(*inputs, loss=...)))"
        )
    if not isinstance(analysis, Analysis):
        raise AnalysisError(f"an analysis is what net.analyze returns, not {analysis!r:.60}")
    if not analysis.operands:
        raise AnalysisError(f"{analysis.title} has no products to choose precisions for")
    if gradient and not analysis.gradient_norm > 0:
        raise AnalysisError(f"the gradient of {analysis.title} is zero: errors relative to it say nothing")
    return analysis


def checked_cost(cost: object, target: Target) -> CostModel:
    """A cost model as it is.

    Raises:
        PlanError: it is none, or of another device than the target.
    """
    if isinstance(cost, type) or not isinstance(cost, CostModel):
        hint = "; an instance is needed" if isinstance(cost, type) else ""
        raise PlanError(f"{cost!r:.60} is no cost model, which has product, sums, copy and constant{hint}")
    if isinstance(cost, DeviceCost) and (problem := cost.target_problem(target)):
        raise PlanError(problem)
    return cost
