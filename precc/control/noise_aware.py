"""NoiseAware: as little precision as the noise of the gradient allows."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from precc.analysis.analysis_options import AnalysisOptions
from precc.assignment.candidates import CANDIDATES
from precc.control.controller import Controller
from precc.control.guards import Alarm, GuardEvent, GuardReading, Guards, GuardState
from precc.control.noise_aware_rule import NoiseAwareRule, NoiseAwareState, NoiseDecision
from precc.control.noise_probe import NoiseProbe
from precc.control.plan_change import changed_share
from precc.control.plan_proposer import PlanProposer
from precc.control.ranks import Ranks
from precc.control.watched_batch import Loss
from precc.cost.cost_model import CostModel
from precc.errors import ControllerError, UnsupportedError
from precc.formats import Format
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.policies.noise_budget import NoiseBudget
from precc.precision import Precision
from precc.target import Target

__all__ = ["NoiseAware"]

#: Weight of a new loss in the running one.
_NEW = 0.05


_GUARDS = Guards()

#: Values of each tensor that are looked at.
_SAMPLES = 2048

#: Steps by which an analysis is put off that says nothing.
_LATER = 10


class NoiseAware(Controller):
    """Rounds as much as hides in the noise of the gradient: chosen anew by error analysis while the training goes on.

    At some steps the last batch is analysed (its first `rows` examples), the noise of the gradient measured, and the
    cheapest plan within `NoiseBudget` proposed. Its error of the gradient is measured on the halves of the batch, where
    what they have in common persists, and a plan that exceeds the budget is proposed again with a tighter one.
    `NoiseAwareRule` says what is taken of it. Before a plan is taken its loss is evaluated on that batch (*shadow*):
    it is refused if that differs from full precision's by more than predicted. If the loss of the training leaves the
    band of `guards`, or is not finite, the plan is rolled back, but for a single loss that full precision has too.
    Rounding of forward weights, to which the net adapts, is no part of what hides in the noise: it is charged as a gap
    of the loss.

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

    _for_ranks = True

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
        candidates: Sequence[Precision | Format | str] | None = None,
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
        self.policy = NoiseBudget(
            noise=1.0,
            theta=theta,
            horizon=horizon,
            lost=lost,
            candidates=CANDIDATES if candidates is None else candidates,
        )
        options = AnalysisOptions(probes=probes, rows=rows, samples=_SAMPLES)
        if guards is not None and not isinstance(guards, Guards):
            raise ControllerError(f"guards is precc.Guards(...) or None, not {guards!r:.60}")
        super().__init__(net, optimizer, loss)
        self._rule_state = self.rule.init()
        self.guards = guards
        self._guarded = GuardState()
        self._norm: float | None = None
        self._running: float | None = None
        self._most = 0  # examples of the largest batch
        self._tightness = 1.0  # of theta: errors measured under plans, relative to predicted ones
        self.probe = NoiseProbe(self.watch, optimizer)
        self.proposer = PlanProposer(self.watch, self.probe, options, loss_gap, band, cost, target)
        self._begin()

    def _begin(self) -> None:
        """In full precision."""
        plan = session_of(self.net).plan
        if plan.rounds_sums or plan.rounds_results:
            raise ControllerError(
                "NoiseAware chooses the precisions of operands, and the net's plan rounds sums or results: say so in "
                "rules of the net, which hold over every plan"
            )
        if session_of(self.net).chosen is not None:
            self.set_plan(session_of(self.net).full_precision)
            self.note("begin", "the training begins in full precision, in the place of the net's plan")
        if self._rule_state.due == 1:
            self.probe.arm()

    @property
    def state(self) -> NoiseAwareState:
        """Of the rule."""
        return self._rule_state

    def close(self) -> None:
        self.probe.disarm()
        super().close()

    # what it sees of a step

    def _before_update(self) -> None:
        if any(own.is_sparse for own in self.gradients().values()):
            raise UnsupportedError("NoiseAware does not take sparse gradients: use Embedding(sparse=False)")
        self.probe.see(self.gradients())
        if self.guards is not None:
            self._norm = float(get_total_norm(list(self.gradients().values())))
            if not math.isfinite(self._norm):
                for group in self.optimizer.param_groups:
                    for own in group["params"]:
                        own.grad = None

    def _decide(self, loss: float | None) -> None:
        alarm = Ranks.present().first_of(self._alarm(loss))
        if alarm is not None:
            self._roll_back(alarm, loss)
            return
        if loss is not None and math.isfinite(loss):
            self._running = loss if self._running is None else (1 - _NEW) * self._running + _NEW * loss
        self._most = max(self._most, self.watch.batch.rows)
        if self.steps >= self._rule_state.due:
            self._analyse()
            self.probe.forget()
        if self.steps + 1 >= self._rule_state.due:
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
        ranks = Ranks.present()
        small = ranks.first_of(f"a batch of {self.watch.batch.rows}" if self._too_small else None)
        if small is not None:
            self._postpone(small, 1)
            return
        metric = self.probe.metric()
        noise = self.probe.measure(ranks, metric, 0.0 if self._rule_state.plan is None else self.policy.theta)
        if not math.isfinite(noise.variance):
            self._postpone(f"the noise of the gradient is {noise.variance}", _LATER)
            return
        policy = replace(self.policy, noise=noise.variance, batch=self.probe.examples(ranks))
        state, running = self._rule_state, self._running
        found = ranks.decided(
            lambda: self.proposer.propose(self.steps, self.rule, state, policy, metric, running, self._tightness)
        )
        if found.plan is None:
            self._postpone(found.reason, _LATER)
            return
        figures: dict[str, Any] = {"noise": noise.variance, "noise_source": noise.source.value, "loss": self._running}
        budget = policy.theta**2 * noise.variance
        self.note("analysis", found.reason, budget=budget, **figures)
        present, self._rule_state, self._tightness = self._rule_state.plan, found.state, found.tightness
        if found.decision is NoiseDecision.SWITCH and not found.refused:
            self.set_plan(found.plan)
            self._rule_state = self.rule.commit(found.plan, self.steps, found.state)
            self.note("switch", _switched(present, found.plan), budget=budget)
        elif found.refused:
            self.note("refused", found.refused)
        else:
            first = "the first analysis: a second must agree" if found.first else "the last two differ by too much"
            self.note(found.decision.value, first if found.decision is NoiseDecision.WAIT else "it is in force")

    @property
    def _too_small(self) -> bool:
        """Whether the last batch is none of the usual size, as the last one of an epoch may be."""
        rows = self.watch.batch.rows
        return not rows or 2 * rows < self._most

    def _postpone(self, reason: str, steps: int) -> None:
        self._rule_state = replace(self._rule_state, due=self.steps + steps)
        self.note("postponed", f"{reason}: analysed {steps} step(s) later")

    def _roll_back(self, alarm: Alarm, loss: float | None) -> None:
        present = self._rule_state.plan
        alike = present is not None and alarm.event is GuardEvent.SPIKE and self._alike(present)
        said = "; full precision has that loss too" if alike else ""
        said += "; the step was left out" if self._norm is not None and not math.isfinite(self._norm) else ""
        self.note(alarm.event.value, f"{alarm.reason}{said}", loss=loss)
        if present is None or alike:  # no precision is to blame
            return
        self._rule_state = self.rule.roll_back(self.steps, self._rule_state)
        self.probe.disarm()
        self.set_plan(self._rule_state.plan or session_of(self.net).full_precision)
        self.note("rollback", f"{_bits(present)} to {_bits(self._rule_state.plan)} bits after {alarm.event.value}")

    def _alike(self, plan: PrecisionPlan) -> bool:
        """Whether a plan and full precision have one loss on the last batch."""
        return Ranks.present().decided(lambda: self.proposer.alike(plan))

    # what it remembers

    def _state(self) -> dict[str, Any]:
        return {
            "rule": self._rule_state.to_json(),
            "running": self._running,
            "armed": self.probe.armed,
            "most": self._most,
            "tightness": self._tightness,
            "guarded": self._guarded.to_json(),
        }

    def _load(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or set(state) != set(self._state()):
            raise ControllerError(f"not a state of NoiseAware: {state!r:.80}")
        read, guarded = NoiseAwareState.from_json(state["rule"]), GuardState.from_json(state["guarded"])
        running, armed, most, tightness = (state[name] for name in ("running", "armed", "most", "tightness"))
        whole = running is None or (type(running) is float and math.isfinite(running))
        if not whole or type(armed) is not bool or type(most) is not int or not _is_share(tightness):
            raise ControllerError(f"the state of NoiseAware has entries that cannot be: {state!r:.200}")
        self._rule_state, self._guarded, self._running = read, guarded, running
        self._most, self._tightness = most, tightness
        self.probe.disarm()
        if armed:
            self.probe.arm()


def _is_share(value: Any) -> bool:
    return type(value) is float and 0 < value <= 1


def _bits(plan: PrecisionPlan | None) -> str:
    return "32" if plan is None else f"{plan.average_bits:.3g}"


def _switched(present: PrecisionPlan | None, plan: PrecisionPlan) -> str:
    how = "of the last two analyses the finer for each product"
    moved = "" if present is None else f", {changed_share(present, plan):.0%} of the multiply-adds changed"
    return f"{_bits(present)} to {_bits(plan)} bits: {how}{moved}"
