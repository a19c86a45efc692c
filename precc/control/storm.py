"""STORM: an optimizer by random models, whose step length and arithmetic are controlled together."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from precc.control.closure_optimizer import ClosureOptimizer, numbers_of
from precc.control.levels import DEFAULT_LEVELS, Level, plans_of
from precc.control.linear_step import LinearStep, Values
from precc.control.moment import Moment, all_finite
from precc.control.region_errors import error_between
from precc.control.storm_rule import STORMRule
from precc.control.trust_region_rule import Decision, Observation, TrustRegionState
from precc.module import PrecisionModule

__all__ = ["STORM"]


class STORM(ClosureOptimizer):
    """Stochastic optimisation using random models, here linear ones, with dynamic precision.

    Each step moves by ``radius`` (2-norm over all parameters) against the gradient G of the batch, heavy ball if there
    is momentum. It is a success if the loss falls by ``eta1`` of what the model promises, and the gradient is at least
    ``eta2 * radius``: `STORMRule`. The error of the loss is measured at x against full precision; where it is above
    ``eta_precision * pred``, the coarsest finer level is taken that is within it. All evaluations of a step see the
    same batch, masks and batch-norm statistics, and a step that is no success leaves all as it was. ``net.history``
    has each decision, and why.

    Args:
        net: a net made by `precc.compile`; this optimizer sets its plan from the first step on.
        radius: the first radius; it lives in ``param_groups`` as ``lr``.
        eta1, eta2: of a success, see above; eta2 is in units of a gradient's norm over a radius.
        gamma: factor of the radius after a success; its inverse otherwise.
        radius_max: the largest radius.
        eta_precision: largest error of the loss over the predicted reduction; below ``eta1 / 2`` each success is a true
            decrease on the batch if the error at x + p, which is not measured, is no larger than that at x, and the
            level was not the finest one, which is judged in any case.
        levels: as in `precc.TrustRegion`; refined only.
        loss_scale, momentum, weight_decay: as in `precc.TrustRegion`.

    A loss or gradient that is not finite is counted; it refines the level if full precision has a finite one there, and
    is no success otherwise.

    Raises:
        CaptureError: the net is not compiled by precc.
        ControllerError, FormatError, PlanError: an option outside its range, or two that do not go together.
        UnsupportedError: the loss scaling of a level is dynamic.

    Source: see `precc.control.storm_rule`; the constants are usual ones.
    """

    _entry = "storm"
    _attributes: ClassVar[tuple[str, ...]] = (*ClosureOptimizer._attributes, "rule")

    def __init__(
        self,
        net: PrecisionModule,
        radius: float = 0.1,
        eta1: float = 0.1,
        eta2: float = 1e-3,
        gamma: float = 2.0,
        radius_max: float = 10.0,
        eta_precision: float = 0.04,
        levels: Sequence[Level] = DEFAULT_LEVELS,
        loss_scale: float | None = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        plans = plans_of(levels)
        self.rule = STORMRule(
            radius=radius,
            eta1=eta1,
            eta2=eta2,
            gamma=gamma,
            radius_max=radius_max,
            eta_precision=eta_precision,
            levels=len(plans),
        )
        super().__init__(net, plans, radius, loss_scale, {"momentum": momentum, "weight_decay": weight_decay})

    def _decide(self, moment: Moment, loss: Tensor, gradients: Values) -> Decision:
        state = TrustRegionState(self.radius, self.level)
        if not all_finite(loss, gradients):
            at_fault, reason = self._fault(moment)
            decision, state = self.rule.step_without_loss(state, level_at_fault=at_fault)
            return self._keep(decision, state, reason, loss)
        step = self._propose(gradients)
        if step is None:
            return self._stationary(loss)
        return self._judge(moment, step, loss, state)

    def _judge(self, moment: Moment, step: LinearStep, loss: Tensor, state: TrustRegionState) -> Decision:
        """Measure the error at x, ask the rule, and stay at x + p if the step is a success."""
        exact = self._session.plan == self._session.full_precision
        epsilon = 0.0 if exact else abs(error_between(loss.item(), moment.loss(None)))
        seen = Observation(step.predicted_reduction, epsilon, gradient_norm=step.gradient_norm)
        decision, after = self.rule.step(seen, state)
        if decision is Decision.EVALUATE:
            with self._tentatively(step) as stay:
                seen = replace(seen, actual_reduction=self._reduction(step, loss, moment.loss(self.plan)))
                decision, after = self.rule.step(seen, state)
                if decision is Decision.ACCEPT:
                    stay()
            if not self.rule.gate(seen):
                self._count("ungated")
        return self._keep(decision, after, self.rule.reason(decision, seen, state), loss, seen)

    def _keep(
        self, decision: Decision, state: TrustRegionState, reason: str, loss: Tensor, seen: Observation | None = None
    ) -> Decision:
        """Take the state of the rule over, and note why."""
        self._take(state.radius, state.level)
        self._note(decision.value, reason, level=self.level, loss=loss.item(), **numbers_of(seen))
        return decision
