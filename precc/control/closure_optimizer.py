"""What optimizers have in common that evaluate a closure and choose step length and arithmetic together."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from precc.control.closure_state import checked_closure_state
from precc.control.controller import checked_net
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


class ClosureOptimizer(Optimizer):
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

    _entry: ClassVar[str]  #: its key in the state_dict
    _attributes: ClassVar[tuple[str, ...]] = ("net", "levels", "loss_scale", "level", "steps", "events")

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
    def plan(self) -> PrecisionPlan:
        """The plan of the present level."""
        return self.levels[self.level]

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

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

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

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles take the net along."""
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self._attributes}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "net" in state:  # torch calls it for a state_dict too
            self._attach()

    def _own_state(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "steps": self.steps,
            "events": dict(self.events),
            "levels": [plan.to_json() for plan in self.levels],
            "net": self.net.precision_state(),
        }

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with level, steps, events, plans of the levels, its own, and the net's precision state."""
        return {**super().state_dict(), self._entry: self._own_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where a `state_dict` was taken.

        Raises:
            PlanError: it is of another optimizer, or of other levels; nothing is changed.
            ValueError: its parameter groups are not those of this optimizer; nothing is changed.
        """
        own = self._checked_state(state_dict.get(self._entry))
        before = self.net.precision_state()
        self.net.load_precision_state(own["net"])
        try:
            super().load_state_dict({key: value for key, value in state_dict.items() if key != self._entry})
        except BaseException:
            self.net.load_precision_state(before)
            raise
        self._keep_dtypes(state_dict)
        self._load(own)
        self.net.set_plan(self.plan)

    def _checked_state(self, own: Any) -> Mapping[str, Any]:
        """An entry that can be loaded."""
        return checked_closure_state(own, list(self._own_state()), self.levels, type(self).__name__, self._entry)

    def _load(self, own: Mapping[str, Any]) -> None:
        self.level, self.steps, self.events = own["level"], own["steps"], Counter(own["events"])

    def _keep_dtypes(self, state_dict: Mapping[str, Any]) -> None:
        """Torch loads what belongs to a parameter in its dtype; momentum of a float16 net is float32."""
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, parameter in zip(numbers, self._parameters(), strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[parameter][name] = value.detach().to(parameter.device, copy=True)


def numbers_of(seen: Observation | None) -> dict[str, float | None]:
    """What a history keeps of an observation."""
    if seen is None:
        return {}
    return {
        "epsilon": None if math.isnan(seen.epsilon) else seen.epsilon,
        "predicted_reduction": seen.predicted_reduction,
        "actual_reduction": seen.actual_reduction,
    }
