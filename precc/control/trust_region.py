"""TrustRegion: an optimizer whose step length and arithmetic are controlled together."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from precc.control.linear_step import LinearStep, Values, propose
from precc.control.snapshot import Snapshot, loss_of_closure
from precc.control.trust_region_rule import Decision, Observation, TrustRegionRule, TrustRegionState
from precc.errors import CaptureError, ClosureError, PlanError, UnsupportedError, expected_one_of
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.policy import Policy, Uniform, assigned, parse_policy
from precc.session import Session

__all__ = ["TrustRegion"]

Closure = Callable[[], Tensor]
Level = PrecisionPlan | Policy | str

_GATES = ("source",)
_DEFAULT_LEVELS = (Uniform("e4m3"), Uniform("e5m10"), Uniform("float32"))
_STATE = "trust_region"  # its key in the state_dict


class TrustRegion(Optimizer):
    """First-order trust region with dynamic precision, for mini-batches.

    Each step moves by ``radius`` (2-norm over all parameters) against the gradient G, heavy ball if there is
    momentum. Every `evaluate_every` steps the loss is also evaluated in full precision at x, which gives its
    error epsilon, and at x + p; `TrustRegionRule` then refines the level, accepts or rejects, and moves the
    radius. All evaluations of one step see the same batch, masks and batch-norm statistics, and a rejected step
    leaves parameters, buffers and momentum as they were.

    Args:
        net: a net made by `precc.compile`; this optimizer sets its plan from the first step on.
        radius: the first radius; it lives in ``param_groups`` as ``lr``. Schedulers that multiply (StepLR,
            MultiStepLR, ExponentialLR) shrink the region beside the rule; those that set a value (LambdaLR,
            OneCycleLR, CosineAnnealingWarmRestarts) replace what the rule found.
        eta1, eta2: least ratios to accept a step, and to double the radius.
        levels: plans, policies or format names, coarsest first; refined in this order, never back. If one has
            accumulators, and the net's graphs were built without, they are built again at the next call.
        evaluate_every: steps between evaluations; those between are taken without one.
        momentum: mu in ``G <- mu * G + g``; the old G is dropped for a step on which the new one points uphill.
        weight_decay: adds ``weight_decay / 2 * ||x||_2**2`` to the objective, exactly in both reductions.
        loss_scale: factor on the gradient in the backward, taken off it afterwards.
        gate: ``"source"``: epsilon of the loss at x against ``eta1 / 2 * pred``.

    Rules of the net hold on every level. The loss in full precision is without them: what their formats do to the
    loss is part of epsilon.

    A loss or gradient that is not finite is counted. If full precision has a finite loss there, the level
    is refined; otherwise the step is rejected and the radius halved.

    Raises:
        CaptureError: the net is not compiled by precc.
        ValueError, FormatError, PlanError: an option outside its range.

    Source: the mini-batch form of Conn, Gould and Toint (Trust-Region Methods, 2000, section 10.6) with levels of
    arithmetic, radius 0.1 and levels E4M3, E5M10, FP32 (Estano, Filip, Riccietti 2022). eta1 and eta2 are usual
    constants, and the heavy ball is one reading of its momentum, neither of which is given there.
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
        if isinstance(levels, (str, PrecisionPlan)) or not isinstance(levels, Sequence):
            raise ValueError(f"levels is a sequence of plans, policies or format names, not {levels!r}")
        if not isinstance(evaluate_every, int) or evaluate_every < 1:
            raise ValueError(f"evaluate_every counts steps, at least 1; got {evaluate_every}")
        if not 0 < loss_scale < 2.0**127:
            raise ValueError(f"loss_scale must be positive, and finite in float32; got {loss_scale}")
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
        if not parameters:
            raise ValueError(f"{type(net).__name__} has no parameter that requires a gradient")
        super().__init__(parameters, {"lr": radius, "momentum": momentum, "weight_decay": weight_decay})
        self._session.builds.prepare(self.levels, recompile=True)

    @property
    def _session(self) -> Session:
        return session_of(self.net)

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
        before = Snapshot.of(self.net)
        try:
            decision = Decision.REFINE
            while decision is Decision.REFINE:
                self.net.set_plan(self.plan)
                before.restore(self.net)
                loss, gradients = self._gradients(closure)
                after = Snapshot.of(self.net)
                decision = self._decide(closure, before, loss, gradients)
                self._count(decision.value)
        except BaseException:  # also Ctrl-C: a step that did not end leaves nothing behind
            before.restore(self.net)
            self.net.set_plan(self.plan)
            raise
        (before if decision is Decision.REJECT else after).restore(self.net)
        after.restore_generators()
        for parameter in self._parameters():
            own = gradients.get(parameter)
            parameter.grad = None if own is None else own.to(parameter.dtype)
        self.steps += 1
        return loss

    def _gradients(self, closure: Closure) -> tuple[Tensor, Values]:
        """Loss and gradient at x, the loss scale taken off."""
        self.zero_grad(set_to_none=True)
        runs = self._session.builds.runs
        loss = loss_of_closure(closure)
        if self._session.builds.runs == runs:
            raise ClosureError("the closure did not call the net of this optimizer: does it say net(x), not model(x)?")
        parameters = self._parameters()
        scale = 1.0
        if all(parameter.grad is None for parameter in parameters):
            if not loss.requires_grad:
                raise ClosureError(
                    "the loss depends on no parameter of the net: is it computed under torch.no_grad, or detached?"
                )
            scale = self.loss_scale
            loss.backward(torch.full_like(loss, scale))
        if any(parameter.grad is not None and parameter.grad.is_sparse for parameter in parameters):
            raise UnsupportedError("TrustRegion does not take sparse gradients: use Embedding(sparse=False)")
        # in float32 at least: what the scale saved from underflow in float16 must outlive its removal
        widened = {p: torch.promote_types(p.dtype, torch.float32) for p in parameters}
        gradients = {p: p.grad.to(widened[p]) / scale for p in parameters if p.grad is not None}
        self.zero_grad(set_to_none=True)
        return loss.detach(), gradients

    def _decide(self, closure: Closure, before: Snapshot, loss: Tensor, gradients: Values) -> Decision:
        """Judge the step from x, and take it if it is accepted."""
        state = TrustRegionState(self.radius, self.level)
        if not all(bool(value.isfinite().all()) for value in (loss, *gradients.values())):
            self._count("nonfinite")
            at_fault = self._finite_in_full_precision(closure, before)
            return self._keep(*self.rule.step_without_loss(state, level_at_fault=at_fault))
        held = {p: own["momentum_buffer"] for p, own in self.state.items() if "momentum_buffer" in own}
        step = propose(gradients, held, self.param_groups, self.radius)
        if step is None:
            self._count("stationary")
            return Decision.REJECT
        if self.steps % self.evaluate_every:
            decision, state = self.rule.step_between(step.predicted_reduction, state)
            if decision is Decision.ACCEPT:
                self._move(step)
            return self._keep(decision, state)
        exact = self._session.plan == self._session.full_precision
        epsilon = 0.0 if exact else abs(loss.item() - self._full_precision_loss(closure, before))
        observed = Observation(step.predicted_reduction, epsilon)
        decision, state = self.rule.step(observed, state)
        if decision is Decision.EVALUATE:
            if not self.rule.gate(observed):
                self._count("ungated")
            decision, state = self._try(closure, before, loss, step, epsilon, state)
        return self._keep(decision, state)

    def _try(
        self,
        closure: Closure,
        before: Snapshot,
        loss: Tensor,
        step: LinearStep,
        epsilon: float,
        state: TrustRegionState,
    ) -> tuple[Decision, TrustRegionState]:
        """Evaluate at x + p; stay there if the step is accepted."""
        origin = {parameter: parameter.detach().clone() for parameter in step.values}
        heavy_balls = {parameter: dict(self.state[parameter]) for parameter in step.values}
        decision = Decision.REJECT
        try:
            self._move(step)
            trial = self._loss(closure, before)
            if not math.isfinite(trial):
                self._count("nonfinite")
                trial = math.inf
            actual = loss.item() - trial + step.decay_reduction
            decision, state = self.rule.step(Observation(step.predicted_reduction, epsilon, actual), state)
        finally:
            if decision is not Decision.ACCEPT:
                with torch.no_grad():
                    for parameter, value in origin.items():
                        parameter.copy_(value)
                self.state.update(heavy_balls)
        return decision, state

    def _loss(self, closure: Closure, before: Snapshot) -> float:
        """The loss here under the plan in force, at the same moment; gradients are left as they were."""
        before.restore(self.net)
        loss = loss_of_closure(closure).item()
        self.zero_grad(set_to_none=True)
        return float(loss)

    def _finite_in_full_precision(self, closure: Closure, before: Snapshot) -> bool:
        """Whether loss and gradient at x are finite in full precision: what is not, is then the level's fault."""
        before.restore(self.net)
        self._session.use_full_precision()
        loss, gradients = self._gradients(closure)
        self.net.set_plan(self.plan)
        return all(bool(value.isfinite().all()) for value in (loss, *gradients.values()))

    def _full_precision_loss(self, closure: Closure, before: Snapshot) -> float:
        self._session.use_full_precision()
        loss = self._loss(closure, before)
        self.net.set_plan(self.plan)
        return loss

    def _move(self, step: LinearStep) -> None:
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
        self._session.events[event] += 1

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; momentum and weight decay are a group's own, the radius is one for all.

        Raises:
            ValueError: the group has an ``lr`` of its own, or an option outside its range.
        """
        radius = self.param_groups[0]["lr"] if self.param_groups else self.defaults["lr"]
        if param_group.get("lr", radius) != radius:
            raise ValueError(f"a trust region has one radius for all groups, {radius}; leave 'lr' out")
        options = {**self.defaults, **param_group}
        if not 0 <= options["momentum"] < 1:
            raise ValueError(f"momentum must be in [0, 1), got {options['momentum']}")
        if not 0 <= options["weight_decay"] < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative, got {options['weight_decay']}")
        super().add_param_group({**param_group, "lr": radius})

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles take the net along."""
        own = ("net", "levels", "rule", "evaluate_every", "loss_scale", "level", "steps", "events")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

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
            ValueError: its parameter groups are not those of this optimizer; nothing is changed.
        """
        own = state_dict.get(_STATE)
        if not isinstance(own, Mapping) or set(own) != {"level", "steps", "events", "levels"}:
            raise PlanError("the state_dict is not one of TrustRegion: it has no whole 'trust_region' entry")
        if [PrecisionPlan.from_json(text) for text in own["levels"]] != list(self.levels):
            raise PlanError("the state_dict is of a TrustRegion with other levels: pass the same levels first")
        counts = own["events"].values() if isinstance(own["events"], Mapping) else [None]
        whole = all(type(count) is int and count >= 0 for count in (own["level"], own["steps"], *counts))
        if not whole or own["level"] >= len(self.levels):
            raise PlanError(
                f"the state_dict has a level, steps or events that cannot be: {dict(own) | {'levels': '...'}}"
            )
        super().load_state_dict({key: value for key, value in state_dict.items() if key != _STATE})
        self.level, self.steps, self.events = own["level"], own["steps"], Counter(own["events"])
        self.net.set_plan(self.plan)


def _as_plan(level: Level) -> PrecisionPlan:
    return level if isinstance(level, PrecisionPlan) else assigned(parse_policy(level))
