"""What schedulers of precision have in common: around a net and any optimizer, one step after each of its steps."""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import ReferenceType, ref

from torch import Tensor
from torch.optim import Optimizer

from precc.control.watched_batch import Loss, Watch
from precc.errors import CaptureError, ControllerError
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.updates.same_updates import with_updates_of

__all__ = ["Controller", "checked_net"]

#: Entries of a state beside the controller's own.
_ENTRIES = {"controller", "steps", "own", "net"}


class Controller:
    """Base of the schedulers: ``ctl.step(loss)`` after each ``optimizer.step()``.

    It sees gradients as the optimizer gets them, clipped and without loss scale, and what the optimizer does with them.
    A subclass has `_decide`, and `_state` with `_load` for what it remembers; it may have `_before_update`.

    Args:
        net: made by `precc.compile`; the controller sets its plan.
        optimizer: of the net's parameters, all that require a gradient; it may have others.
        loss: as in `precc.control.watched_batch.Watch`.

    Raises:
        CaptureError: the net is not compiled by precc.
        ControllerError: the optimizer is none, or not of the net's parameters.
    """

    def __init__(self, net: PrecisionModule, optimizer: Optimizer, loss: Loss | None = None) -> None:
        self.net = checked_net(net, type(self).__name__)
        self.optimizer = _checked_optimizer(net, optimizer, type(self).__name__)
        self.watch = Watch(net, loss)
        #: Steps of the optimizer so far.
        self.steps = 0
        self._updates = 0  # steps of the optimizer since the last of the controller
        self._names = _trained(net)
        own = ref(self)
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: _call(own, "_see_gradients")),
            optimizer.register_step_post_hook(lambda *_: _call(own, "_see_update")),
        ]

    def close(self) -> None:
        """Let go of net and optimizer; the net keeps its plan."""
        self.watch.close()
        for hook in self._hooks:
            hook.remove()

    def loss(self, output: Any, *targets: Any) -> Tensor:
        """The loss of the net's output, which the controller then knows: call it in the place of the function."""
        return self.watch.loss(output, *targets)

    def step(self, loss: Tensor | float | None = None) -> None:
        """Decide the plan of the next step; call it after each ``optimizer.step()``.

        Args:
            loss: of the step, for what follows it: guards, and the table.

        If the optimizer made none since the last call, as where a GradScaler skips one, that is noted, and no more.

        Raises:
            ControllerError: parameters were added or frozen since the controller was made.
        """
        if _trained(self.net) != self._names:
            raise ControllerError(_changed(self._names, _trained(self.net)))
        value = _number(loss)
        if not self._updates:
            self.note("skipped", "the optimizer made no step since the last call", loss=value)
            return
        self._updates = 0
        self._decide(value)

    def note(self, event: str, reason: str, **own: Any) -> None:
        """A row of ``net.history``, and a count in its events."""
        session = session_of(self.net)
        session.history.note(
            step=self.steps, controller=type(self).__name__, event=event, reason=reason, plan=session.plan, **own
        )
        session.events[event] += 1

    def _see_gradients(self) -> None:
        self._before_update()

    def _see_update(self) -> None:
        self.steps += 1
        self._updates += 1

    def _before_update(self) -> None:
        """The optimizer is about to use the gradients."""

    def _decide(self, loss: float | None) -> None:
        raise NotImplementedError

    def _state(self) -> dict[str, Any]:
        """What it remembers, as plain data and tensors."""
        return {}

    def _load(self, state: dict[str, Any]) -> None:
        """Put what `_state` gave in the place of what it remembers; raise ControllerError before anything changes."""

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The net's, by name, that require gradients."""
        return {name: own for name, own in self.net.named_parameters() if own.requires_grad}

    def gradients(self) -> dict[str, Tensor]:
        """Those that the optimizer is about to use, by name of the parameter."""
        return {name: own.grad for name, own in self.parameters.items() if own.grad is not None}

    def set_plan(self, plan: PrecisionPlan) -> None:
        """Have the net compute in a plan from the next step on; what the present one says of updates goes on."""
        self.net.set_plan(with_updates_of(plan, session_of(self.net).plan), recompile=True)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs of the controller and of precc, beside net, optimizer and generators."""
        return {
            "controller": type(self).__name__,
            "steps": self.steps,
            "own": self._state(),
            "net": self.net.precision_state(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a `state_dict` was taken.

        Raises:
            ControllerError: it is of another controller; nothing is changed.
            PlanError: it is of another net; nothing is changed.
        """
        if not isinstance(state_dict, Mapping) or set(state_dict) != _ENTRIES:
            raise ControllerError(f"not the state_dict of a controller, which has {', '.join(sorted(_ENTRIES))}")
        if state_dict["controller"] != type(self).__name__:
            raise ControllerError(f"the state_dict is of {state_dict['controller']!r}, not of {type(self).__name__}")
        if type(state_dict["steps"]) is not int or state_dict["steps"] < 0:
            raise ControllerError(f"the state_dict has steps {state_dict['steps']!r}")
        before = self._state()
        self._load(state_dict["own"])
        try:
            self.net.load_precision_state(state_dict["net"])
        except BaseException:
            self._load(before)
            raise
        self.steps, self._updates = state_dict["steps"], 0


def checked_net(net: Any, who: str) -> PrecisionModule:
    """A compiled net as it is.

    Raises:
        CaptureError: it is none.
    """
    if not isinstance(net, PrecisionModule):
        raise CaptureError(f"{who} takes a net made by precc.compile, not {type(net).__name__}")
    return net


def _trained(net: PrecisionModule) -> tuple[str, ...]:
    return tuple(name for name, own in net.named_parameters() if own.requires_grad)


def _checked_optimizer(net: PrecisionModule, optimizer: Any, who: str) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise ControllerError(f"{who} goes around an optimizer of torch.optim, not {type(optimizer).__name__}")
    held = {id(own) for group in optimizer.param_groups for own in group["params"]}
    named = {name: own for name, own in net.named_parameters() if own.requires_grad}
    if not named:
        raise ControllerError(f"{type(net).__name__} has no parameter that requires a gradient")
    missing = [name for name, own in named.items() if id(own) not in held]
    if missing:
        raise ControllerError(
            f"the optimizer has not the parameter {missing[0]!r} of {type(net).__name__}, nor {len(missing) - 1} more: "
            "it is of other parameters. Make it of net.parameters(), or freeze what is not trained"
        )
    return optimizer


def _changed(before: Sequence[str], now: Sequence[str]) -> str:
    gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    what = [f"{what} {names[0]!r}" for what, names in (("lost", gone), ("gained", new)) if names]
    return (
        f"the net's trained parameters have {' and '.join(what) or 'changed their order'} since the controller was "
        "made: make another one for them"
    )


def _number(loss: Tensor | float | None) -> float | None:
    if loss is None:
        return None
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ControllerError(f"ctl.step takes the loss as one number, not of shape {list(loss.shape)}")
        return float(loss.detach())
    if isinstance(loss, bool) or not isinstance(loss, (int, float)):
        raise ControllerError(f"ctl.step takes the loss as one number, not {type(loss).__name__}")
    return float(loss)


def _call(own: "ReferenceType[Controller]", method: str) -> None:
    controller = own()  # an optimizer outlives controllers that are gone
    if controller is not None:
        getattr(controller, method)()
