"""The rule of thumb: the first and the last layer in high precision."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import escape

from precc.analysis.analysis import Analysis
from precc.assignment.check_runs import check_runs
from precc.assignment.step_work import step_work
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_of
from precc.errors import PlanError
from precc.formats import Format, parse_format
from precc.plan import PrecisionPlan
from precc.policies.choosing_policy import checked_analysis, checked_cost
from precc.policies.ruled_policy import RuledPolicy
from precc.policy import Policy, assigned, parse_policy
from precc.rule import Rule, parse_rules
from precc.slots import Role
from precc.target import Target, parse_target

__all__ = ["FirstLastHigh"]


@dataclass(frozen=True, repr=False)
class FirstLastHigh(RuledPolicy):
    """Another policy's plan, with the first and the last products of the forward, and their gradients, in a high
    format.

    It is composed by rules, so that a policy that chooses from the analysis knows what they decide; rules that `assign`
    is given come before them.

    Args:
        policy: for all other slots: a policy, a format or its name.
        high: the format.
        first, last: how many products.

    Raises:
        FormatError, PlanError: what is no policy, format or number of products.

    >>> FirstLastHigh("e4m3").high.name
    'bfloat16'
    """

    policy: Policy | Format | str
    high: Format | str = "bfloat16"
    first: int = 1
    last: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", parse_policy(self.policy))
        object.__setattr__(self, "high", parse_format(self.high))
        for name in ("first", "last"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise PlanError(f"{name} is a number of products, 0 or more, not {getattr(self, name)!r}")

    def __repr__(self) -> str:
        high = parse_format(self.high).name
        return f"FirstLastHigh({self.policy!r}, {high!r}, first={self.first}, last={self.last})"

    def assign(
        self,
        analysis: object | None = None,
        *,
        cost: CostModel | None = None,
        target: Target | str = "cpu-emulated",
        rules: Sequence[Rule] = (),
    ) -> PrecisionPlan:
        """The plan; of a policy that chooses from nothing it has a cost if a model is given, and no predicted error.

        Raises:
            AnalysisError: there is no analysis, which knows the order of the products.
            PlanError: as the policy's own; or the target does not run the plan.
        """
        known = checked_analysis(analysis, self, gradient=False)
        every, inner = (*parse_rules(rules), *self._kept(known)), parse_policy(self.policy)
        if isinstance(inner, RuledPolicy):
            plan = inner.assign(known, cost=cost, target=target, rules=every)
        else:
            plan, runner = assigned(inner, known).resolve(known.multiply_adds).under(every), parse_target(target)
            check_runs(plan, step_work(known), runner)
            price = None if cost is None else cost_of(plan, step_work(known), checked_cost(cost, runner))
            plan = replace(plan, provenance=replace(plan.provenance, cost=price))
        return replace(plan, provenance=replace(plan.provenance, policy=repr(self)))

    def _kept(self, analysis: Analysis) -> list[Rule]:
        """Rules for the products at both ends: by module and family, so that all calls of one there count as one."""
        slots = [analysis.records[name].slot for name in analysis.operands]
        ops = list(dict.fromkeys((own.layer, own.family) for own in slots if own.role is Role.FPROP))
        chosen = dict.fromkeys([*ops[: self.first], *ops[max(len(ops) - self.last, 0) :]])
        return [_rule(layer, family, self.high) for layer, family in chosen]


def _rule(layer: str, family: str, high: Format | str) -> Rule:
    """Of a module's own products; its name may have signs of patterns, as keys of a ModuleDict."""
    return Rule(escape(layer), family=family, format=high, required=False, inside=False)
