"""One step of a closure optimizer: its closure, evaluated several times at what counts as one moment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from precc.control.linear_step import Values
from precc.control.snapshot import Snapshot, loss_of_closure
from precc.errors import ClosureError, ControllerError, UnsupportedError
from precc.module import PrecisionModule, session_of
from precc.plan import PrecisionPlan

__all__ = ["Closure", "LossScale", "Moment", "all_finite", "check_no_gradients"]

Closure = Callable[[], Tensor]
LossScale = Callable[[PrecisionPlan | None], float]  #: by plan, None being full precision


@dataclass(eq=False)
class Moment:
    """The closure of a step, and what was before it.

    Args:
        net: that the closure calls.
        closure: evaluates the loss of one batch.
        parameters: of the optimizer.
        loss_scale: factor on gradients in the backward under a plan, taken off afterwards.
        optimizer: its name, for errors.
        before: generators, buffers and amax history before the first evaluation.
        kept: whether a step that was rejected is kept.
        bad: whether the loss here, or that of the step, was found to be bad.
    """

    net: PrecisionModule
    closure: Closure
    parameters: Sequence[Tensor]
    loss_scale: LossScale
    optimizer: str
    before: Snapshot = field(init=False)
    kept: bool = False
    bad: bool = False

    def __post_init__(self) -> None:
        self.before = Snapshot.of(self.net)

    def gradients(self, plan: PrecisionPlan | None) -> tuple[Tensor, Values]:
        """Loss and gradient here under a plan, None being full precision; the loss scale is taken off.

        Raises:
            ClosureError: the closure does not call the net, or its loss has no gradient.
            UnsupportedError: a gradient is sparse.
        """
        runs = session_of(self.net).builds.runs
        loss = self._evaluate(plan)
        if session_of(self.net).builds.runs == runs:
            raise ClosureError("the closure did not call the net of this optimizer: does it say net(x), not model(x)?")
        scale = 1.0
        if all(parameter.grad is None for parameter in self.parameters):
            if not loss.requires_grad:
                raise ClosureError(
                    "the loss depends on no parameter of the net: is it computed under torch.no_grad, or detached?"
                )
            scale = self.loss_scale(plan)
            loss.backward(torch.full_like(loss, scale))
        if any(own.grad is not None and own.grad.is_sparse for own in self.parameters):
            raise UnsupportedError(f"{self.optimizer} does not take sparse gradients: use Embedding(sparse=False)")
        # in float32 at least: what the scale saved from underflow in float16 must outlive its removal
        widened = {p: torch.promote_types(p.dtype, torch.float32) for p in self.parameters}
        gradients = {p: p.grad.to(widened[p]) / scale for p in self.parameters if p.grad is not None}
        self.forget_gradients()
        return loss.detach(), gradients

    def loss(self, plan: PrecisionPlan | None) -> float:
        """The loss here under a plan, None being full precision."""
        loss = float(self._evaluate(plan).item())
        self.forget_gradients()
        return loss

    def _evaluate(self, plan: PrecisionPlan | None) -> Tensor:
        if plan is None:
            session_of(self.net).use_full_precision()
        else:
            self.net.set_plan(plan)
        self.before.restore(self.net)
        self.forget_gradients()
        return loss_of_closure(self.closure)

    def forget_gradients(self) -> None:
        """Leave nothing in ``.grad``."""
        for parameter in self.parameters:
            parameter.grad = None


def all_finite(loss: Tensor, gradients: Values) -> bool:
    """Whether a loss and its gradient are."""
    return all(bool(value.isfinite().all()) for value in (loss, *gradients.values()))


def check_no_gradients(gradients: Mapping[str, Tensor], who: str) -> None:
    """Refuse to overwrite gradients; those that are zero may go.

    Raises:
        ControllerError: one is not.
    """
    held = [name for name, own in gradients.items() if bool(own.any())]
    if held:
        raise ControllerError(
            f"{held[0]!r}, and {len(held) - 1} more, have gradients, which {who} would overwrite: "
            "optimizer.zero_grad() before; micro-batches go into one closure"
        )
