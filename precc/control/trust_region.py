"""TrustRegion: an optimizer whose step length and arithmetic are controlled together."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from precc.control.evaluation import Moment, evaluate_closure
from precc.control.trust_region_rule import Decision, Measurement, TrustRegionRule, TrustRegionState
from precc.errors import CaptureError, ClosureError, PlanError, UnsupportedError, expected_one_of
from precc.module import PrecisionModule
from precc.plan import PrecisionPlan
from precc.policy import Policy, Uniform, parse_policy

__all__ = ["TrustRegion"]

Closure = Callable[[], Tensor]
Level = PrecisionPlan | Policy | str
Values = dict[Tensor, Tensor]  # one tensor a parameter

_GATES = ("source",)
_DEFAULT_LEVELS = (Uniform("e4m3"), Uniform("e5m10"), Uniform("float32"))
_STATE = "trust_region"  # its key in the state_dict


@dataclass(frozen=True, slots=True)
class _Step:
    """A step p from x, with what it promises."""

    values: Values
    direction: Values  # G
    decay_reduction: float  # of the weight-decay term, exact
    predicted_reduction: float  # of the whole objective


class TrustRegion(Optimizer):
    """First-order trust region with dynamic precision, for mini-batches.

    Each step moves by ``radius`` (2-norm over all parameters) against the gradient G, heavy ball if there is
    momentum. Every `evaluate_every` steps the loss is also evaluated in full precision at x, which gives its
    error epsilon, and at x + p; `TrustRegionRule` then refines the level, accepts or rejects, and moves the
    radius. All evaluations of one step see the same batch, masks and batch-norm statistics, and a rejected step
    leaves parameters, buffers and momentum as they were.

    Args:
        net: a net made by `precc.compile`; this optimizer sets its plan from the first step on.
        radius: the first radius; it lives in ``param_groups`` as ``lr``, so that schedulers act on it.
        eta1, eta2: least ratios to accept a step, and to double the radius.
        levels: plans, policies or format names, coarsest first; refined in this order, never back.
        evaluate_every: steps between evaluations; those between are taken without one.
        momentum: mu in ``G <- mu * G + g``; the old G is dropped for a step on which the new one points uphill.
        weight_decay: adds ``weight_decay / 2 * ||x||_2**2`` to the objective, exactly in both reductions.
        loss_scale: factor on the loss in the backward, taken off the gradient; 1024 in the source.
        gate: ``"source"``: epsilon of the loss at x against ``eta1 / 2 * pred``.

    A loss or gradient that is not finite is counted. If full precision has a finite loss there, the level
    is refined; otherwise the step is rejected and the radius halved.

    Raises:
        CaptureError: the net is not compiled by precc.
        ValueError, FormatError, PlanError: an option outside its range.

    Source: the dynamic-precision trust region for networks, with radius 0.1 and levels E4M3, E5M10, FP32. The heavy
    ball is one reading of its momentum formula; eta1 and eta2 are usual constants (Conn, Gould, Toint 2000).
    """

    def __init__(
        self,
        net: PrecisionModule,
        radius: float = 0.1,
        eta1: float = 0.1,
        eta2: float = 0.75,
        levels: Sequence[Level] = _DEFAULT_LEVELS,
        evaluate_every: int = 1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        loss_scale: float = 1024.0,
        gate: str = "source",
    ) -> None:
        if not isinstance(net, PrecisionModule):
            raise CaptureError(f"TrustRegion takes a net made by precc.compile, not {type(net).__name__}")
        if gate not in _GATES:
            raise ValueError(f"unknown gate {gate!r}: {expected_one_of(_GATES)}")
        if isinstance(levels, str):
            raise ValueError(f"levels is a sequence of plans, policies or format names, not {levels!r}")
        if int(evaluate_every) != evaluate_every or evaluate_every < 1:
            raise ValueError(f"evaluate_every counts steps, at least 1; got {evaluate_every}")
        if not (0 <= momentum < 1):
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if not (weight_decay >= 0 and math.isfinite(weight_decay)):
            raise ValueError(f"weight_decay must be finite and not negative, got {weight_decay}")
        if not (loss_scale > 0 and math.isfinite(loss_scale)):
            raise ValueError(f"loss_scale must be positive and finite, got {loss_scale}")
        self.net = net
        self.levels = tuple(_as_plan(level) for level in levels)
        self.rule = TrustRegionRule(radius=radius, eta1=eta1, eta2=eta2, levels=len(self.levels))
        self.evaluate_every = evaluate_every
        self.loss_scale = loss_scale
        self.level = 0
        self.steps = 0
        #: Steps accepted and rejected, refinements, and what was not finite, stationary or judged without a gate.
        self.events: Counter[str] = Counter()
        parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        super().__init__(parameters, {"lr": radius, "momentum": momentum, "weight_decay": weight_decay})

    @property
    def radius(self) -> float:
        """The present radius."""
        return float(self.param_groups[0]["lr"])

    @property
    def plan(self) -> PrecisionPlan:
        """The plan of the present level."""
        return self.levels[self.level]

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """One step. Returns the loss at the point where it started, in the arithmetic of the step.

        Args:
            closure: evaluates the loss of one batch: ``lambda: loss_fn(net(x), y)``. One that calls backward
                itself is accepted; its loss is then not scaled.

        Raises:
            ClosureError: no closure, or one that returns no scalar, or a loss without a gradient.
        """
        if closure is None:
            raise ClosureError("TrustRegion.step needs a closure: opt.step(lambda: loss_fn(net(x), y))")
        before = Moment.of(self.net)
        try:
            decision = Decision.REFINE
            while decision is Decision.REFINE:
                self.net.set_plan(self.plan)
                before.restore(self.net)
                loss, gradients = self._gradients(closure)
                after = Moment.of(self.net)
                decision = self._decide(closure, before, loss, gradients)
                self._count(decision.value)
        except BaseException:  # also Ctrl-C: a step that did not end leaves nothing behind
            before.restore(self.net)
            self.net.set_plan(self.plan)
            raise
        (before if decision is Decision.REJECT else after).restore(self.net)
        after.restore_generators()
        for parameter in self._parameters():
            parameter.grad = gradients.get(parameter)
        self.steps += 1
        return loss

    def _gradients(self, closure: Closure) -> tuple[Tensor, Values]:
        """Loss and gradient at x, the loss scale taken off."""
        self.zero_grad(set_to_none=True)
        loss = evaluate_closure(closure)
        parameters = self._parameters()
        if all(parameter.grad is None for parameter in parameters):
            if not loss.requires_grad:
                raise ClosureError(
                    "the loss depends on no parameter of the net: is it computed under torch.no_grad, or detached?"
                )
            (loss * self.loss_scale).backward()
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self.loss_scale)
        gradients = {p: p.grad for p in parameters if p.grad is not None}
        if any(gradient.is_sparse for gradient in gradients.values()):
            raise UnsupportedError("TrustRegion does not take sparse gradients: use Embedding(sparse=False)")
        self.zero_grad(set_to_none=True)
        return loss.detach(), gradients

    def _decide(self, closure: Closure, before: Moment, loss: Tensor, gradients: Values) -> Decision:
        """Judge the step from x, and take it if it is accepted."""
        state = TrustRegionState(self.radius, self.level)
        if not all(bool(value.isfinite().all()) for value in (loss, *gradients.values())):
            self._count("nonfinite")
            at_fault = math.isfinite(self._full_precision_loss(closure, before))
            return self._keep(*self.rule.step_without_loss(state, level_at_fault=at_fault))
        step = self._propose(gradients)
        if step is None:
            self._count("stationary")
            return Decision.REJECT
        if self.steps % self.evaluate_every:
            self._move(step)
            return Decision.ACCEPT
        exact = self.plan == self.net._precc_session.full_precision
        epsilon = 0.0 if exact else abs(loss.item() - self._full_precision_loss(closure, before))
        measured = Measurement(step.predicted_reduction, epsilon)
        decision, state = self.rule.step(measured, state)
        if decision is Decision.EVALUATE:
            if not self.rule.gate(measured):
                self._count("ungated")
            decision, state = self._try(closure, before, loss, step, epsilon, state)
        return self._keep(decision, state)

    def _try(
        self,
        closure: Closure,
        before: Moment,
        loss: Tensor,
        step: _Step,
        epsilon: float,
        state: TrustRegionState,
    ) -> tuple[Decision, TrustRegionState]:
        """Evaluate at x + p; stay there if the step is accepted."""
        origin = {parameter: parameter.detach().clone() for parameter in step.values}
        heavy_balls = {parameter: dict(self.state[parameter]) for parameter in step.values}
        decision = Decision.REJECT
        try:
            self._move(step)
            trial = self._loss(closure, before, self.plan)
            if not math.isfinite(trial):
                self._count("nonfinite")
                trial = math.inf
            actual = loss.item() - trial + step.decay_reduction
            decision, state = self.rule.step(Measurement(step.predicted_reduction, epsilon, actual), state)
        finally:
            if decision is not Decision.ACCEPT:
                with torch.no_grad():
                    for parameter, value in origin.items():
                        parameter.copy_(value)
                self.state.update(heavy_balls)
        return decision, state

    def _loss(self, closure: Closure, before: Moment, plan: PrecisionPlan) -> float:
        """The loss here under a plan, at the same moment; the plan in force and gradients are left as they were."""
        before.restore(self.net)
        self.net.set_plan(plan)
        loss = evaluate_closure(closure).item()
        self.zero_grad(set_to_none=True)
        self.net.set_plan(self.plan)
        return float(loss)

    def _full_precision_loss(self, closure: Closure, before: Moment) -> float:
        return self._loss(closure, before, self.net._precc_session.full_precision)

    def _propose(self, gradients: Values) -> _Step | None:
        """The step against G; None where G is zero."""
        objective, direction = {}, {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter in gradients:
                    own = gradients[parameter] + group["weight_decay"] * parameter.detach()
                    objective[parameter] = own
                    held = self.state[parameter].get("momentum_buffer")
                    direction[parameter] = own if held is None else group["momentum"] * held + own
        if _dot(objective, direction) <= 0:
            direction = objective
        length = math.sqrt(_dot(direction, direction))
        if length == 0.0:
            return None
        values = {p: (-self.radius / length) * towards for p, towards in direction.items()}
        decay_reduction = self._decay_reduction(values)
        return _Step(values, direction, decay_reduction, decay_reduction - _dot(gradients, values))

    def _decay_reduction(self, step: Values) -> float:
        """``wd / 2 * (||x||**2 - ||x + p||**2)``, computed from p, without cancellation."""
        total = 0.0
        for group in self.param_groups:
            here = {p: p.detach() for p in group["params"] if p in step}
            ahead = {p: step[p] for p in here}
            total -= group["weight_decay"] * (_dot(here, ahead) + 0.5 * _dot(ahead, ahead))
        return total

    def _move(self, step: _Step) -> None:
        with torch.no_grad():
            for parameter, value in step.values.items():
                parameter.add_(value)
        for group in self.param_groups:
            if group["momentum"]:
                for parameter in group["params"]:
                    if parameter in step.direction:
                        self.state[parameter]["momentum_buffer"] = step.direction[parameter]

    def _keep(self, decision: Decision, state: TrustRegionState) -> Decision:
        self.level = state.level
        for group in self.param_groups:
            group["lr"] = state.radius
        return decision

    def _count(self, event: str) -> None:
        self.events[event] += 1
        self.net._precc_session.events[event] += 1

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with the level, the number of steps, the events, and the plans of the levels."""
        own = {
            "level": self.level,
            "steps": self.steps,
            "events": dict(self.events),
            "levels": [plan.to_json() for plan in self.levels],
        }
        return {**super().state_dict(), _STATE: own}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where a `state_dict` was taken.

        Raises:
            PlanError: it is of another optimizer, or of other levels; nothing is changed.
        """
        if _STATE not in state_dict:
            raise PlanError("the state_dict is not one of TrustRegion: it has no 'trust_region' entry")
        own = state_dict[_STATE]
        if [PrecisionPlan.from_json(text) for text in own["levels"]] != list(self.levels):
            raise PlanError("the state_dict is of a TrustRegion with other levels: pass the same levels first")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != _STATE})
        self.level, self.steps, self.events = own["level"], own["steps"], Counter(own["events"])
        self.net.set_plan(self.plan)


def _as_plan(level: Level) -> PrecisionPlan:
    return level if isinstance(level, PrecisionPlan) else parse_policy(level).assign(None)


def _dot(first: Values, second: Values) -> float:
    """Inner product over the parameters of the second, in double precision."""
    terms: Iterable[Tensor] = ((first[p] * second[p]).sum(dtype=torch.float64) for p in second)
    return float(sum(terms, start=torch.zeros((), dtype=torch.float64)))
