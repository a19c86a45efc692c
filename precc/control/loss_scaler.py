"""LossScaler: torch's GradScaler with the loss scaling of a net's plan."""

from typing import Any

import torch
from torch.optim import Optimizer

from precc.checked_net import checked_net
from precc.errors import ControllerError
from precc.loss_scaling import LossScaling
from precc.module import PrecisionModule, session_of
from precc.session import Session

__all__ = ["LossScaler"]

_NONE = LossScaling(1.0)  #: of a plan without loss scaling


class LossScaler(torch.amp.GradScaler):
    """Scales losses as the plan of a net says; used as `torch.amp.GradScaler` is.

    ``scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()``. A plan without loss scaling means the
    scale 1. A step whose gradients are not finite is skipped under any plan. The plan is read before the first loss of
    an iteration is scaled, and holds until `update`: another one acts on the next iteration, and begins with its own
    initial scale. Skipped steps and changes of the scale are in ``net.history``.

    Args:
        net: made by `precc.compile`; its parameters are on one kind of device, the processor or a CUDA device.

    Raises:
        CaptureError: the net is not compiled by precc.
        ControllerError: it has no parameter that requires a gradient, or they are on another kind of device.
    """

    def __init__(self, net: PrecisionModule) -> None:
        self.net = checked_net(net, type(self).__name__)
        super().__init__(_device_of(net))
        self.steps = 0  #: calls of `update`
        self._fresh = True  # no loss was scaled since the last update
        self._loaded = False  # a state was loaded, whose scale goes on
        self._in_force = _NONE
        self._adopt(self._planned)
        self._session.parts.scaling.add(self)

    @property
    def _session(self) -> Session:
        return session_of(self.net)

    @property
    def _planned(self) -> LossScaling:
        return self._session.plan.loss_scaling or _NONE

    def _adopt(self, planned: LossScaling) -> None:
        """Take the constants of a plan, and its scale too unless that of a loaded state goes on."""
        goes_on = self._loaded and planned.dynamic
        self._loaded, self._in_force = False, planned
        self.set_growth_factor(planned.growth_factor if planned.dynamic else 1.0)
        self.set_backoff_factor(planned.backoff_factor if planned.dynamic else 1.0)
        self.set_growth_interval(planned.growth_interval)
        if not goes_on:
            self._set_scale(planned.initial)

    def _set_scale(self, scale: float) -> None:
        self._init_scale, self._init_growth_tracker = scale, 0
        if self._scale is not None and self._growth_tracker is not None:
            self._scale.fill_(scale)
            self._growth_tracker.fill_(0)

    def _follow(self) -> None:
        """Have the plan's loss scaling in force, unless losses of this iteration were scaled already."""
        planned = self._planned
        if not self._fresh or (planned == self._in_force and not self._loaded):
            return
        before, first = super().get_scale(), self._loaded
        self._adopt(planned)
        if not first and super().get_scale() != before:
            self._note("rescale", f"{before:g} -> {super().get_scale():g}: the plan's")

    def scale(self, outputs: Any) -> Any:
        """As torch's, by the plan's scale."""
        self._follow()
        self._fresh = False
        return super().scale(outputs)

    def get_scale(self) -> float:
        """The factor of the next loss, or in an iteration of this one's."""
        another = self._fresh and not self._loaded and self._planned != self._in_force
        return self._planned.initial if another else float(super().get_scale())

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """As torch's; a skipped one is noted."""
        result: float | None = super().step(optimizer, *args, **kwargs)
        found = self._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values()
        if any(own.item() for own in found):
            self._note("skip", f"gradients are not finite under a loss scale of {super().get_scale():g}")
        return result

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        """As torch's; the scale of a plan that is not dynamic stays.

        Raises:
            ControllerError: a new scale, which is the plan's to say.
        """
        if new_scale is not None:
            raise ControllerError("the loss scale is the plan's to say: net.set_plan(plan), with its loss_scaling=")
        before = super().get_scale() if self._in_force.dynamic else None
        super().update()
        self._fresh = True
        if before is not None and (after := super().get_scale()) != before:
            why = "a step was skipped" if after < before else f"{self._in_force.growth_interval} steps were finite"
            self._note("rescale", f"{before:g} -> {after:g}: {why}")
        self.steps += 1

    def _note(self, event: str, reason: str) -> None:
        session = self._session
        name, plan = type(self).__name__, session.plan
        session.history.note(step=self.steps, controller=name, event=event, reason=reason, plan=plan)
        session.events[event] += 1

    def state_dict(self) -> dict[str, Any]:
        """As torch's, which a GradScaler reads too, with the number of steps."""
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's: a dynamic scale goes on; the constants, and a scale that is not dynamic, are the plan's.

        Before or after ``net.load_precision_state``, which brings the plan. That of a GradScaler counts no steps.
        """
        super().load_state_dict(state_dict)
        self.steps = int(state_dict.get("steps", 0))
        self._loaded, self._fresh = True, True


def _device_of(net: PrecisionModule) -> str:
    kinds = sorted({own.device.type for own in net.parameters() if own.requires_grad})
    if not kinds:
        raise ControllerError(f"{type(net).__name__} has no parameter that requires a gradient")
    if len(kinds) > 1 or kinds[0] not in ("cpu", "cuda"):
        raise ControllerError(f"LossScaler is for parameters on the processor or on CUDA devices, not on {kinds}")
    return kinds[0]
