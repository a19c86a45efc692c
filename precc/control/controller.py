"""What schedulers of precision have in common: around a net and any optimizer, one step after each of its steps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from weakref import ReferenceType, ref

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from precc.checked_net import checked_net
from precc.control.ranks import Ranks
from precc.control.watched_batch import Loss, Watch
from precc.errors import ControllerError, UnsupportedError
from precc.graph_builds import LIVE
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.precision_state import load_state
from precc.unscaled import refuse_scaled
from precc.updates.same_updates import with_updates_of

__all__ = ["Controller", "checked_optimizer"]

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

    #: Whether it decides the same on all ranks of a distributed training.
    _for_ranks: ClassVar[bool] = False

    def __init__(self, net: PrecisionModule, optimizer: Optimizer, loss: Loss | None = None) -> None:
        self.net = checked_net(net, type(self).__name__)
        self.optimizer = checked_optimizer(net, optimizer, type(self).__name__)
        if not self._for_ranks and Ranks.present().size > 1:
            raise UnsupportedError(
                f"{type(self).__name__} decides by the batch of one rank, and others decide otherwise"
            )
        self.watch = Watch(net, loss)
        #: Steps of the optimizer so far.
        self.steps = 0
        self._updates = 0  # steps of the optimizer since the last of the controller
        self._names = _trained(net)
        self._skipped = False  # whether the last row says that a step was left out
        self._set: PrecisionPlan | None = None  # that it has set
        self._before: PrecisionPlan | None = None  # that somebody else had set before
        own = ref(self)
        self._hooks = [
            optimizer.register_step_pre_hook(lambda _, args, kwargs: _before_step(own, args, kwargs)),
            optimizer.register_step_post_hook(lambda *_: _after_step(own)),
        ]

    def __reduce__(self) -> Any:
        raise ControllerError(
            f"a {type(self).__name__} is of one net and one optimizer: make another for copies of these, and "
            "load_state_dict(ctl.state_dict())"
        )

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
            ControllerError: parameters were added or frozen since the controller was made, or a loss was given to it
                and not called.
        """
        if _trained(self.net) != self._names:
            raise ControllerError(_changed(self._names, _trained(self.net)))
        value = _number(loss)
        if not self._updates:
            if not self._skipped:
                self.note("skipped", "the optimizer made no step since the last call", loss=value)
            self._skipped = True
            return
        if self.watch.expects_loss:
            self.watch.batch  # noqa: B018 - it says what is wrong, at the first step
        self._decide(value)
        self._updates, self._skipped = 0, False

    def note(self, event: str, reason: str, **own: Any) -> None:
        """A row of ``net.history``, and a count in its events."""
        session = session_of(self.net)
        session.history.note(
            step=self.steps, controller=type(self).__name__, event=event, reason=reason, plan=session.plan, **own
        )
        session.events[event] += 1

    def _see_gradients(self) -> None:
        refuse_scaled(self.optimizer, type(self).__name__)
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
        return self.watch.parameters

    def gradients(self) -> dict[str, Tensor]:
        """Those that the optimizer is about to use, by name of the parameter."""
        return {name: own.grad for name, own in self.parameters.items() if own.grad is not None}

    def set_plan(self, plan: PrecisionPlan) -> None:
        """Have the net compute in a plan from the next step on.

        What it says of updates holds, or, if it says nothing of them, what the plan said that somebody else set last.
        """
        session = session_of(self.net)
        if session.chosen is not self._set or self._before is None:
            self._before = session.plan
        says = plan.rounds_updates or plan.loss_scaling is not None
        own = plan if says else with_updates_of(plan, self._before)
        self.net.set_plan(own, recompile=True)
        self._set = session.chosen

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
        before, present = self._state(), self.net.precision_state()
        try:
            self._load(state_dict["own"])
            self.net.load_precision_state(state_dict["net"])
        except BaseException:
            self._load(before)
            load_state(session_of(self.net), self.net, present, exact=True)
            raise
        self.steps, self._updates, self._skipped, self._set = state_dict["steps"], 0, False, None


def checked_optimizer(net: PrecisionModule, optimizer: Any, who: str) -> Optimizer:
    """An optimizer that a scheduler of precision can go around, as it is.

    Raises:
        ControllerError: it is none, is not of the net's parameters, or chooses precision itself.
        UnsupportedError: it moves parameters several times a step, or the net's graphs are for one plan.
    """
    if not isinstance(optimizer, Optimizer):
        raise ControllerError(f"{who} goes around an optimizer of torch.optim, not {type(optimizer).__name__}")
    session = session_of(net)
    if any(own is optimizer for own in session.parts.rounding):
        raise ControllerError(f"{type(optimizer).__name__} chooses precision itself, and {who} cannot go around it")
    if isinstance(optimizer, LBFGS):
        raise UnsupportedError(f"{who} goes around optimizers that move parameters once a step: LBFGS does not")
    if session.builds.only_plan is not None:
        raise UnsupportedError(f"{who} changes plans, and the net was compiled for one: {LIVE}")
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


def _trained(net: PrecisionModule) -> tuple[str, ...]:
    return tuple(name for name, own in net.named_parameters() if own.requires_grad)


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


def _before_step(own: "ReferenceType[Controller]", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Show a controller the gradients of a step; where a closure is to compute them, after it."""
    controller = own()  # an optimizer outlives controllers that are gone
    if controller is None:
        return None
    if len(args) > 1 and args[1] is not None:
        return (args[0], _around(controller, args[1]), *args[2:]), kwargs
    if kwargs.get("closure") is not None:
        return args, {**kwargs, "closure": _around(controller, kwargs["closure"])}
    controller._see_gradients()
    return None


def _around(controller: "Controller", closure: Callable[[], Any]) -> Callable[[], Any]:
    def evaluate() -> Any:
        loss = closure()
        controller._see_gradients()
        return loss

    return evaluate


def _after_step(own: "ReferenceType[Controller]") -> None:
    controller = own()
    if controller is not None:
        controller._see_update()
