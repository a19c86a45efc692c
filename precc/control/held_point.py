"""A point to go back to: parameters and momentum, held in an optimizer's state, so that its state_dict has them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HeldPoint"]

_VALUE, _MOMENTUM = "held_value", "held_momentum"

State = dict[Tensor, dict[str, Any]]  #: an optimizer's


@dataclass(eq=False)
class HeldPoint:
    """The point that is held, if any.

    Args:
        buffers: of the net; None: no point is held.
    """

    buffers: dict[str, Tensor] | None = None

    def hold(self, state: State, parameters: Iterable[Tensor], buffers: Mapping[str, Tensor]) -> None:
        """Hold the present point in the place of the one before."""
        for parameter in parameters:
            own = state[parameter]
            own[_VALUE] = parameter.detach().clone()
            own.pop(_MOMENTUM, None)
            if "momentum_buffer" in own:
                own[_MOMENTUM] = own["momentum_buffer"].clone()
        self.buffers = {name: own.clone() for name, own in buffers.items()}

    @torch.no_grad()
    def go_back(self, state: State, parameters: Iterable[Tensor], net: nn.Module) -> None:
        """Go back to the point that is held; a parameter that was added since stays."""
        if self.buffers is None:
            return
        for parameter in parameters:
            own = state[parameter]
            if _VALUE not in own:
                continue
            parameter.copy_(own[_VALUE])
            own.pop("momentum_buffer", None)
            if _MOMENTUM in own:
                own["momentum_buffer"] = own[_MOMENTUM].clone()
        for name, buffer in net.named_buffers():
            if name in self.buffers:
                buffer.copy_(self.buffers[name])
