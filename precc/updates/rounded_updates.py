"""RoundedUpdates: an optimizer of torch whose buffers, steps and parameters are in the formats of a net's plan."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from precc.checked_net import checked_net
from precc.checks import checked_count
from precc.errors import ControllerError, UnsupportedError
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan
from precc.rounding import Row, draw_key
from precc.session import Session
from precc.unscaled import refuse_scaled
from precc.updates.optimizer_states import momentum_of
from precc.updates.round_update import UpdateRows, lost_to_nearest, round_update

__all__ = ["RoundedUpdates"]

_ATTACHED: "WeakKeyDictionary[Optimizer, ref[RoundedUpdates]]" = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class _Move:
    """A parameter that the step under way moves."""

    path: str
    parameter: Tensor
    rows: UpdateRows
    old: Tensor | None  # where it is needed


@dataclass(frozen=True, slots=True)
class _Step:
    moves: list[_Move]
    key: int
    counted: bool


class RoundedUpdates:
    """Rounds, in each step of an optimizer, what the plan of a net says of updates.

    The gradient buffer before the step, in which what is not finite stays so in formats that saturate; after it the
    states that are momentum, then what was added to the parameter, ``step = new - old`` in the dtype of the parameter,
    then the parameter, ``master(old + step)``. Parameters without a gradient stay as they are. The plan is read at each
    step: ``net.set_plan`` acts on the next one, and compiles nothing. Where a plan rounds nothing, nothing is copied.
    Stochastic bits have one key a step, from torch's default generator: its saved state repeats them, and replicas that
    are trained in parallel need the same one.

    Call ``optimizer.step()`` as before, with or without a closure, or through a GradScaler. The net's precision state
    has the plan; this has no state of its own.

    Args:
        net: made by `precc.compile`.
        optimizer: of parameters of the net, all or some.
        momentum: names of states of the optimizer that are momentum, beside those of the optimizers of torch.
        other: names of states that are not, and stay as they are.
        count_every: steps between those in which `lost` is counted.

    Raises:
        CaptureError: the net is not compiled by precc.
        ControllerError: no optimizer, one of other parameters, or one that has a RoundedUpdates already.
        UnsupportedError: LBFGS, which moves parameters several times a step, or an optimizer of precc, which rounds
            them itself.
    """

    def __init__(
        self,
        net: PrecisionModule,
        optimizer: Optimizer,
        *,
        momentum: Collection[str] = (),
        other: Collection[str] = (),
        count_every: int = 16,
    ) -> None:
        self.net = checked_net(net, type(self).__name__)
        self.optimizer = _checked(optimizer, self._session)
        self._momentum, self._other = _names(momentum, "momentum"), _names(other, "other")
        self.count_every = checked_count("count_every, in steps,", count_every, 1)
        self.steps = 0
        self._plan: PrecisionPlan | None = None
        self._rows: dict[str, UpdateRows] = {}  # of that plan, by path
        self._step: _Step | None = None
        self._lost: dict[str, Tensor] = {}
        self._moving()  # or it says which parameter is not of the net
        self._hooks = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        _ATTACHED[optimizer] = ref(self)
        self._session.parts.rounding.add(self)

    def __reduce__(self) -> Any:
        raise ControllerError(
            "a RoundedUpdates is of one net and one optimizer: make another for copies of these, "
            "precc.RoundedUpdates(net, optimizer)"
        )

    def close(self) -> None:
        """Let go of net and optimizer; steps are no longer rounded."""
        for hook in self._hooks:
            hook.remove()
        if _ATTACHED.get(self.optimizer) == ref(self):
            del _ATTACHED[self.optimizer]
        self._session.parts.rounding.discard(self)

    @property
    def _session(self) -> Session:
        return session_of(self.net)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the parameters of the optimizer."""
        return tuple(self._moving())

    def lost(self) -> dict[str, float]:
        """Share of each parameter's elements whose step is below half a quantum of the master weight.

        To nearest rounding would lose them, whatever the plan does. Of the last step that was counted, by path; only
        parameters whose master weight is rounded. Waits for the device.
        """
        sizes = {path: own.numel() for path, own in self._moving().items()}
        return {path: own.item() / max(sizes[path], 1) for path, own in self._lost.items() if path in sizes}

    def _moving(self) -> dict[str, Tensor]:
        """The parameters of the optimizer, by path."""
        paths = {id(own): path for path, own in self.net.named_parameters()}
        every = [own for group in self.optimizer.param_groups for own in group["params"]]
        strange = [own for own in every if id(own) not in paths]
        if strange:
            raise ControllerError(
                f"the optimizer has {len(strange)} parameter(s) that are not of the net, the first of shape "
                f"{list(strange[0].shape)}: make it of net.parameters(), and give others an optimizer of their own"
            )
        return {paths[id(own)]: own for own in every}

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Round gradients; where a closure is to compute them, after it."""
        self._step = None
        plan = self._session.plan
        if not plan.rounds_updates:
            self._lost = {}
            return None
        if len(args) > 1 and args[1] is not None:
            return (args[0], self._around(args[1], plan), *args[2:]), kwargs
        if kwargs.get("closure") is not None:
            return args, {**kwargs, "closure": self._around(kwargs["closure"], plan)}
        self._begin(plan)
        return None

    def _around(self, closure: Callable[[], Any], plan: PrecisionPlan) -> Callable[[], Any]:
        def evaluate() -> Any:
            if self._step is not None:
                raise UnsupportedError(
                    f"{type(self.optimizer).__name__} evaluates its closure several times a step, and moves parameters "
                    "in between: RoundedUpdates is for optimizers that move them once"
                )
            loss = closure()
            self._begin(plan)
            return loss

        return evaluate

    @torch.no_grad()
    def _begin(self, plan: PrecisionPlan) -> None:
        """Round the gradient buffers, and keep what the step is to be told from."""
        moving = {path: own for path, own in self._moving().items() if own.grad is not None}
        rows = {path: self._rows_of(plan, path, own) for path, own in moving.items()}
        key = draw_key() if any(own.draws for own in rows.values()) else 0
        for path, own in moving.items():
            if (row := rows[path].gradient) is not None:
                self._round_gradient(_gradient(self.optimizer, path, own), row, key)
        counted = self.steps % self.count_every == 0
        moves = [_Move(path, own, rows[path], _kept(own, rows[path], counted=counted)) for path, own in moving.items()]
        self._step = _Step(moves, key, counted)

    def _rows_of(self, plan: PrecisionPlan, path: str, parameter: Tensor) -> UpdateRows:
        if plan is not self._plan:
            self._plan, self._rows = plan, {}
        if path not in self._rows:
            self._rows[path] = UpdateRows.of(plan, path, parameter)
        return self._rows[path]

    def _round(self, tensor: Tensor, row: Row, key: int) -> None:
        rounded = self._session.options.rounding(tensor, row, key)
        if rounded is not tensor:
            tensor.copy_(rounded)

    def _round_gradient(self, tensor: Tensor, row: Row, key: int) -> None:
        """What is not finite stays so, for whoever guards the training."""
        rounded = self._session.options.rounding(tensor, row, key)
        if rounded is not tensor:
            saturates = math.isfinite(row.grid.above)
            tensor.copy_(torch.where(tensor.isfinite(), rounded, tensor) if saturates else rounded)

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Round momentum, steps and parameters."""
        step, self._step = self._step, None
        if step is None:
            return
        states = [(move, *own) for move in step.moves for own in self._states(move)]
        for move, name, value in states:
            row = move.rows.of_state(name)
            assert row is not None
            self._round(value, row, step.key)
        if step.counted:
            self._lost = {}
        for move in step.moves:
            self._finish(move, step)
        self.steps += 1

    def _states(self, move: _Move) -> list[tuple[str, Tensor]]:
        if move.rows.momentum is None:
            return []
        return list(momentum_of(self.optimizer.state[move.parameter], move.path, self._momentum, self._other))

    def _finish(self, move: _Move, step: _Step) -> None:
        """Round the step of one parameter, and the parameter."""
        parameter, rows, rounding = move.parameter, move.rows, self._session.options.rounding
        if step.counted and move.old is not None and rows.master is not None:
            self._lost[move.path] = lost_to_nearest(move.old, _taken(move, rounding, step.key), rows.master)
        if move.old is not None and _acts(rows.step, parameter):
            parameter.copy_(round_update(move.old, parameter - move.old, rows, step.key, rounding=rounding))
        elif rows.master is not None:
            self._round(parameter, rows.master, step.key)


def _taken(move: _Move, rounding: Callable[[Tensor, Row, int], Tensor], key: int) -> Tensor:
    assert move.old is not None
    step = move.parameter - move.old
    return step if move.rows.step is None else rounding(step, move.rows.step, key)


def _acts(row: Row | None, tensor: Tensor) -> bool:
    """Whether rounding may change any value of a tensor."""
    return row is not None and not row.is_identity(tensor.dtype)


def _kept(parameter: Tensor, rows: UpdateRows, *, counted: bool) -> Tensor | None:
    """A copy of a parameter before a step, where the step is rounded or counted."""
    needed = _acts(rows.step, parameter) or (counted and _acts(rows.master, parameter))
    return parameter.detach().clone() if needed else None


def _gradient(optimizer: Optimizer, path: str, parameter: Tensor) -> Tensor:
    """The gradient buffer of a parameter, free of any loss scale."""
    refuse_scaled(optimizer, f"RoundedUpdates of {path!r}")
    assert parameter.grad is not None
    if parameter.grad.is_sparse:
        raise UnsupportedError(f"the gradient of {path!r} is sparse, and the plan rounds it: use sparse=False")
    return parameter.grad


def _checked(optimizer: Any, session: Session) -> Optimizer:
    if optimizer in session.parts.rounding:
        raise UnsupportedError(f"{type(optimizer).__name__} rounds its updates itself, as the plan says")
    if not isinstance(optimizer, Optimizer):
        raise ControllerError(f"RoundedUpdates goes around an optimizer of torch.optim, not {type(optimizer).__name__}")
    if isinstance(optimizer, LBFGS):
        raise UnsupportedError(
            f"RoundedUpdates is for optimizers that move parameters once a step: {type(optimizer).__name__} tries "
            "several moves"
        )
    if optimizer in _ATTACHED and _ATTACHED[optimizer]() is not None:
        raise ControllerError("this optimizer has a RoundedUpdates already: its steps would be rounded twice; close it")
    return optimizer


def _names(names: Collection[str], what: str) -> frozenset[str]:
    if isinstance(names, (str, Mapping)) or not all(isinstance(name, str) for name in names):
        raise ControllerError(f"{what} is a sequence of names of states, not {names!r}")
    return frozenset(names)
