"""What policies that choose formats of weights alone have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from precc.analysis.weight import Weight
from precc.assignment.candidates import parse_candidates
from precc.assignment.elimination import cheapest
from precc.assignment.problem import AssignmentProblem, Solution
from precc.assignment.weight_choices import WeightChoices
from precc.checks import require_number
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_of
from precc.errors import InfeasibleError
from precc.formats import Format
from precc.plan import PrecisionPlan
from precc.policies.choosing_policy import ChoosingPolicy, checked_analysis, checked_cost
from precc.precision import Precision
from precc.provenance import Provenance
from precc.rule import Rule, parse_rules
from precc.rule_checks import check_decisions
from precc.target import Target, parse_target

__all__ = ["WeightBudget"]

_FLOAT32 = Precision("float32")


@dataclass(frozen=True, kw_only=True, repr=False)
class WeightBudget(ChoosingPolicy):
    """Chooses a precision for each weight, within an average of storage bits, as after a training: the forward reads
    it so, and so do the slots of the backward that read the same weight.

    Args:
        average_bits: ``sum(n_l b_l) / sum(n_l)``, with n_l elements and b_l storage bits, over the weights that are
            chosen for: what rules decide is no part of it, such as the first and last layers of ``FirstLastHigh``,
            which the sources keep in float and do not count.
        others: the precision of all other slots; a format or its name is scaled as a candidate is.

    Raises:
        FormatError, PlanError: an option that makes no sense.
    """

    average_bits: float = field(kw_only=False)
    others: Precision | Format | str = _FLOAT32

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self.average_bits, "average_bits")
        object.__setattr__(self, "others", self._others)

    def assign(
        self,
        analysis: object | None = None,
        *,
        cost: CostModel | None = None,
        target: Target | str = "cpu-emulated",
        rules: Sequence[Rule] = (),
    ) -> PrecisionPlan:
        """The plan, with its ``predicted_error`` and ``cost``.

        Args:
            analysis: of the step, as ``net.analyze`` or `Analysis.load` gives it.
            cost: model, of the plan's ``cost``; default: `WeightBits`, the average itself.
            target: that runs the plan, or its name.
            rules: that hold over the plan, as in `precc.compile`; one that decides a slot of a weight in the forward
                decides the weight.

        Raises:
            AnalysisError: there is no analysis, or none with weights and finite derivatives there.
            InfeasibleError: no plan has so few bits; the message says how many the cheapest one has.
            PlanError: rules that contradict each other or leave no weight, or the target.
        """
        known = checked_analysis(analysis, self)
        every = parse_rules(rules)
        check_decisions(every, known.records)
        runner = parse_target(target)
        choices = WeightChoices.of(known, self._candidates, self._others, every, runner)
        model = choices.bits if cost is None else checked_cost(cost, runner)
        self._check(choices.weights)
        plan = choices.plan_of(self._solved(choices.problem(self._error)).choices)
        score = known.predict(plan), cost_of(plan, choices.work, model)
        return replace(plan, provenance=Provenance(repr(self), self._said(choices.weights), known.digest, *score))

    def _solved(self, problem: AssignmentProblem) -> Solution:
        try:
            return self.solver.least_error(problem, min(float(self.average_bits), 2.0**20))
        except InfeasibleError:
            least = float(problem.cost_of(cheapest(problem)))
            raise InfeasibleError(
                f"no plan of these candidates stores the weights in {self.average_bits:g} bits or less on average: "
                f"the cheapest one has {least:.4g}"
            ) from None

    @property
    def _others(self) -> Precision:
        return parse_candidates([self.others])[0]

    def _error(self, weight: Weight, precision: Precision) -> float:
        """What the sum of is least; 0 or more, infinite where values become infinite."""
        raise NotImplementedError

    def _check(self, weights: Sequence[Weight]) -> None:
        """Refuse weights of which the analysis does not know enough."""
        raise NotImplementedError

    def _said(self, weights: Sequence[Weight]) -> str:
        """The budget, for the plan's provenance."""
        return f"{self.average_bits:g} bits on average of {len(weights)} weights"
