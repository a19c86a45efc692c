"""The errors that a trust region looks at: of the loss at x and x + p, of their difference, of the gradient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from precc.analysis.analysis import Analysis
from precc.analysis.analysis_options import AnalysisOptions
from precc.control.linear_step import Values, norm_of
from precc.control.loss_errors import checked_z, epsilon_of, plan_within
from precc.control.moment import Moment
from precc.control.watched_batch import Loss, Watch
from precc.errors import ControllerError, expected_one_of
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan

__all__ = ["Errors", "Plans", "RegionErrors", "check_choice", "error_between", "relative_error"]

_CHOICES = {"gate": ("source", "difference"), "epsilon": ("measured", "predicted"), "points": ("x", "both")}

_USUAL = AnalysisOptions()

Errors = tuple[float, ...]  #: by plan
Plans = Sequence[PrecisionPlan]  #: that in force, perhaps others


@dataclass(eq=False, kw_only=True)
class RegionErrors:
    """How errors are found. The options are those of `precc.TrustRegion`.

    Args:
        gradient: largest relative error of the gradient under plans that are made here.
        analyses: whether the batch will be analysed.

    Raises:
        ControllerError: an option outside its range, or two that do not go together.
    """

    net: PrecisionModule
    gate: str
    epsilon: str
    points: str
    z: float
    gradient: float
    options: AnalysisOptions | None
    candidates: Sequence[Any] | None
    loss: Loss | None
    analyses: bool
    watch: Watch | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for name, valid in _CHOICES.items():
            check_choice(name, getattr(self, name), valid)
        if self.gate == "difference" and self.epsilon == "predicted":
            raise ControllerError(
                'gate="difference" needs epsilon="measured": an analysis knows the error of a loss, not that of '
                "f(x) - f(x + p), of which most cancels"
            )
        checked_z(self.z)
        self._watch()

    def _watch(self) -> None:
        self.watch = Watch(self.net, self.loss) if self.analyses or self.loss is not None else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "watch": None}  # a copy watches its own net

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._watch()

    def loss_of(self, output: Any, *targets: Any) -> Tensor:
        """The loss of the net's output, of which analyses then know the targets."""
        if self.watch is None:
            raise ControllerError("this TrustRegion was made without loss=, and has none to call")
        return self.watch.loss(output, *targets)

    @property
    def both(self) -> bool:
        """Whether x + p must be evaluated before the gate."""
        return self.gate == "difference" or self.points == "both"

    def at_x(
        self, moment: Moment, loss: float, gradients: Values, plans: Plans, *, zeta: bool
    ) -> tuple[Errors, tuple[float | None, ...]]:
        """Errors of the loss at x, as `at` finds them, and if zeta asks the relative ones of the gradient."""
        if not zeta:
            return self.at(moment, loss, plans), (None,) * len(plans)
        exact = self._exact(plans[0])
        if exact and len(plans) == 1:
            return (0.0,), (0.0,)
        reference, full = (loss, gradients) if exact else self._full(moment)
        found = [gradients, *(moment.gradients(plan)[1] for plan in plans[1:])]
        turned = tuple(relative_error(own, full) for own in found)
        return self.at(moment, loss, plans, reference=reference), turned

    def _full(self, moment: Moment) -> tuple[float, Values]:
        loss, gradients = moment.gradients(None)
        return loss.item(), gradients

    def at(self, moment: Moment, loss: float, plans: Plans, *, reference: float | None = None) -> Errors:
        """Errors of the loss here under plans.

        Args:
            moment: of the step.
            loss: under the first plan.
            plans: that in force, perhaps others.
            reference: the loss in full precision, if it is known.
        """
        if self._exact(plans[0]) and len(plans) == 1:
            return (0.0,)
        if self.epsilon == "predicted" and math.isfinite(loss):
            analysis, rules = self._analyze(), session_of(self.net).rules
            return tuple(epsilon_of(analysis.predict(plan.under(rules)), self.z) for plan in plans)
        if reference is None:
            reference = loss if self._exact(plans[0]) else moment.loss(None)
        others = [moment.loss(plan) for plan in plans[1:]]
        return tuple(error_between(own, reference) for own in (loss, *others))

    def _exact(self, plan: PrecisionPlan) -> bool:
        session = session_of(self.net)
        return plan.under(session.rules) == session.full_precision

    def seen(self, here: Errors, there: Errors | None) -> Errors:
        """What the gate takes of the errors at x and, if that was evaluated, at x + p."""
        if there is None:
            return tuple(abs(own) for own in here)
        pairs = zip(here, there, strict=True)
        if self.gate == "difference":
            return tuple(abs(own - other) for own, other in pairs)
        if self.points == "x":
            return tuple(abs(own) for own, _ in pairs)
        return tuple(max(abs(own), abs(other)) for own, other in pairs)

    def plan_within(self, budget: float) -> PrecisionPlan:
        """The cheapest plan for this batch within a budget for epsilon, or else full precision."""
        session = session_of(self.net)
        options = {"z": self.z, "gradient": self.gradient}
        found = plan_within(self._analyze(), budget, **options, candidates=self.candidates, rules=session.rules)
        return session.full_precision if found is None else found

    def plan_below(self, budget: float, failed: PrecisionPlan | None) -> tuple[float, PrecisionPlan]:
        """As `plan_within`; with a lower budget if needed, for a plan that is not the one whose gate failed."""
        plan = self.plan_within(budget)
        if plan != failed or plan.predicted_error is None:
            return budget, plan
        error = epsilon_of(plan.predicted_error, self.z)
        if not error:  # the gate knows of errors that no analysis sees
            return budget, session_of(self.net).full_precision
        return 0.5 * error, self.plan_within(0.5 * error)

    def _analyze(self) -> Analysis:
        if self.watch is None or not self.watch.has_loss:
            raise ControllerError(
                "plans from a budget, and predicted errors, come from an analysis of the batch, which needs the loss: "
                "TrustRegion(net, loss=loss_fn, ...), and opt.step(lambda: opt.loss(net(x), y))"
            )
        return self.watch.analyze(self.options or _USUAL)


def check_choice(name: str, value: object, valid: Sequence[str]) -> None:
    """Refuse what is not one of the valid values of an option.

    Raises:
        ControllerError: it is none.
    """
    if value not in valid:
        raise ControllerError(f"unknown {name} {value!r}: {expected_one_of(valid)}")


def error_between(value: float, reference: float) -> float:
    """``value - reference``; 0 if neither is finite: no arithmetic is at fault then."""
    return value - reference if math.isfinite(value) or math.isfinite(reference) else 0.0


def relative_error(gradients: Values, exact: Values) -> float:
    """``||ghat - g|| / ||g||``; infinite if g is zero, and ghat is not."""
    error = norm_of({p: gradients[p].double() - own.double() for p, own in exact.items() if p in gradients})
    length = norm_of(exact)
    return error / length if length else (0.0 if error == 0.0 else math.inf)
