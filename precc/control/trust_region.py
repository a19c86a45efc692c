"""TrustRegion: an optimizer whose step length and arithmetic are controlled together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from precc.analysis.analysis_options import AnalysisOptions
from precc.checked_net import checked_net
from precc.control.closure_optimizer import ClosureOptimizer, numbers_of
from precc.control.closure_state import checked_region_state
from precc.control.held_point import HeldPoint
from precc.control.levels import DEFAULT_LEVELS, Level, plans_of
from precc.control.linear_step import MOMENTUM_FORMS, LinearStep, Values
from precc.control.moment import Moment, all_finite
from precc.control.region_errors import Errors, Plans, RegionErrors, check_choice
from precc.control.snapshot import Snapshot
from precc.control.trust_region_rule import Decision, Observation, TrustRegionRule, TrustRegionState
from precc.control.watched_batch import Loss
from precc.errors import ControllerError
from precc.module import PrecisionModule
from precc.plan import PrecisionPlan

__all__ = ["TrustRegion"]


class TrustRegion(ClosureOptimizer):
    """First-order trust region with dynamic precision, for mini-batches.

    Each step moves by ``radius`` (2-norm over all parameters) against the gradient G, heavy ball if there is
    momentum. Every `evaluate_every` steps the loss is also evaluated in full precision at x, which gives its
    error epsilon, and at x + p; `TrustRegionRule` then refines the level, accepts or rejects, and moves the
    radius. All evaluations of one step see the same batch, masks and batch-norm statistics, and a rejected step
    leaves parameters, buffers and momentum as they were. ``net.history`` has each decision, and why.

    Args:
        net: a net made by `precc.compile`; this optimizer sets its plan from the first step on.
        radius: the first radius; it lives in ``param_groups`` as ``lr``. Schedulers that multiply (StepLR,
            MultiStepLR, ExponentialLR) shrink the region beside the rule; those that set a value (LambdaLR,
            OneCycleLR, CosineAnnealingWarmRestarts) replace what the rule found.
        eta1, eta2: least ratios to accept a step, and to double the radius.
        levels: plans, policies or format names, coarsest first; refined in this order. If one has accumulators, and
            the net's graphs were built without, they are built again at the next call. ``"budget"``: plans by
            `precc.ErrorBudget` within a budget for epsilon, which shrinks to ``min(budget / 2, 0.9 * bound)`` where the
            gate fails; each is made from an analysis of the batch, with errors of the gradient within ``zeta``, or
            ``(1 - eta2) / 2``. Where no plan is within it, full precision, with what the net's rules round, is the
            finest level.
        evaluate_every: steps between evaluations; those between are taken without one.
        momentum: mu in ``G <- mu * G + g``; the old G is dropped for a step on which the new one points uphill.
        weight_decay: adds ``weight_decay / 2 * ||x||_2**2`` to the objective, exactly in both reductions.
        loss_scale: factor on the gradient in the backward, taken off it afterwards, under levels whose plans have no
            loss scaling; None: 1024.
        gate: ``"source"``: epsilon of the loss against ``eta1 / 2 * pred``; ``"difference"``: the error of
            ``f(x) - f(x + p)``, which is what the ratio sees, against ``eta1 * pred``.
        loss: of the output and the targets, for analyses; the closure then calls ``opt.loss(net(x), y)``. None: the
            model returns its loss.
        budget: the first one; None: 0.9 of the first bound, after a first gradient in full precision.
        candidates: as in `precc.ErrorBudget`.
        epsilon: ``"measured"``, or ``"predicted"``: ``|mean| + z * sigma`` by an analysis of each batch that is
            evaluated.
        z: see there, and in plans from a budget.
        analysis: how batches are analysed.
        points: where the error of the loss is looked at: ``"x"``, or ``"both"``, its maximum at x and x + p.
        momentum_form: ``"heavy_ball"``, or ``"gradient"``: ``G <- G + mu * g``.
        on_reject: ``"step"``: a rejected step is undone; ``"restore"``: parameters, momentum and buffers go back to the
            last point that an evaluation accepted; ``"shrink"``: it is kept, unless its loss is not finite.
        monotone: whether levels are refined only. If not, one goes back by a level, or to twice the budget, after
            `coarsen_after` gates in a row, if the coarser error is below a quarter of the bound, and that of the
            gradient within zeta.
        coarsen_after: see there.
        zeta: largest error of the gradient, relative, at evaluations, in ``(0, 1 - eta2)``; None: it is not measured.
        noise_tolerance: r in ``rho = (actual + r * epsilon) / (pred + r * epsilon)``.

    Rules of the net hold on every level. The loss in full precision is without them: what their formats do to the
    loss is part of epsilon.

    A loss or gradient that is not finite is counted. If full precision has a finite loss there, the level
    is refined; otherwise the step is rejected and the radius halved.

    Raises:
        CaptureError: the net is not compiled by precc.
        ControllerError, FormatError, PlanError: an option outside its range, or two that do not go together.
        UnsupportedError: the loss scaling of a level is dynamic.

    Source: the mini-batch form of Conn, Gould and Toint (Trust-Region Methods, 2000, section 10.6) with levels of
    arithmetic, radius 0.1 and levels E4M3, E5M10, FP32 (Estano, Filip, Riccietti 2022). eta1 and eta2 are usual
    constants, and the heavy ball is one reading of its momentum, neither of which is given there.
    """

    _entry = "trust_region"
    _attributes: ClassVar[tuple[str, ...]] = (
        *ClosureOptimizer._attributes,
        *("rule", "evaluate_every", "momentum_form", "on_reject", "budget", "successes", "errors"),
        *("_made", "_held"),
    )

    def __init__(
        self,
        net: PrecisionModule,
        radius: float = 0.1,
        eta1: float = 0.1,
        eta2: float = 0.75,
        levels: Sequence[Level] | str = DEFAULT_LEVELS,
        evaluate_every: int = 1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        loss_scale: float | None = None,
        gate: str = "source",
        *,
        loss: Loss | None = None,
        budget: float | None = None,
        candidates: Sequence[Any] | None = None,
        epsilon: str = "measured",
        z: float = 2.0,
        analysis: AnalysisOptions | None = None,
        points: str = "x",
        momentum_form: str = "heavy_ball",
        on_reject: str = "step",
        monotone: bool = True,
        coarsen_after: int = 10,
        zeta: float | None = None,
        noise_tolerance: float = 0.0,
    ) -> None:
        check_choice("momentum_form", momentum_form, MOMENTUM_FORMS)
        check_choice("on_reject", on_reject, ("step", "restore", "shrink"))
        if not isinstance(evaluate_every, int) or evaluate_every < 1:
            raise ControllerError(f"evaluate_every counts steps, at least 1; got {evaluate_every}")
        by_budget = isinstance(levels, str) and levels == "budget"
        plans = () if by_budget else plans_of(levels)
        self.rule = TrustRegionRule(
            radius=radius,
            eta1=eta1,
            eta2=eta2,
            levels=None if by_budget else len(plans),
            budget=budget,
            entries=1 if gate == "difference" else 2,
            zeta=zeta,
            noise_tolerance=noise_tolerance,
            coarsen_after=None if monotone else coarsen_after,
        )
        self.errors = RegionErrors(
            net=checked_net(net, type(self).__name__),
            gate=gate,
            epsilon=epsilon,
            points=points,
            z=z,
            gradient=0.5 * (1 - eta2) if zeta is None else zeta,
            options=analysis,
            candidates=candidates,
            loss=loss,
            analyses=by_budget or epsilon == "predicted",
        )
        self.evaluate_every, self.momentum_form, self.on_reject = evaluate_every, momentum_form, on_reject
        self.budget, self.successes = budget, 0
        self._made: PrecisionPlan | None = None  # within the budget
        self._held = HeldPoint()  # the last that an evaluation accepted
        super().__init__(net, plans, radius, loss_scale, {"momentum": momentum, "weight_decay": weight_decay})

    def loss(self, output: Any, *targets: Any) -> Tensor:
        """The loss of the net's output, of which the optimizer then knows the targets; for closures."""
        return self.errors.loss_of(output, *targets)

    @property
    def plan(self) -> PrecisionPlan:
        """The plan of the present level or budget."""
        if self.rule.levels is not None:
            return self.levels[self.level]
        return self._session.full_precision if self._made is None else self._made

    @property
    def _rule_state(self) -> TrustRegionState:
        return TrustRegionState(self.radius, self.level, self.budget, self.successes)

    def _decide(self, moment: Moment, loss: Tensor, gradients: Values) -> Decision:
        state = self._rule_state
        if self.on_reject == "restore" and self._held.buffers is None:
            self._held.hold(self.state, self._parameters(), moment.before.buffers)
        if self.budget is not None and self._made is None:
            self._made = self._plan_of(state)
            return self._keep(Decision.BUDGET, state, "the first budget, which was given", loss)
        if not all_finite(loss, gradients):
            at_fault, reason = self._fault(moment)
            decision, state = self.rule.step_without_loss(state, level_at_fault=at_fault and not self._finest)
            moment.bad = decision is Decision.REJECT
            return self._keep(decision, state, reason, loss)
        step = self._propose(gradients, self.momentum_form)
        if step is None:
            return self._stationary(loss)
        if self.steps % self.evaluate_every:
            return self._step_between(step, loss)
        return self._judge(moment, step, loss, gradients)

    def _step_between(self, step: LinearStep, loss: Tensor) -> Decision:
        seen = Observation(step.predicted_reduction, math.nan)
        decision, state = self.rule.step_between(step.predicted_reduction, self._rule_state)
        if decision is Decision.ACCEPT:
            self._move(step)
        reason = "not evaluated" if decision is Decision.ACCEPT else self.rule.reason(decision, seen)
        return self._keep(decision, state, reason, loss, seen)

    def _judge(self, moment: Moment, step: LinearStep, loss: Tensor, gradients: Values) -> Decision:
        """Find the errors, ask the rule, and stay at x + p if it accepts the step."""
        state = self._rule_state
        coarser = self.rule.coarser(state)
        plans = [self.plan] if coarser is None else [self.plan, self._plan_of(coarser)]
        zeta = self.rule.zeta is not None
        here, turned = self.errors.at_x(moment, loss.item(), gradients, plans, zeta=zeta)
        errors = self.errors.seen(here, None)
        epsilon = 0.0 if self.errors.both else errors[0]
        seen = Observation(step.predicted_reduction, epsilon, gradient_error=turned[0], finest=self._finest)
        decision, after = self.rule.step(seen, state)
        if decision is Decision.EVALUATE:
            decision, after, seen, errors = self._try(moment, step, loss, here, plans, seen)
        if decision in (Decision.ACCEPT, Decision.REJECT) and not self.rule.gate(seen):
            self._count("ungated")
        reason = self.rule.reason(decision, seen) + (", and kept" if moment.kept else "")
        decision = self._keep(decision, after, reason, loss, seen)
        if coarser is not None and decision is not Decision.REFINE:
            self._coarsen(coarser, plans[1], replace(seen, epsilon=errors[1], gradient_error=turned[1]))
        return decision

    def _try(
        self, moment: Moment, step: LinearStep, loss: Tensor, here: Errors, plans: Plans, seen: Observation
    ) -> tuple[Decision, TrustRegionState, Observation, Errors]:
        """Evaluate at x + p, and judge; the errors are those at both points, if the gate asks for them."""
        with self._tentatively(step) as stay:
            trial = moment.loss(plans[0])
            errors = self.errors.seen(here, self.errors.at(moment, trial, plans) if self.errors.both else None)
            actual = self._reduction(step, loss, trial)
            seen = replace(seen, epsilon=errors[0], actual_reduction=actual)
            decision, after = self.rule.step(seen, self._rule_state)
            moment.bad = decision is Decision.REJECT
            moment.kept = moment.bad and self.on_reject == "shrink" and actual > -math.inf
            if decision is Decision.ACCEPT or moment.kept:
                stay()
        return decision, after, seen, errors

    def _coarsen(self, coarser: TrustRegionState, plan: PrecisionPlan, found: Observation) -> None:
        """Take the coarser level, whose errors were found, if they are small enough; count gates anew if not."""
        self.successes = 0
        predicted, epsilon = found.predicted_reduction, found.epsilon
        if not self.rule.coarsens(predicted, epsilon, found.gradient_error):
            return
        self.level, self.budget = coarser.level, coarser.budget
        self._made = None if self.budget is None else plan
        self._count("coarsen")
        reason = f"epsilon {epsilon:.3g} is far below {self.rule.bound(predicted):.3g}"
        self._note("coarsen", reason, **self._place, epsilon=epsilon)

    def _plan_of(self, state: TrustRegionState) -> PrecisionPlan:
        return self.levels[state.level] if state.budget is None else self.errors.plan_within(state.budget)

    @property
    def _finest(self) -> bool:
        """Whether no budget gives a finer plan than the present one."""
        return self.rule.levels is None and self._made == self._session.full_precision

    def _keep(
        self, decision: Decision, state: TrustRegionState, reason: str, loss: Tensor, seen: Observation | None = None
    ) -> Decision:
        """Take the state of the rule over, and note why."""
        if state.budget is not None and state.budget != self.budget:
            budget, self._made = self.errors.plan_below(state.budget, self._made)
            state = replace(state, budget=budget)
        self.budget, self.successes = state.budget, state.successes
        self._take(state.radius, state.level)
        self._note(decision.value, reason, **self._place, loss=loss.item(), **numbers_of(seen))
        return decision

    @property
    def _place(self) -> dict[str, Any]:
        return {"level": self.level} if self.rule.levels is not None else {"budget": self.budget}

    def _leave(self, moment: Moment, after: Snapshot, decision: Decision) -> None:
        super()._leave(moment, after, decision)
        if self.on_reject != "restore":
            return
        if moment.bad and decision is Decision.REJECT:
            self._held.go_back(self.state, self._parameters(), self.net)
        elif decision is Decision.ACCEPT and self.steps % self.evaluate_every == 0:
            self._held.hold(self.state, self._parameters(), after.buffers)

    def _own_state(self) -> dict[str, Any]:
        return {
            **super()._own_state(),
            "budget": self.budget,
            "successes": self.successes,
            "plan": None if self._made is None else self._made.to_json(),
            "buffers": self._held.buffers,
        }

    def _checked_state(self, own: Any) -> Mapping[str, Any]:
        return checked_region_state(super()._checked_state(own), by_budget=self.rule.levels is None)

    def _load(self, own: Mapping[str, Any]) -> None:
        super()._load(own)
        self.budget, self.successes, self._made = (own[name] for name in ("budget", "successes", "plan"))
        self._held.buffers = own["buffers"]
