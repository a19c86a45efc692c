"""Evaluate a closure several times at what counts as one moment: same masks, same buffers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from precc.errors import ClosureError

__all__ = ["Moment", "evaluate_closure"]


@dataclass(frozen=True, slots=True)
class Moment:
    """States of torch's generators and values of a net's buffers, to be restored before each evaluation.

    So f(x) and f(x + p) see the same dropout masks, and batch-norm statistics advance once.
    """

    processor: Tensor
    devices: dict[torch.device, Tensor]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, net: nn.Module) -> "Moment":
        values = [*net.parameters(), *net.buffers()]
        accelerators = {value.device for value in values if value.device.type == "cuda"}
        return cls(
            processor=torch.get_rng_state(),
            devices={device: torch.cuda.get_rng_state(device) for device in accelerators},
            buffers={name: buffer.detach().clone() for name, buffer in net.named_buffers()},
        )

    def restore_generators(self) -> None:
        torch.set_rng_state(self.processor)
        for device, state in self.devices.items():
            torch.cuda.set_rng_state(state, device)

    def restore(self, net: nn.Module) -> None:
        self.restore_generators()
        with torch.no_grad():
            for name, buffer in net.named_buffers():
                if name in self.buffers:
                    buffer.copy_(self.buffers[name])


def evaluate_closure(closure: Callable[[], Tensor]) -> Tensor:
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
