"""MPSGD: around an optimizer, the coarsest arithmetic whose error is small beside the decrease of a step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from precc.analysis.analysis_options import AnalysisOptions
from precc.checks import checked_count
from precc.control.controller import Controller
from precc.control.level_errors import LevelErrors
from precc.control.levels import DEFAULT_LEVELS, Level, plans_of
from precc.control.loss_errors import checked_z, epsilon_of
from precc.control.moment import Moment, check_no_gradients
from precc.control.mpsgd_rule import MPSGDDecision, MPSGDObservation, MPSGDRule, MPSGDState
from precc.control.preconditioned import preconditioner, square_of_gradients
from precc.control.region_errors import check_choice, error_between
from precc.control.secant import SecantRule
from precc.control.snapshot import Snapshot
from precc.control.static_scale import check_static, scale_of
from precc.control.trajectory import Trajectory
from precc.control.watched_batch import Loss
from precc.errors import ControllerError
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan

__all__ = ["MPSGD"]

_scale = partial(scale_of, otherwise=1.0)


class MPSGD(Controller):
    """Mixed-precision SGD: steps in the coarsest level with an error of at most ``gamma * eta / 2 * <G, P G>``.

    The error is that of the loss. Gamma is the optimizer's learning rate, of several groups the smallest; G is the
    gradient as the optimizer gets it; P is 1 in SGD, in optimizers of Adam's kind ``1 / (sqrt(v) + eps)``, and as
    `precc.control.preconditioned.preconditioner` says in RMSprop, Adagrad and Adamax; others are an error.
    ``ctl.step(loss)`` after each ``optimizer.step()`` chooses the level of the next step by the gradient of this one;
    where this one turns out to have been computed in a level that its own gradient does not allow, that is an event,
    ``violation``. ``ctl.backward(closure)`` in the place of forward and backward is strict: it begins with the coarsest
    level, and evaluates again in the next finer one while the gradient does not allow it.

    Errors are measured on the last batch every `measure_every` steps, under each level against full precision, and the
    largest of the last `window` counts. The training begins in the finest level.

    With ``gamma <= 2 * (1 - eta) / L`` the random iterate has ``E ||grad f||**2 = O(1 / sqrt(N))`` above a floor of
    ``eta * sigma**2 / (1 - eta)`` for a constant eta, sigma being the noise of the gradient: eta is a policy, and with
    ``scale_eta=True`` the floor falls with the learning rate. L is estimated from secants (`SecantRule` says how the
    noise of batches gets into it), in Adam's metric where there is one; a rate above that is an event, ``rate``. The
    weights of the random iterate have the estimate of their time, and no L before the second step.

    Args:
        net: made by `precc.compile`; the controller sets its plan.
        optimizer: of the net's parameters.
        eta: in (0, 1).
        levels: plans, policies or format names, coarsest first.
        loss: a module, which is observed where it is called, or a function, called as ``ctl.loss(net(x), y)``. None:
            the model's own. The strict form needs none.
        scale_eta: eta in proportion to gamma, beginning with `eta`.
        epsilon: ``"measured"``, or ``"predicted"`` by an analysis of the last batch: ``|mean| + z * sigma``.
        z: see there.
        measure_every: steps from one measurement to the next.
        window: measurements that count.
        lipschitz: whether L is estimated; it takes the memory of two copies of the parameters.
        secants: how.
        keep_iterate: whether the random iterate is kept, in ``ctl.iterate``; one more copy.
        seed: of its choice.
        analysis: how batches are analysed.

    Raises:
        CaptureError, ControllerError, PlanError, FormatError: what does not fit.

    Source: see `precc.control.mpsgd_rule`.
    """

    def __init__(
        self,
        net: PrecisionModule,
        optimizer: Optimizer,
        eta: float = 0.1,
        levels: Sequence[Level] = DEFAULT_LEVELS,
        loss: Loss | None = None,
        *,
        scale_eta: bool = False,
        epsilon: str = "measured",
        z: float = 2.0,
        measure_every: int = 10,
        window: int = 10,
        lipschitz: bool = True,
        secants: SecantRule | None = None,
        keep_iterate: bool = False,
        seed: int = 0,
        analysis: AnalysisOptions | None = None,
    ) -> None:
        self.levels = plans_of(levels)
        self.rule = MPSGDRule(eta=eta, levels=len(self.levels), scale_eta=scale_eta)
        self._trajectory = Trajectory(
            rule=SecantRule() if secants is None else secants, lipschitz=lipschitz, keep=keep_iterate, seed=seed
        )
        check_choice("epsilon", epsilon, ("measured", "predicted"))
        self.epsilon, self.z = epsilon, checked_z(z)
        self.measure_every = checked_count("measure_every", measure_every, 1)
        self.options = AnalysisOptions() if analysis is None else analysis
        self._errors = LevelErrors.of(levels=len(self.levels), window=window)
        super().__init__(net, optimizer, loss)
        self._rule_state = self.rule.init()
        self._square = math.nan  # <G, P G> of the last step
        self._counts = [0] * len(self.levels)
        self._too_long = False
        self._rate = self.rate
        self._strict = False  # whether the step under way has its level by ctl.backward
        session_of(net).builds.prepare(self.levels, recompile=True)
        self.set_plan(self.plan)

    @property
    def level(self) -> int:
        """That in force, 0 the coarsest."""
        return self._rule_state.level

    @property
    def plan(self) -> PrecisionPlan:
        """Of that level."""
        return self.levels[self.level]

    @property
    def share_of_levels(self) -> tuple[float, ...]:
        """Share of the steps that were computed in each level; NaN before the first."""
        total = sum(self._counts)
        return tuple(count / total if total else math.nan for count in self._counts)

    @property
    def lipschitz_estimate(self) -> float | None:
        """L; None before two steps, or if it is not estimated."""
        return self._trajectory.estimate

    @property
    def iterate(self) -> dict[str, Tensor] | None:
        """The random iterate, by name of the parameter, if it is kept."""
        return self._trajectory.iterate

    @property
    def rate(self) -> float:
        """Gamma: the learning rate, of several groups the smallest."""
        return min(float(group["lr"]) for group in self.optimizer.param_groups)

    def backward(self, closure: Callable[[], Tensor]) -> Tensor:
        """Loss and gradients of a batch, in the coarsest level that its gradient allows; then ``optimizer.step()``.

        The plan's loss scaling is that of this backward, and is taken off: no `precc.LossScaler` is needed.

        Args:
            closure: evaluates the loss: ``lambda: loss_fn(net(x), y)``. It is called once for each level that is
                tried, and at measurements, on the same masks and batch-norm statistics. Micro-batches go into one
                closure: gradients do not add up over several calls.

        Raises:
            ClosureError: it returns no loss of the net.
            ControllerError: there are gradients of before.
            UnsupportedError: a plan's loss scaling is dynamic.
        """
        check_no_gradients(self.gradients(), "MPSGD.backward")
        plans = [self._whole(plan) for plan in self.levels]
        check_static(plans, "MPSGD.backward")
        session = session_of(self.net)
        session.parts.scaling.add(self)
        moment = Moment(self.net, closure, list(self.parameters.values()), _scale, type(self).__name__)
        try:
            if self._due(self.steps):
                self._note_errors(self._measured_at(moment, plans))
            for level, plan in enumerate(plans):
                loss, gradients = moment.gradients(plan)
                after = Snapshot.of(self.net)
                named = {name: gradients[own] for name, own in self.parameters.items() if own in gradients}
                square = square_of_gradients(named, self.parameters, self.optimizer)
                bound = self.rule.bound(self.rate, square, self._rule_state)
                if self.rule.passes(self._errors.largest[level], bound):
                    break
        except BaseException:  # also Ctrl-C: nothing is left behind
            moment.forget_gradients()
            moment.before.restore(self.net)
            self._set = session.chosen  # by this controller, not by somebody else
            self.set_plan(self.plan)
            raise
        self._set = session.chosen
        after.restore(self.net)
        for own, gradient in gradients.items():
            own.grad = gradient.to(own.dtype)
        self._move_to(level, bound)
        self._strict = True
        return loss

    def _whole(self, plan: PrecisionPlan) -> PrecisionPlan:
        """A plan with the updates that go on in it, set."""
        self.set_plan(plan)
        return session_of(self.net).chosen or plan

    def get_scale(self) -> float:
        """The factor of the next loss of `backward`."""
        return _scale(session_of(self.net).plan)

    def _measured_at(self, moment: Moment, plans: Sequence[PrecisionPlan]) -> list[float]:
        reference = moment.loss(None)
        if self.epsilon == "predicted":
            return self._measure()
        return [error_between(moment.loss(plan), reference) for plan in plans]

    # what it sees of a step

    def _before_update(self) -> None:
        self._rate = self.rate
        self._trajectory.see(self.parameters, self.gradients(), preconditioner(self.parameters, self.optimizer))

    def _see_update(self) -> None:
        super()._see_update()
        self._square = square_of_gradients(self.gradients(), self.parameters, self.optimizer)

    # what it decides

    def _decide(self, loss: float | None) -> None:
        if not self._strict and self._due(self.steps - 1):
            self._note_errors(self._measure())
        state = self._rule_state
        observed = MPSGDObservation(self._rate, self._square, self._errors.largest, self.lipschitz_estimate)
        decision, after = self.rule.step(observed, state)
        self._counts[state.level] += 1
        self._rule_state = replace(after, level=state.level)
        self._trajectory.draw(self.steps, decision.replaces)
        self._tell(decision, loss)
        if not self._strict:
            self._move_to(decision.level, decision.bound, loss=loss)
        self._strict = False

    def _due(self, steps: int) -> bool:
        return steps % self.measure_every == 0 or not self._errors.observed[0]

    def _measure(self) -> list[float]:
        """Errors of the loss of the last batch under each level."""
        if not self.watch.has_loss:
            raise ControllerError(
                "errors of levels are those of the loss of the last batch: MPSGD(net, optimizer, loss=loss_fn), and "
                "loss = ctl.loss(net(x), y) in the training"
            )
        rules = session_of(self.net).rules
        if self.epsilon == "predicted":
            analysis = self.watch.analyze(self.options)
            return [epsilon_of(analysis.predict(plan.under(rules)), self.z) for plan in self.levels]
        found = []
        for plan in (None, *self.levels):
            with self.watch.in_plan(plan):
                found.append(float(self.watch.evaluate().item()))
        return [error_between(own, found[0]) for own in found[1:]]

    def _note_errors(self, errors: Sequence[float]) -> None:
        self._errors = self._errors.noted([abs(own) for own in errors])

    def _tell(self, decision: MPSGDDecision, loss: float | None) -> None:
        if not decision.passed:
            reason = f"epsilon {decision.epsilon:.3g} is above {decision.bound:.3g}, by the gradient of its own step"
            self.note("violation", reason, level=self.level, epsilon=decision.epsilon, loss=loss)
        if decision.too_long and not self._too_long:
            reason = f"the learning rate {self._rate:.3g} is above 2 * (1 - eta) / L = {decision.rate_bound:.3g}"
            self.note("rate", reason, level=self.level, loss=loss)
        self._too_long = decision.too_long

    def _move_to(self, level: int, bound: float, **numbers: Any) -> None:
        changed, epsilon = level != self.level, self._errors.largest[level]
        self._rule_state = replace(self._rule_state, level=level)
        self.set_plan(self.plan)
        if changed:
            self.note("level", self.rule.reason(epsilon, bound), level=level, epsilon=epsilon, **numbers)

    # what it remembers

    def _state(self) -> dict[str, Any]:
        return {
            "levels": [plan.to_json() for plan in self.levels],
            "rule": asdict(self._rule_state),
            "errors": [list(own) for own in self._errors.observed],
            "counts": list(self._counts),
            "too_long": self._too_long,
            **self._trajectory.state(),
        }

    def _load(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or set(state) != set(self._state()):
            raise ControllerError("the state_dict is not one of MPSGD: it has not all of its entries")
        if [PrecisionPlan.from_json(text) for text in state["levels"]] != list(self.levels):
            raise ControllerError("the state_dict is of an MPSGD with other levels: pass the same levels first")
        rule = MPSGDState(**state["rule"])
        if type(rule.level) is not int or not 0 <= rule.level < len(self.levels):
            raise ControllerError(f"the state_dict has a level that cannot be: {rule.level!r}")
        self._errors = LevelErrors(self._errors.window, tuple(tuple(own) for own in state["errors"]))
        self._counts, self._too_long = list(state["counts"]), state["too_long"]
        self._trajectory.load(state)
        self._rule_state, self._strict = rule, False
