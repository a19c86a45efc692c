"""What optimizers have in common that evaluate a closure and choose step length and arithmetic together."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from precc.checked_net import checked_net
from precc.control.closure_state import ClosureState
from precc.control.linear_step import LinearStep, Values, propose
from precc.control.moment import Closure, Moment, all_finite
from precc.control.rounded_moves import RoundedMoves
from precc.control.snapshot import Snapshot
from precc.control.static_scale import check_static, checked_scale, scale_of
from precc.control.trust_region_rule import Decision, Observation
from precc.errors import ClosureError, ControllerError
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.session import Session

__all__ = ["ClosureOptimizer", "numbers_of"]


class ClosureOptimizer(ClosureState):
    """Base of `TrustRegion` and `STORM`: steps of a linear model, as long as the radius, of which it has one.

    A subclass has ``_decide``, and ``_own_state`` with ``_checked_state`` and ``_load`` for what it remembers.

    What a plan says of updates holds: gradient buffers, momentum, steps and parameters are rounded, of steps that are
    tried too. The predicted reduction is that of the step before it is rounded.

    Args:
        net: a net made by `precc.compile`; this optimizer sets its plan from the first step on.
        levels: plans, policies or format names, coarsest first; none for a subclass that makes its plans.
        radius: the first radius.
        loss_scale: factor on the gradient in the backward, taken off it afterwards, under plans without loss scaling;
            None: 1024.
        group_options: further defaults of parameter groups.

    Raises:
        CaptureError: the net is not compiled by precc.
        ControllerError, FormatError, PlanError: an option outside its range, or two that do not go together.
        UnsupportedError: the loss scaling of a level is dynamic.
    """

    def __init__(
        self,
        net: PrecisionModule,
        levels: Sequence[PrecisionPlan],
        radius: float,
        loss_scale: float | None,
        group_options: Mapping[str, float],
    ) -> None:
        self.net = checked_net(net, type(self).__name__)
        self.levels = tuple(levels)
        check_static(self.levels, type(self).__name__)
        self.loss_scale = checked_scale(loss_scale, self.levels)
        self.level = 0
        self.steps = 0
        #: Steps accepted and rejected, refinements, and what was not finite, stationary or judged without a gate.
        self.events: Counter[str] = Counter()
        parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        if not parameters:
            raise ControllerError(f"{type(net).__name__} has no parameter that requires a gradient")
        super().__init__(parameters, {"lr": radius, "momentum": 0.0, "weight_decay": 0.0, **group_options})
        self._session.builds.prepare(self.levels, recompile=True)
        self._attach()

    def _attach(self) -> None:
        """It rounds updates and scales losses, as plans say."""
        self._moves = RoundedMoves(self.net)
        self._session.parts.rounding.add(self)
        self._session.parts.scaling.add(self)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the parameters whose updates it rounds as its plans say."""
        held = {id(own) for own in self._parameters()}
        return tuple(path for path, own in self.net.named_parameters() if id(own) in held)

    def lost(self) -> Mapping[str, float]:
        """Share of the elements whose last step nearest rounding of the master weight loses, by path."""
        return self._moves.lost()

    def get_scale(self) -> float:
        """The factor of the next loss: of the plan's loss scaling, or else `loss_scale`."""
        return self._scale_of(self.plan)

    def _scale_of(self, plan: PrecisionPlan | None) -> float:
        """Under a plan; full precision, which is None, has that of the plan in force."""
        return scale_of(self.plan if plan is None else plan, self.loss_scale)

    @property
    def _session(self) -> Session:
        return session_of(self.net)

    @property
    def radius(self) -> float:
        """The present radius."""
        return float(self.param_groups[0]["lr"])

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """What ``torch.amp.GradScaler.step`` asks first."""
        name = type(self).__name__
        raise ClosureError(
            f"{name} scales its loss itself ({name}(net, loss_scale=...)), and evaluates it again: call "
            "opt.step(closure) without the scaler"
        )

    @property
    def _ruled(self) -> PrecisionPlan:
        """The plan, under the net's rules."""
        return self.plan.under(self._session.rules)

    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """One step. Returns the loss at the point where it started, in the arithmetic of the step.

        Args:
            closure: evaluates the loss of one batch: ``lambda: loss_fn(net(x), y)``. One that calls backward
                itself is accepted; its loss is then not scaled.

        Raises:
            ClosureError: no closure, or one that returns no scalar, or a loss without a gradient.
            ControllerError: the net has a parameter to train that this optimizer does not have.
        """
        if closure is None:
            raise ClosureError(f"{type(self).__name__}.step needs a closure: opt.step(lambda: loss_fn(net(x), y))")
        self._check_parameters()
        self._moves.begin(self._ruled, self._parameters())
        moment = Moment(self.net, closure, self._parameters(), self._scale_of, type(self).__name__)
        try:
            decision = Decision.REFINE
            while decision in (Decision.REFINE, Decision.BUDGET):
                loss, exact = moment.gradients(self.plan)
                gradients = self._moves.gradients(exact, self._ruled)
                after = Snapshot.of(self.net)
                decision = self._decide(moment, loss, gradients)
                self._count(decision.value)
            self.net.set_plan(self.plan)
        except BaseException:  # also Ctrl-C: a step that did not end leaves nothing behind
            moment.before.restore(self.net)
            self.net.set_plan(self.plan)
            raise
        self._leave(moment, after, decision)
        for parameter in self._parameters():
            own = gradients.get(parameter)
            parameter.grad = None if own is None else own.to(parameter.dtype)
        self.steps += 1
        return loss

    def _decide(self, moment: Moment, loss: Tensor, gradients: Values) -> Decision:
        """Judge the step from x, and take it if it is accepted."""
        raise NotImplementedError

    def _fault(self, moment: Moment) -> tuple[bool, str]:
        """Whether a loss or gradient that is not finite is so under the plan in force alone, and that in words."""
        self._count("nonfinite")
        at_fault = all_finite(*moment.gradients(None))
        return at_fault, f"loss or gradient is not finite, {'under this plan alone' if at_fault else 'in any'}"

    def _stationary(self, loss: Tensor) -> Decision:
        self._count("stationary")
        self._note("stationary", "the gradient is zero", level=self.level, loss=loss.item())
        return Decision.REJECT

    def _reduction(self, step: LinearStep, loss: Tensor, trial: float) -> float:
        """The computed decrease of the objective; infinitely negative if the loss at x + p is not finite."""
        if math.isfinite(trial):
            return float(loss.item()) - trial + step.decay_reduction
        self._count("nonfinite")
        return -math.inf

    def _take(self, radius: float, level: int) -> None:
        self.level = level
        for group in self.param_groups:
            group["lr"] = radius

    def _leave(self, moment: Moment, after: Snapshot, decision: Decision) -> None:
        """Buffers and amax history as one evaluation at x leaves them, or as before a step that was undone."""
        undone = decision is Decision.REJECT and not moment.kept
        (moment.before if undone else after).restore(self.net)
        after.restore_generators()

    def _propose(self, gradients: Values, form: str = "heavy_ball") -> LinearStep | None:
        held = {p: own["momentum_buffer"] for p, own in self.state.items() if "momentum_buffer" in own}
        return propose(gradients, held, self.param_groups, self.radius, form=form)

    def _move(self, step: LinearStep) -> None:
        self._moves.move(step.values, self._ruled)
        held = self._moves.momentum(step.direction, self._ruled)
        for group in self.param_groups:
            if group["momentum"]:
                for parameter in group["params"]:
                    if parameter in held:
                        self.state[parameter]["momentum_buffer"] = held[parameter]

    @contextmanager
    def _tentatively(self, step: LinearStep) -> Iterator[Callable[[], None]]:
        """At x + p; afterwards at x again, with the momentum of before, unless what this yields was called."""
        origin = {parameter: parameter.detach().clone() for parameter in step.values}
        own = {parameter: dict(self.state[parameter]) for parameter in step.values}
        stays: list[bool] = []
        try:
            self._move(step)
            yield lambda: stays.append(True)
        finally:
            if not stays:
                with torch.no_grad():
                    for parameter, value in origin.items():
                        parameter.copy_(value)
                self.state.update(own)

    def _count(self, event: str) -> None:
        self.events[event] += 1
        self._session.events[event] += 1

    def _note(self, event: str, reason: str, **own: Any) -> None:
        """A row of the net's history."""
        self._session.history.note(
            step=self.steps,
            controller=type(self).__name__,
            event=event,
            reason=reason,
            plan=self._ruled,
            radius=self.radius,
            **own,
        )

    def _check_parameters(self) -> None:
        held = {id(parameter) for parameter in self._parameters()}
        new = [name for name, own in self.net.named_parameters() if own.requires_grad and id(own) not in held]
        if new:
            raise ControllerError(
                f"{type(self.net).__name__} has a parameter {new[0]!r} to train, and {len(new) - 1} more, which this "
                "optimizer does not have: opt.add_param_group({'params': [...]}), or freeze it"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; momentum and weight decay are a group's own, the radius is one for all.

        Raises:
            ControllerError: the group has an ``lr`` of its own, or an option outside its range.
        """
        radius = self.param_groups[0]["lr"] if self.param_groups else self.defaults["lr"]
        if param_group.get("lr", radius) != radius:
            raise ControllerError(f"a trust region has one radius for all groups, {radius}; leave 'lr' out")
        options = {**self.defaults, **param_group}
        if not 0 <= options["momentum"] < 1:
            raise ControllerError(f"momentum must be in [0, 1), got {options['momentum']}")
        if not 0 <= options["weight_decay"] < math.inf:
            raise ControllerError(f"weight_decay must be finite and not negative, got {options['weight_decay']}")
        super().add_param_group({**param_group, "lr": radius})


def numbers_of(seen: Observation | None) -> dict[str, float | None]:
    """What a history keeps of an observation."""
    if seen is None:
        return {}
    return {
        "epsilon": None if math.isnan(seen.epsilon) else seen.epsilon,
        "predicted_reduction": seen.predicted_reduction,
        "actual_reduction": seen.actual_reduction,
    }
