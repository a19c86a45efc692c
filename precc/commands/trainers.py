"""What trains a net on the command line: an optimizer with or without a controller around it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from precc.api import compile
from precc.commands.steps import checked, forward, loss_of
from precc.commands.train_settings import TrainSettings
from precc.commands.users_errors import of_users
from precc.control.adapt import AdaPT
from precc.control.closure_optimizer import ClosureOptimizer
from precc.control.controller import Controller
from precc.control.loss_scaler import LossScaler
from precc.control.mpsgd import MPSGD
from precc.control.noise_aware import NoiseAware
from precc.control.sharpness_guard import SharpnessGuard
from precc.control.storm import STORM
from precc.control.trust_region import TrustRegion
from precc.errors import ControllerError, expected_one_of
from precc.module import PrecisionModule
from precc.plan import PrecisionPlan
from precc.task import Batch, Task
from precc.updates.rounded_updates import RoundedUpdates

__all__ = ["AROUND", "CLOSURES", "LEFT_OUT", "OPTIMIZERS", "RATES", "Around", "Trainer"]

#: Optimizers by name, of parameters and a learning rate.
OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}

#: Learning rates where none is given; of controllers that are optimizers the first radius.
RATES: Mapping[str, float] = {"adamw": 1e-3, "sgd": 0.01, "TrustRegion": 0.1, "STORM": 0.1}

#: Controllers that are optimizers themselves.
CLOSURES: Mapping[str, Callable[[PrecisionModule, float], ClosureOptimizer]] = {
    "TrustRegion": lambda net, radius: TrustRegion(net, radius),
    "STORM": lambda net, radius: STORM(net, radius),
}


@dataclass(frozen=True, slots=True)
class Around:
    """A controller around an optimizer.

    Args:
        make: it, of net, optimizer and the loss of a task.
        loss: whether the training calls the loss through it.
        plan: whether it begins with a plan of the user's, and does not choose the first one.
    """

    make: Callable[[PrecisionModule, Optimizer, Any], Controller]
    loss: bool = True
    plan: bool = False


#: Controllers around an optimizer.
AROUND: Mapping[str, Around] = {
    "NoiseAware": Around(lambda net, optimizer, loss: NoiseAware(net, optimizer, loss=loss)),
    "MPSGD": Around(lambda net, optimizer, loss: MPSGD(net, optimizer, loss=loss)),
    "AdaPT": Around(lambda net, optimizer, loss: AdaPT(net, optimizer), loss=False),
    "SharpnessGuard": Around(lambda net, optimizer, loss: SharpnessGuard(net, optimizer, loss), plan=True),
}

#: Controllers that the command line cannot make, and what they need.
LEFT_OUT: Mapping[str, str] = {
    "LateSwitch": "to know when to switch",
    "ALRS": "to know the widths of gradients",
}


class Trainer:
    """A compiled net and what trains it.

    Args:
        task: of the model.
        settings: what the arguments say.

    Raises:
        ControllerError, BackendError: they do not go together.
    """

    def __init__(self, task: Task, settings: TrainSettings) -> None:
        _check_names(settings)
        plan = None if settings.plan is None else PrecisionPlan.from_json(settings.plan)
        self.net = compile(checked(task).module, plan=plan, backend=settings.backend)
        #: With the loss of the user's, and with the one that a controller watches, if it does.
        self.given = self.task = task.on(self.net)
        #: Whether the net is between two steps, and not within the update of one, which cannot be undone.
        self.whole = True
        self.controller: Controller | None = None
        self.scaler: LossScaler | None = None
        self._rounded: RoundedUpdates | None = None
        if settings.controller is not None and settings.controller in CLOSURES:
            self.optimizer: Any = CLOSURES[settings.controller](self.net, settings.lr)
            return
        self.optimizer = OPTIMIZERS[settings.optimizer](_trained(self.net), lr=settings.lr)
        if settings.controller is not None:
            self._add(settings.controller)
        if plan is not None and plan.rounds_updates:
            self._rounded = RoundedUpdates(self.net, self.optimizer)
        if plan is not None and plan.loss_scaling is not None:
            self.scaler = LossScaler(self.net)

    def _add(self, name: str) -> None:
        """A controller, which then knows the loss."""
        own = AROUND[name]
        self.controller = own.make(self.net, self.optimizer, self.task.loss)
        if self.task.loss is not None and own.loss:
            self.task = replace(self.task, loss=self.controller.loss)

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint has a state of."""
        found = {"net": self.net, "optimizer": self.optimizer, "controller": self.controller, "scaler": self.scaler}
        return {name: own for name, own in found.items() if own is not None}

    def step(self, batch: Batch) -> float:
        """One step of a training; the loss.

        Raises:
            CaptureError: forward or loss fails.
            PreccError: as the controller.
        """

        def loss_now() -> Tensor:
            return loss_of(self.task, forward(self.task, batch), batch)

        if isinstance(self.optimizer, ClosureOptimizer):
            return self.optimizer.step(loss_now).item()
        self.optimizer.zero_grad()
        loss = loss_now()
        with of_users("the backward"):
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        self.whole = False
        self._update()
        if self.controller is not None:
            self.controller.step(loss)
        self.whole = True
        return loss.item()

    def _update(self) -> None:
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()


def _check_names(settings: TrainSettings) -> None:
    """Refuse what an edited file may name."""
    if settings.controller not in (None, *AROUND, *CLOSURES):
        raise ControllerError(f"controller {settings.controller!r}: {expected_one_of((*AROUND, *CLOSURES))}")
    if settings.controller not in CLOSURES and settings.optimizer not in OPTIMIZERS:
        raise ControllerError(f"optimizer {settings.optimizer!r}: {expected_one_of(OPTIMIZERS)}")


def _trained(net: PrecisionModule) -> list[nn.Parameter]:
    found = [own for own in net.parameters() if own.requires_grad]
    if not found:
        raise ControllerError(f"{type(net).__name__} has no parameter that requires a gradient")
    return found
