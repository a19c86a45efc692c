"""Evaluate a closure several times at what counts as one moment: same masks, buffers and scales."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precc.amax_history import AmaxState
from precc.errors import ClosureError
from precc.generators import Generators
from precc.module import PrecisionModule, session_of

__all__ = ["Snapshot", "loss_of_closure"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """States of torch's generators, a net's buffers and its amax history, to be restored before each evaluation.

    So f(x) and f(x + p) see the same dropout masks and delayed scales, and batch-norm statistics advance once.
    """

    generators: Generators
    buffers: dict[str, Tensor]
    amax: AmaxState | None  # of a net made by precc.compile

    @classmethod
    def of(cls, net: nn.Module) -> "Snapshot":
        """What a forward of this net may change, as it is now."""
        return cls(
            generators=Generators.of((*net.parameters(), *net.buffers())),
            buffers={name: buffer.detach().clone() for name, buffer in net.named_buffers()},
            amax=session_of(net).amax.state() if isinstance(net, PrecisionModule) else None,
        )

    def restore_generators(self) -> None:
        """Draw the same random numbers again."""
        self.generators.restore()

    def restore(self, net: nn.Module) -> None:
        """Put generators, buffers and amax history back."""
        self.restore_generators()
        if self.amax is not None and isinstance(net, PrecisionModule):
            session_of(net).amax.restore(self.amax)
        with torch.no_grad():
            for name, buffer in net.named_buffers():
                if name in self.buffers:
                    buffer.copy_(self.buffers[name])


def loss_of_closure(closure: Callable[[], Tensor]) -> Tensor:
    """The loss that a closure returns, with gradients recorded.

    Gradients are recorded even where only the value is wanted: the same compiled graph then runs, and a
    difference of two losses is the difference of two plans or points, not of two graphs.

    Raises:
        ClosureError: it returns something else than one real number in a tensor.
    """
    with torch.enable_grad():
        loss = closure()
    if not isinstance(loss, Tensor):
        raise ClosureError(
            f"the closure must return the loss as a tensor, not {type(loss).__name__}: "
            "write opt.step(lambda: loss_fn(net(x), y))"
        )
    if loss.numel() != 1 or not loss.dtype.is_floating_point:
        raise ClosureError(
            f"the closure must return one real number, not a {loss.dtype} tensor of shape {list(loss.shape)}: "
            "reduce the loss, for instance with .mean()"
        )
    return loss
