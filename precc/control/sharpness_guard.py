"""SharpnessGuard: more precision when the loss becomes sharp in the logits, which comes before it diverges."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils import _pytree

from precc.checks import checked_count, checked_positive
from precc.control.controller import Controller
from precc.control.levels import plans_of
from precc.control.logit_sharpness import sharpness_reading
from precc.control.sharpness_rule import SharpnessEvent, SharpnessGuardRule, SharpnessState
from precc.control.stored_plan import stored_plan
from precc.control.watched_batch import Loss
from precc.errors import ControllerError, PlanError, PreccError
from precc.formats import Format
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.policy import Policy

__all__ = ["Logits", "SharpnessGuard"]

Level = PrecisionPlan | Policy | Format | str

#: Logits with the classes last, and targets.
Logits = Callable[..., tuple[Tensor, Tensor]]


class SharpnessGuard(Controller):
    """Raises precision one level when `logit_sharpness` leaves the band of its last readings; see `SharpnessGuardRule`.

    The logits are those of the training's own forward, every so many steps: nothing is evaluated beside. Where several
    batches make one step, the last one counts. A batch without a target that counts is no reading.

    Args:
        net: made by `precc.compile`.
        optimizer: any, of the net's parameters.
        loss: ``nn.CrossEntropyLoss()``, observed where it is called, or ``F.cross_entropy`` or another function, called
            as ``ctl.loss(net(x), y)``. With class weights or smoothed labels it has no closed form here.
        levels: plans, policies or format names above the net's own plan, coarsest first.
        every: steps between readings.
        band, window, patience, warmup, cooldown, calm: as in `SharpnessGuardRule`.
        epsilon: as in `logit_sharpness`.
        logits: for any other loss, a function that returns logits ``[..., classes]`` and targets ``[...]``. It gets the
            net's output and what the loss gets beside it; without `loss`, what the net was called with:
            ``lambda output, input_ids, labels: (output.logits[:, :-1], labels[:, 1:])``.

    Raises:
        CaptureError, ControllerError, FormatError: what does not fit.
        AnalysisError: at a reading, where logits and targets do not fit each other.
    """

    def __init__(
        self,
        net: PrecisionModule,
        optimizer: Optimizer,
        loss: Loss | None = None,
        levels: Sequence[Level] = ("bf16", "float32"),
        every: int = 10,
        band: float = 3.0,
        window: int = 50,
        *,
        patience: int = 3,
        warmup: int = 10,
        cooldown: int = 10,
        calm: int | None = None,
        epsilon: float = 5e-4,
        logits: Logits | None = None,
    ) -> None:
        self.levels = _plans(levels)
        self.every = checked_count("every", every, 1)
        self.rule = SharpnessGuardRule(
            levels=len(self.levels) + 1,
            band=band,
            window=window,
            patience=patience,
            warmup=warmup,
            cooldown=cooldown,
            calm=calm,
        )
        self.epsilon = checked_positive("epsilon", epsilon)
        self._logits, self._ignored = _reader(loss, logits)
        super().__init__(net, optimizer, loss)
        #: The last reading, in percent; None before the first.
        self.sharpness: float | None = None
        self._rule_state = self.rule.init()
        self._own: PrecisionPlan | None = None  # the net's, level 0
        self._output: Any = None  # of the last call, at a step that is read
        self._fresh = False  # whether there is a reading that was not decided on
        session_of(net).watch(self._see_call)

    def close(self) -> None:
        session_of(self.net).unwatch(self._see_call)
        super().close()

    @property
    def level(self) -> int:
        """0 is the net's own plan."""
        return self._rule_state.level

    # what it sees of a step

    def _see_call(self, _args: tuple[Any, ...], _kwargs: Mapping[str, Any], output: Any) -> None:
        if self.steps % self.every == 0:
            self._output = _pytree.tree_map(_detached, output)

    def _before_update(self) -> None:
        output, self._output = self._output, None
        if output is None or self.steps % self.every:
            return
        batch = self.watch.batch
        if batch.targets is None:
            logits, targets = self._logits(output, *batch.args, **batch.kwargs)
        else:
            logits, targets = self._logits(output, *batch.targets)
        if isinstance(targets, Tensor) and not bool((targets != self._ignored).any()):
            return
        self.sharpness = sharpness_reading(logits, targets, self.epsilon, ignore_index=self._ignored)
        self._fresh = True

    # what it decides

    def _decide(self, loss: float | None) -> None:
        if not self._fresh or self.sharpness is None:
            return
        self._fresh = False
        if self._own is None:
            self._own = self.net.plan
            self._check_levels()
        decision, self._rule_state = self.rule.step(self.sharpness, self._rule_state)
        if decision is None:
            return
        if decision.event is not SharpnessEvent.SHARP:
            plan = (self._own, *self.levels)[self.level]
            self.set_plan(plan.resolve(self.net.plan.multiply_adds))
        self.note(decision.event.value, decision.reason, level=self.level, loss=loss)

    def _check_levels(self) -> None:
        """Levels must not go from fine to coarse, as far as their bits are known."""
        work = self.net.plan.multiply_adds
        bits = [own for own in (_bits(plan.resolve(work)) for plan in (self.net.plan, *self.levels)) if own is not None]
        if bits != sorted(bits):
            shown = ", ".join(f"{own:.3g}" for own in bits)
            raise ControllerError(f"levels go from coarse to fine, beginning with the net's own plan; bits are {shown}")

    # what it remembers

    def _state(self) -> dict[str, Any]:
        own = None if self._own is None else self._own.to_json()
        return {"rule": self._rule_state.to_json(), "sharpness": self.sharpness, "own": own}

    def _load(self, state: dict[str, Any]) -> None:
        if not isinstance(state, Mapping) or set(state) != {"rule", "sharpness", "own"}:
            raise ControllerError(f"a state of SharpnessGuard has rule, sharpness and own, unlike {state!r:.60}")
        rule = SharpnessState.from_json(state["rule"])
        if rule.level > len(self.levels):
            raise ControllerError(
                f"the state is of level {rule.level}, and there are {len(self.levels)} above the plan"
            )
        if state["sharpness"] is not None and type(state["sharpness"]) is not float:
            raise ControllerError(f"the state of SharpnessGuard has the sharpness {state['sharpness']!r:.60}")
        own = stored_plan(state["own"], type(self).__name__)
        self._rule_state, self.sharpness, self._own, self._fresh = rule, state["sharpness"], own, False


def _reader(loss: Any, logits: Any) -> tuple[Logits, int]:
    """How logits and targets are got, and the target that does not count."""
    if logits is not None:
        if not callable(logits):
            raise ControllerError(f"logits is called as logits(output, *targets), and is no {type(logits).__name__}")
        return logits, int(getattr(loss, "ignore_index", -100))
    if isinstance(loss, nn.CrossEntropyLoss):
        if loss.weight is not None or loss.label_smoothing:
            raise ControllerError(
                "SharpnessGuard has the closed form of plain cross-entropy, not with class weights or label smoothing: "
                "pass logits=lambda output, y: (output, y) to watch that of the plain one"
            )
        return _classes_last, loss.ignore_index
    if loss is F.cross_entropy:
        return _classes_last, -100
    raise ControllerError(
        f"SharpnessGuard has a closed form for cross-entropy alone, and does not know {loss!r:.80} as such: pass "
        "loss=nn.CrossEntropyLoss(), or logits= a function of output and targets that returns logits and classes"
    )


def _classes_last(output: Any, *targets: Any) -> tuple[Tensor, Tensor]:
    """As torch's cross-entropy has them: classes are dimension 1, or 0 of a vector."""
    if not isinstance(output, Tensor) or len(targets) != 1 or not isinstance(targets[0], Tensor):
        raise ControllerError(
            "cross-entropy takes a tensor and one of targets; where the net returns something else, pass logits= a "
            "function of output and targets"
        )
    return output.movedim(1, -1) if output.dim() > 1 else output, targets[0]


def _plans(levels: Any) -> tuple[PrecisionPlan, ...]:
    try:
        plans = plans_of(levels)
    except PreccError:
        raise
    except ValueError as error:
        raise ControllerError(str(error)) from error
    if not plans:
        raise ControllerError("levels is a sequence of at least one plan, policy or format name above the net's plan")
    return plans


def _bits(plan: PrecisionPlan) -> float | None:
    try:
        return plan.average_bits
    except PlanError:  # in two passes, or of work that is not known
        return None


def _detached(own: Any) -> Any:
    return own.detach() if isinstance(own, torch.Tensor) else own
