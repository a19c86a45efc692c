"""A point to go back to: parameters and momentum, held in an optimizer's state, so that its state_dict has them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["go_back", "hold"]

_VALUE, _MOMENTUM = "held_value", "held_momentum"


def hold(state: dict[Tensor, dict[str, Any]], parameters: Iterable[Tensor]) -> None:
    """Hold the present point in the place of the one before."""
    for parameter in parameters:
        own = state[parameter]
        own[_VALUE] = parameter.detach().clone()
        own.pop(_MOMENTUM, None)
        if "momentum_buffer" in own:
            own[_MOMENTUM] = own["momentum_buffer"].clone()


def go_back(state: dict[Tensor, dict[str, Any]], parameters: Iterable[Tensor]) -> None:
    """Go back to the point that is held; a parameter that was added since stays."""
    with torch.no_grad():
        for parameter in parameters:
            own = state[parameter]
            if _VALUE not in own:
                continue
            parameter.copy_(own[_VALUE])
            own.pop("momentum_buffer", None)
            if _MOMENTUM in own:
                own["momentum_buffer"] = own[_MOMENTUM].clone()
