"""LateSwitch: more precision for the end of a training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.optim import Optimizer

from precc.control.controller import Controller
from precc.control.late_switch_rule import LateSwitchReading, LateSwitchRule, LateSwitchState
from precc.control.levels import plans_of
from precc.control.plan_change import finer
from precc.errors import ControllerError, expected_one_of
from precc.formats import Format
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.policy import Policy
from precc.precision import Precision
from precc.slots import Slot

__all__ = ["LateSwitch"]

_ROLES = ("fprop", "dgrad", "wgrad")


class LateSwitch(Controller):
    """Once, near the end, the operands of some roles move to a finer format, and stay there.

    The gap that training in few bits leaves shrinks in the decay phase of the learning rate if precision is higher
    there. That the operands of the forward are enough is folklore about NVFP4 trainings, without a published proof:
    ``roles=("fprop", "dgrad", "wgrad")`` moves all products.

    Products that have more bits than that already stay as they are, and so do accumulators and results. If another
    controller sets a plan afterwards, these operands are moved in it too: step this one after it. The first such time
    has a row in ``net.history``.

    Args:
        net: made by `precc.compile`.
        optimizer: any, of the net's parameters.
        to: a format, its name, a precision, a policy that needs no analysis, or a plan, of which the slots are taken.
        at, total_steps, when_lr_below: as in `LateSwitchRule`; the learning rate is the highest of the groups.
        roles: of products that move: ``"fprop"``, ``"dgrad"``, ``"wgrad"``.

    Raises:
        CaptureError, ControllerError, FormatError: what does not fit.
        PlanError: at the first step, if the plan would not fit the net.
    """

    _for_ranks = True

    def __init__(
        self,
        net: PrecisionModule,
        optimizer: Optimizer,
        to: Precision | Format | str | Policy | PrecisionPlan = "bf16",
        at: float | None = None,
        total_steps: int | None = None,
        roles: Sequence[str] = ("fprop",),
        *,
        when_lr_below: float | None = None,
    ) -> None:
        self.rule = LateSwitchRule(at=at, total_steps=total_steps, when_lr_below=when_lr_below)
        self.roles = _checked_roles(roles)
        #: Whose slots are taken.
        self.to = _as_plan(to)
        super().__init__(net, optimizer)
        self._rule_state = self.rule.init()
        self._chosen: PrecisionPlan | None = None  # that it has set
        self._again = False  # whether it was noted that another plan was moved too
        self._checked = False

    @property
    def switched(self) -> bool:
        """Whether it was."""
        return self._rule_state.switched

    def _decide(self, loss: float | None) -> None:
        if not self._checked:
            self._check()
        rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
        why, self._rule_state = self.rule.step(LateSwitchReading(self.steps, rate), self._rule_state)
        if not self.switched or session_of(self.net).chosen is self._chosen is not None:
            return
        present = self.net.plan
        plan = self._moved(present)
        if plan != present:
            self.set_plan(plan)
            self._note_switch(why, loss)
        elif why:
            self.note("keep", f"{why}, and these products have as many bits already", loss=loss)
        self._chosen = session_of(self.net).chosen

    def _note_switch(self, why: str | None, loss: float | None) -> None:
        if why is None and self._again:
            return
        self._again = why is None
        self.note("switch", why or "another plan was set since the switch, and is moved too, as later ones", loss=loss)

    def _moved(self, present: PrecisionPlan) -> PrecisionPlan:
        """A plan with the operands moved; all slots known are named in it, so it needs the rules of the former no more.

        The net's own rules hold over every plan.
        """
        moved = {name: self.to.precision(name) for name in present.multiply_adds if self._moves(Slot.parse(name))}
        if not moved:
            raise ControllerError(f"LateSwitch moves {', '.join(self.roles)}, of which the net has no product")
        provenance = replace(present.provenance, predicted_error=None, cost=None)
        target = replace(present, slots={**present.slots, **moved}, rules=(), provenance=provenance)
        return finer(present, target)

    def _moves(self, slot: Slot) -> bool:
        return slot.role.value.partition("_")[0] in self.roles

    def _check(self) -> None:
        """Say at the beginning what would fail at the end."""
        session = session_of(self.net)
        session.graphs.check(self._moved(self.net.plan), session.rules, self.net)
        self._checked = True

    def _state(self) -> dict[str, Any]:
        return {**self._rule_state.to_json(), "again": self._again}

    def _load(self, state: dict[str, Any]) -> None:
        own = dict(state) if isinstance(state, Mapping) else state
        again = own.pop("again", False) if isinstance(own, dict) else False  # older states have none
        if type(again) is not bool:
            raise ControllerError(f"the state of LateSwitch has again={again!r:.60}, which is True or False")
        self._rule_state, self._again = LateSwitchState.from_json(own), again
        self._chosen = None


def _checked_roles(roles: Any) -> tuple[str, ...]:
    if isinstance(roles, str) or not roles or not set(roles) <= set(_ROLES):
        raise ControllerError(f"roles of products, such as ('fprop',), and not {roles!r}: {expected_one_of(_ROLES)}")
    return tuple(roles)


def _as_plan(to: Any) -> PrecisionPlan:
    return PrecisionPlan(to) if isinstance(to, Precision) else plans_of((to,))[0]
