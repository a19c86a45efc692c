"""Which states of an optimizer are momentum: numbers that it keeps for each element of a parameter."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor

from precc.errors import ControllerError

__all__ = ["COUNTERS", "MOMENTUM", "momentum_of"]

#: By the names that the optimizers of torch give them.
MOMENTUM = frozenset(
    {
        "acc_delta",
        "ax",
        "col_var",
        "exp_avg",
        "exp_avg_sq",
        "exp_inf",
        "grad_avg",
        "max_exp_avg_sq",
        "momentum_buffer",
        "prev",
        "row_var",
        "square_avg",
        "step_size",
        "sum",
        "variance",
    }
)

#: Single numbers, which no plan rounds.
COUNTERS = frozenset({"eta", "mu", "mu_product", "step"})


def momentum_of(
    state: Mapping[str, Any], path: str, momentum: Collection[str], other: Collection[str]
) -> Iterator[tuple[str, Tensor]]:
    """The states of a parameter that are momentum, by name.

    Args:
        state: what the optimizer keeps for it.
        path: of the parameter.
        momentum: names of further states that are.
        other: names of further ones that are not.

    Raises:
        ControllerError: a state that is in neither, and no plain number.
    """
    for name, value in state.items():
        if name in MOMENTUM or name in momentum:
            if isinstance(value, Tensor):  # SGD has None before its first step
                yield name, value
        elif not (name in COUNTERS or name in other or value is None or isinstance(value, (bool, int, float, str))):
            raise ControllerError(
                f"the optimizer keeps {name!r} for {path!r}, and precc does not know whether the plan's format of "
                f"momentum is for it: RoundedUpdates(net, optimizer, momentum=[{name!r}]), or other=[{name!r}]"
            )
