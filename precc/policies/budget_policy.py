"""What the policies that solve a problem of assignment have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from precc.accumulation.accumulator import Accumulator
from precc.assignment.assigner import Assigner, Scored
from precc.assignment.candidates import parse_accumulators
from precc.assignment.choice_costs import Palette
from precc.assignment.choice_tables import ChoiceTables
from precc.assignment.groups import Grouping, Share, parse_share
from precc.assignment.step_choices import StepChoices
from precc.assignment.step_work import step_work
from precc.cost.bit_ops import BitOps
from precc.cost.cost_model import CostModel
from precc.cost.cost_of_plan import cost_of
from precc.cost.memory import Memory
from precc.cost.work import StepWork
from precc.errors import AnalysisError, PlanError
from precc.formats import Format, format_of_dtype
from precc.plan import PrecisionPlan
from precc.policies.choosing_policy import ChoosingPolicy, checked_analysis, checked_cost
from precc.precision import Precision
from precc.provenance import Provenance
from precc.rule import Rule, parse_rules
from precc.rule_checks import check_decisions
from precc.target import Target, parse_target

__all__ = ["BudgetPolicy"]

_NO_RESULTS = "the analysis has no results to choose for: net.analyze(..., options=AnalysisOptions(results=True))"


@dataclass(frozen=True, kw_only=True, repr=False)
class BudgetPolicy(ChoosingPolicy):
    """Chooses a precision for each slot that the analysis knows.

    Among many choices those look best whose errors are underestimated: an analysis to choose from is worth more probes
    than one to look at, ``AnalysisOptions(probes=8)``.

    Args:
        candidates: precisions, formats, or their names; formats of fewer than 16 bits get one float32 scale a tensor
            (`precc.scaled`). Default: e2m1 e2m3 e3m2 e3m4 e4m3 e5m2 e4m5 e5m4 float16 bfloat16 float32.
        accumulators: of products, likewise; None is the tensors' own arithmetic, and the default. Others need an
            analysis with sums, ``AnalysisOptions(sums=64)``.
        share: ``"nothing"``, or ``"tensor"``: all slots that read the same values have one precision.
        inference: whether the plan is for the forward alone: cost and errors are its own, and the backward is float32.
        lost: the largest share of a slot's sum of squares that a choice may lose, to 0 or beyond the ends of its
            format. What is lost makes coherent errors, which few probes tell little of: the more of it is allowed, the
            more probes should the analysis have.
        results: whether to choose, among the same candidates, in what the results of products are stored, and sums of
            two activations; needs an analysis with results, ``AnalysisOptions(results=True)``, and a cost that counts
            them. Costs of analyses with results count them in any case, as they are stored.
        solver: of the problem.

    Raises:
        FormatError, PlanError: an option that makes no sense.
    """

    accumulators: Sequence[Accumulator | Format | str | None] = (None,)
    share: Share | str = Share.NOTHING
    inference: bool = False
    lost: float = 1e-2
    results: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "accumulators", parse_accumulators(self.accumulators))
        object.__setattr__(self, "share", parse_share(self.share))
        for name in ("inference", "results"):
            if not isinstance(getattr(self, name), bool):
                raise PlanError(f"{name} is True or False, not {getattr(self, name)!r}")
        if not isinstance(self.lost, (int, float)) or not 0 <= self.lost <= 1:
            raise PlanError(f"lost is a share, 0 to 1, not {self.lost!r}")

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
            cost: model; default: `BitOps`.
            target: that runs the plan, or its name; operands and sums are those that it has.
            rules: that hold over the plan, as in `precc.compile`; give it the net's, so that it knows what they decide.

        Raises:
            AnalysisError: there is no analysis, or it does not know what the policy needs.
            InfeasibleError: no plan is within the budget; the message says what is.
            PlanError: rules that contradict each other, the target, or a cost of another device than the target's.
        """
        assigner = self.assigner(analysis, cost=cost, target=target, rules=rules)
        found = self._solve(assigner)
        paid = cost_of(found.plan, assigner.choices.work, assigner.tables.cost)  # what it is chosen by may be bits
        provenance = Provenance(repr(self), self._budget, assigner.analysis.digest, found.error, paid)
        return replace(found.plan, provenance=provenance)

    def _solve(self, assigner: Assigner) -> Scored:
        raise NotImplementedError

    @property
    def _budget(self) -> str:
        raise NotImplementedError

    def assigner(
        self,
        analysis: object | None,
        *,
        cost: CostModel | None = None,
        target: Target | str = "cpu-emulated",
        rules: Sequence[Rule] = (),
    ) -> Assigner:
        """What finds plans for this analysis, with the arguments of `assign`."""
        known = checked_analysis(analysis, self, gradient=not self.inference)
        check_decisions(rules, known.records)
        if self.results and not known.results:
            raise AnalysisError(_NO_RESULTS)
        work = step_work(known, inference=self.inference)
        palette = Palette.of(
            self._candidates, self._accumulators, parse_rules(rules), results=self.results, stored=_stored(work)
        )
        runner = parse_target(target)
        model = BitOps() if cost is None else checked_cost(cost, runner)
        if isinstance(model, Memory) and model.training is self.inference:
            kind = "inference" if self.inference else "training"
            raise PlanError(f"{model!r} does not count what {kind} keeps: give it training={not self.inference}")
        if self.results and not _prices_results(model, work, palette):
            raise PlanError(f"{model!r} has no price for results, so none is better than another: cost=precc.Memory()?")
        copies = any(model.copy(tensor, own) for tensor in work.tensors for own in palette.precisions)
        sums = len(palette.sums) > 1 or palette.sums[0] is not None
        grouping = Grouping(
            parse_share(self.share), sums=sums, copies=copies, results_share=self.results and runner.pairs is None
        )
        choices = StepChoices.of(known, palette, grouping, inference=self.inference)
        return Assigner(ChoiceTables.of(choices, model, runner, self.lost), self.inference, self.solver)

    @property
    def _accumulators(self) -> tuple[Accumulator | None, ...]:
        return parse_accumulators(self.accumulators)


def _stored(work: StepWork) -> Precision | None:
    """What rounds no result of a step; None if it has none."""
    formats = [format_of_dtype(own.dtype) for own in work.tensors if own.result is not None]
    wide = max((own for own in formats if own is not None), key=lambda own: own.bits, default=None)
    return None if wide is None else Precision(wide if wide.bits > 32 else "float32")


def _prices_results(model: CostModel, work: StepWork, palette: Palette) -> bool:
    stored = (own for own in work.tensors if own.result is not None)
    return any(model.copy(own, precision) for own in stored for precision in palette.precisions)
