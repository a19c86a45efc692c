"""What a node of a step computes: one value or several, tensors or numbers."""

from typing import Any

from torch import Tensor

__all__ = ["detached", "listed", "records_gradient"]


def listed(value: Any) -> list[Any]:
    """The values, also if it is one."""
    return list(value) if isinstance(value, (tuple, list)) else [value]


def detached(value: Any) -> Any:
    """The same without what autograd knows of it."""
    if isinstance(value, (tuple, list)):
        return tuple(map(detached, value))
    return value.detach() if records_gradient(value) else value


def records_gradient(value: Any) -> bool:
    """Whether it is a tensor that autograd follows."""
    return isinstance(value, Tensor) and value.requires_grad
