"""NoiseAware: as little precision as the noise of the gradient allows."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.assignment.candidates import CANDIDATES
from precc.control.controller import Controller
from precc.control.guards import Alarm, GuardEvent, GuardReading, Guards, GuardState
from precc.control.noise_aware_rule import NoiseAwareRule, NoiseAwareState, NoiseDecision, Proposal
from precc.control.noise_probe import NoiseProbe
from precc.control.ranks import Ranks
from precc.control.watched_batch import Loss
from precc.cost.cost_model import CostModel
from precc.errors import ControllerError, InfeasibleError
from precc.formats import Format
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.policies.noise_budget import NoiseBudget, without_forward_weights
from precc.precision import Precision
from precc.target import Target

__all__ = ["NoiseAware"]

#: Weight of a new loss in the running one.
_NEW = 0.05


_GUARDS = Guards()

#: Values of each tensor that are looked at.
_SAMPLES = 2048

#: Plans that are proposed at most, each after the errors of the one before were measured.
_TRIES = 3


class NoiseAware(Controller):
    """Rounds as much as hides in the noise of the gradient: chosen anew by error analysis while the training goes on.

    At some steps the last batch is analysed (its first `rows` examples), the noise of the gradient measured, and the
    cheapest plan within `NoiseBudget` proposed. Its error of the gradient is measured on the halves of the batch, where
    what they have in common persists, and a plan that exceeds the budget is proposed again with a tighter one.
    `NoiseAwareRule` says what is taken of it. Before a plan is taken its
    loss is evaluated on that batch (*shadow*), and it is refused if that differs from full precision's by more than
    predicted. If the loss of the training leaves the band of `guards`, or is not finite, the plan is rolled back.

    The noise is measured by `precc.control.noise_probe.NoiseProbe`; ``net.history`` says from what. In a training of
    several ranks the first one analyses and decides, and all do as it says.

    With an optimizer of Adam's kind, errors and noise are measured in its norm, weights ``1 / (sqrt(v) + eps)``.

    >>> import torch, precc
    >>> net = precc.compile(torch.nn.Linear(4, 3), backend="reference")
    >>> optimizer, criterion = torch.optim.SGD(net.parameters(), lr=0.1), torch.nn.CrossEntropyLoss()
    >>> ctl = NoiseAware(net, optimizer, loss=criterion)
    >>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     loss = criterion(net(x), y)
    ...     loss.backward()
    ...     optimizer.step()
    ...     ctl.step(loss)
    >>> [row.event for row in net.history][:2]
    ['analysis', 'wait']

    Args:
        net: made by `precc.compile`; the training begins in full precision.
        optimizer: any, of the net's parameters.
        theta: rounding relative to the noise of the gradient; 0.5 costs as much as a batch smaller by a fifth.
        loss: a module, which is observed where it is called, or a function, called as ``ctl.loss(net(x), y)``. None:
            the model's own. Without either, the gradient that the loss had stands for it: then the loss's curvature is
            not seen, nothing is evaluated in shadow, and noise comes from micro-batches or moments.
        rule: `NoiseAwareRule`: when, and how fast.
        horizon, lost, candidates: as in `NoiseBudget`.
        loss_gap: of forward weights, relative to the running loss.
        rows: examples that are analysed; None: an eighth of the batch, 8 at least.
        probes: as in `precc.AnalysisOptions`.
        band: predicted deviations by which a loss in shadow may differ.
        guards: when the training goes wrong; None: never. A step whose gradient is not finite is left out: the
            optimizer finds no gradients.
        cost, target: as in ``policy.assign``.

    Raises:
        CaptureError, ControllerError, PlanError, FormatError: what does not fit.
    """

    def __init__(
        self,
        net: PrecisionModule,
        optimizer: Optimizer,
        theta: float = 0.5,
        loss: Loss | None = None,
        *,
        rule: NoiseAwareRule | None = None,
        horizon: float = 10.0,
        loss_gap: float = 0.005,
        lost: float = 1e-3,
        candidates: Sequence[Precision | Format | str] = CANDIDATES,
        rows: int | None = None,
        probes: int = 8,
        band: float = 3.0,
        guards: Guards | None = _GUARDS,
        cost: CostModel | None = None,
        target: Target | str = "cpu-emulated",
    ) -> None:
        if not (isinstance(loss_gap, (int, float)) and 0 < loss_gap < math.inf):
            raise ControllerError(f"loss_gap is relative to the loss, above 0, not {loss_gap!r}")
        if not (isinstance(band, (int, float)) and 0 < band):
            raise ControllerError(f"band is a number of deviations, above 0, not {band!r}")
        self.rule = NoiseAwareRule() if rule is None else rule
        #: Its noise and loss gap are those of each analysis.
        self.policy = NoiseBudget(noise=1.0, theta=theta, horizon=horizon, lost=lost, candidates=candidates)
        self.options = AnalysisOptions(probes=probes, rows=rows, samples=_SAMPLES)
        self.loss_gap, self.band, self.cost, self.target = loss_gap, band, cost, target
        super().__init__(net, optimizer, loss)
        self._rule_state = self.rule.init()
        self.guards = guards
        self._guarded = GuardState()
        self._norm: float | None = None
        self._running: float | None = None
        self._tightness = 1.0  # of theta: errors measured under plans, relative to predicted ones
        self.probe = NoiseProbe(self.watch, optimizer)

    def close(self) -> None:
        self.probe.disarm()
        super().close()

    # what it sees of a step

    def _before_update(self) -> None:
        self.probe.see(self.gradients())
        if self.guards is not None:
            self._norm = float(get_total_norm(list(self.gradients().values())))
            if not math.isfinite(self._norm):
                for own in self.parameters.values():
                    own.grad = None

    def _decide(self, loss: float | None) -> None:
        alarm = Ranks.present().first_of(self._alarm(loss))
        if alarm is not None:
            self._roll_back(alarm, loss)
            return
        if loss is not None and math.isfinite(loss):
            self._running = loss if self._running is None else (1 - _NEW) * self._running + _NEW * loss
        if self.steps >= self._rule_state.due:
            self._analyse()
            self.probe.forget()
        elif self.steps + 1 == self._rule_state.due:
            self.probe.arm()

    def _alarm(self, loss: float | None) -> Alarm | None:
        if self.guards is None:
            return None
        if loss is not None:
            alarm, self._guarded = self.guards.step(GuardReading(loss, self._norm), self._guarded)
            return alarm
        if self._norm is None or math.isfinite(self._norm):
            return None
        return Alarm(GuardEvent.NONFINITE_GRADIENT, f"the gradient's norm is {self._norm}")

    # what it decides

    def _analyse(self) -> None:
        ranks, metric = Ranks.present(), self.probe.metric()
        noise = self.probe.measure(ranks, metric, 0.0 if self._rule_state.plan is None else self.policy.theta)
        policy = replace(self.policy, noise=noise.variance, batch=self.probe.examples(ranks))
        analysis = self._analysis(metric) if ranks.decides else None
        said = None if analysis is None else self._proposed(policy, analysis, metric)
        text, reason, self._tightness = ranks.told(said)
        plan = PrecisionPlan.from_json(text)
        figures: dict[str, Any] = {"noise": noise.variance, "noise_source": noise.source.value, "loss": self._running}
        self.note("analysis", reason, budget=policy.theta**2 * noise.variance, **figures)
        decision, wanted, state = self.rule.step(Proposal(self.steps, plan), self._rule_state)
        if decision is not NoiseDecision.SWITCH or wanted is None:
            self._rule_state = state
            self.note(decision.value, "two analyses must agree" if decision is NoiseDecision.WAIT else "it is in force")
            return
        refused = ranks.told("" if analysis is None else self._shadow(wanted, analysis))
        if refused:
            self._rule_state = state
            self.note("refused", refused)
            return
        self.set_plan(wanted)
        self._rule_state = self.rule.commit(wanted, self.steps, state)
        self.note("switch", f"{_bits(state.plan)} to {_bits(wanted)} bits", budget=policy.theta**2 * noise.variance)

    def _analysis(self, metric: dict[str, Tensor]) -> Analysis:
        rows = self.watch.batch.rows()
        own = max(8, rows // 8) if self.options.rows is None else self.options.rows
        options = replace(self.options, rows=min(own, rows) if rows else None, seed=self.steps % 2**32, metric=metric)
        return self.watch.analyze(options)

    def _proposed(self, policy: NoiseBudget, analysis: Analysis, metric: dict[str, Tensor]) -> tuple[str, str, float]:
        """A plan as text, why, and the tightness that it took; float32 if no other hides in the noise."""
        running = abs(analysis.loss if self._running is None else self._running)
        gap, tightness = max(self.loss_gap * running, 1e-30), self._tightness
        exact = self.probe.exact_halves() if self.probe.has_halves else None
        try:
            for _ in range(_TRIES):
                own = replace(policy, loss_gap=gap, theta=policy.theta * tightness)
                plan = own.assign(analysis, cost=self.cost, target=self.target, rules=session_of(self.net).rules)
                reason = f"{plan.average_bits:.3g} bits hide in the noise"
                if exact is None or not policy.noise:
                    break
                spent = self.probe.rounding(without_forward_weights(plan), exact, metric, policy.horizon) / policy.noise
                reason = f"{reason}: measured {spent:.3g} of it, {policy.theta**2:.3g} allowed"
                tightness = min(1.0, tightness * _tightened(policy.theta**2, spent))
                if spent <= policy.theta**2:
                    break
        except InfeasibleError as error:
            plan, reason = PrecisionPlan("float32").resolve(analysis.multiply_adds), str(error)
        return plan.to_json(), reason, tightness

    def _shadow(self, plan: PrecisionPlan, analysis: Analysis) -> str:
        """Why a plan is refused, after its loss on the last batch; empty if it is not."""
        if not self.watch.has_loss:
            return ""
        found = {}
        for own in (None, plan):
            with self.watch.in_plan(own):
                found[own] = float(self.watch.evaluate().detach())
        error = analysis.predict(plan.under(session_of(self.net).rules))
        shrunk = math.sqrt(analysis.batch.rows / max(self.watch.batch.rows(), 1))
        allowed = abs(error.loss_mean) + self.band * max(error.loss * shrunk, self.loss_gap * abs(found[None]))
        apart = found[plan] - found[None]
        if math.isfinite(found[plan]) and abs(apart) <= allowed:
            return ""
        return (
            f"in shadow its loss is {found[plan]:.5g}, {apart:+.2g} from full precision's, and {allowed:.2g} predicted"
        )

    def _roll_back(self, alarm: Alarm, loss: float | None) -> None:
        self.note(alarm.event.value, alarm.reason, loss=loss)
        present = self._rule_state.plan
        if present is None:  # no precision is to blame
            return
        self._rule_state = self.rule.roll_back(self.steps, self._rule_state)
        self.probe.disarm()
        self.set_plan(self._rule_state.plan or session_of(self.net).full_precision)
        self.note("rollback", f"{_bits(present)} to {_bits(self._rule_state.plan)} bits after {alarm.event.value}")

    # what it remembers

    def _state(self) -> dict[str, Any]:
        return {
            "rule": self._rule_state.to_json(),
            "running": self._running,
            "armed": self.probe.armed,
            "tightness": self._tightness,
            "guarded": self._guarded.to_json(),
        }

    def _load(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or set(state) != {"rule", "running", "armed", "tightness", "guarded"}:
            raise ControllerError(f"not a state of NoiseAware: {state!r:.80}")
        read, guarded = NoiseAwareState.from_json(state["rule"]), GuardState.from_json(state["guarded"])
        self._rule_state, self._guarded, self._running = read, guarded, state["running"]
        self._tightness = state["tightness"]
        self.probe.disarm()
        if state["armed"]:
            self.probe.arm()


def _tightened(allowed: float, spent: float) -> float:
    """The factor on theta after a plan whose errors were measured: at once tighter, slowly looser."""
    if spent > allowed:
        return max(math.sqrt(allowed / spent), 0.25)
    return 1.25 if spent < 0.5 * allowed else 1.0


def _bits(plan: PrecisionPlan | None) -> str:
    return "32" if plan is None else f"{plan.average_bits:.3g}"
