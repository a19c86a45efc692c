"""From a batch to a plan that hides in the noise: analyse, choose, measure, ask the rule, evaluate in shadow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.control.noise_aware_rule import NoiseAwareRule, NoiseAwareState, NoiseDecision, Proposal
from precc.control.noise_probe import NoiseProbe
from precc.control.ranks import Ranks
from precc.control.watched_batch import Watch
from precc.cost.cost_model import CostModel
from precc.errors import AnalysisError, InfeasibleError
from precc.module import session_of
from precc.plan import PrecisionPlan
from precc.policies.noise_budget import NoiseBudget, without_forward_weights
from precc.rule import Rule
from precc.target import Target

__all__ = ["Found", "PlanProposer"]

#: Plans that are proposed at most, each after the errors of the one before were measured.
_TRIES = 4


@dataclass(frozen=True, slots=True)
class Found:
    """What an analysis leads to.

    Args:
        plan: to take, or in force; None: this batch says nothing.
        reason: for what was proposed.
        state: of the rule, before a plan is committed.
        decision: of the rule.
        tightness: of theta.
        refused: why a plan is not taken after all; empty: it is.
        first: whether it was the first analysis.
    """

    plan: PrecisionPlan | None
    reason: str
    state: NoiseAwareState
    decision: NoiseDecision
    tightness: float
    refused: str = ""
    first: bool = False


@dataclass(frozen=True, slots=True)
class PlanProposer:
    """Changes nothing.

    Args:
        watch: of the net.
        probe: measures what plans do to the gradient.
        options: of analyses; without rows they look at an eighth of the batch, 8 examples at least.
        loss_gap: of forward weights, relative to the running loss.
        band: predicted deviations by which a loss in shadow may differ; one counts at least as much as that gap.
        cost, target: as in ``policy.assign``.
    """

    watch: Watch
    probe: NoiseProbe
    options: AnalysisOptions
    loss_gap: float
    band: float
    cost: CostModel | None
    target: Target | str

    @property
    def _rules(self) -> tuple[Rule, ...]:
        return session_of(self.watch.net).rules

    def propose(
        self,
        step: int,
        rule: NoiseAwareRule,
        state: NoiseAwareState,
        policy: NoiseBudget,
        metric: Mapping[str, Tensor],
        running: float | None,
        tightness: float,
    ) -> Found:
        """What the last batch leads to.

        Args:
            step: of the training.
            rule: that decides.
            state: of the rule.
            policy: with the noise of a step; its loss gap is not looked at.
            metric: of the norm.
            running: mean of the losses so far; None: that of the analysis.
            tightness: of theta, by what was measured before.
        """
        try:
            analysis = self._analysis(step, metric)
            gap = max(self.loss_gap * abs(analysis.loss if running is None else running), 1e-30)
            first = state.previous is None  # the finer of it and of the next one is measured with that
            tries = 0 if first else _TRIES
            own = replace(policy, loss_gap=gap)
            plan, reason, tightness = self._measured(own, analysis, metric, tightness, tries)
        except AnalysisError as error:  # as of a gradient that is zero
            return Found(None, str(error), state, NoiseDecision.WAIT, tightness)
        (decision, wanted), state = rule.step(Proposal(step, plan), state)
        refused = "" if wanted is None else self._shadow(wanted, analysis)
        return Found(plan if wanted is None else wanted, reason, state, decision, tightness, refused, first)

    def _analysis(self, step: int, metric: Mapping[str, Tensor]) -> Analysis:
        rows = self.watch.batch.rows
        own = max(8, rows // 8) if self.options.rows is None else self.options.rows
        options = replace(self.options, rows=min(own, rows) if rows else None, seed=step % 2**32, metric=metric)
        return self.watch.analyze(options)

    def _measured(
        self, policy: NoiseBudget, analysis: Analysis, metric: Mapping[str, Tensor], tightness: float, tries: int
    ) -> tuple[PrecisionPlan, str, float]:
        """A plan, why, and the tightness that it took; float32 if none hides in these tries; 0: it is not measured."""
        exact = PrecisionPlan("float32").resolve(analysis.multiply_adds)
        allowed, ranks, said = policy.theta**2, Ranks.present(), ""
        for _ in range(max(tries, 1)):
            own = replace(policy, theta=policy.theta * tightness)
            try:
                plan = own.assign(analysis, cost=self.cost, target=self.target, rules=self._rules)
            except InfeasibleError as error:
                return exact, str(error), tightness
            bits = f"{plan.average_bits:.3g} bits"
            if not tries or not self.probe.has_halves or not policy.noise:
                return plan, f"{bits} are predicted to hide in the noise", tightness
            spent = self.probe.rounding(without_forward_weights(plan), ranks, metric, policy.horizon) / policy.noise
            tightness = min(1.0, tightness * tightened(allowed, spent))
            said = f"measured {spent:.3g} of it, {allowed:.3g} allowed"
            if spent <= allowed:
                return plan, f"{bits} hide in the noise: {said}", tightness
        return exact, f"{bits} do not hide in the noise: {said}", tightness

    def _shadow(self, plan: PrecisionPlan, analysis: Analysis) -> str:
        """Why a plan is refused, after its loss on the last batch; empty if it is not."""
        if not self.watch.has_loss:
            return ""
        exact, own = (self._loss_in(one) for one in (None, plan))
        error = analysis.predict(plan.under(self._rules))
        shrunk = math.sqrt(analysis.batch.rows / max(self.watch.batch.rows, 1))
        allowed = abs(error.loss_mean) + self.band * max(error.loss * shrunk, self.loss_gap * abs(exact))
        if math.isfinite(own) and abs(own - exact) <= allowed:
            return ""
        return f"in shadow its loss is {own:.5g}, {own - exact:+.2g} from full precision's; predicted: {allowed:.2g}"

    def alike(self, plan: PrecisionPlan) -> bool:
        """Whether a plan and full precision have one loss on the last batch, within `band` times the loss gap."""
        if not self.watch.has_loss:
            return False
        exact, own = (self._loss_in(one) for one in (None, plan))
        return abs(own - exact) <= self.band * self.loss_gap * abs(exact)  # never of what is not finite

    def _loss_in(self, plan: PrecisionPlan | None) -> float:
        with self.watch.in_plan(plan):
            return float(self.watch.evaluate())


def tightened(allowed: float, spent: float) -> float:
    """The factor on theta after a plan whose errors were measured: at once tighter, slowly looser.

    >>> tightened(0.25, 0.36), tightened(0.25, 0.2), tightened(0.25, 0.1), tightened(0.25, 1e9)
    (0.75, 1.0, 1.25, 0.25)
    """
    if spent > allowed:
        return max(0.9 * math.sqrt(allowed / spent), 0.25)
    return 1.25 if spent < 0.5 * allowed else 1.0
