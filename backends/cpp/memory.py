"""Where tensors lie in memory: what a kernel that is handed addresses must know."""

import torch
from torch import Tensor

__all__ = ["is_plain", "overlaps", "overlaps_itself", "written"]


def is_plain(x: Tensor) -> bool:
    """Whether the tensor is its memory on the CPU: no fake or traced one, none inside a transform such as vmap."""
    if x.device.type != "cpu" or type(x) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return False
    return torch._C._len_torch_dispatch_stack() == 0 and torch._C._functorch.peek_interpreter_stack() is None


def overlaps_itself(x: Tensor) -> bool:
    """Whether elements of a tensor may share a place in memory."""
    reached = 0
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1):
        if stride <= reached:
            return True
        reached += stride * (size - 1)
    return False


def overlaps(x: Tensor, y: Tensor) -> bool:
    """Whether the addresses from the first to the last element of two tensors of the CPU meet."""
    if not (x.numel() and y.numel()):
        return False
    first, second = x.data_ptr(), y.data_ptr()
    return first < second + _extent(y) and second < first + _extent(x)


def _extent(x: Tensor) -> int:
    steps = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return int(steps + 1) * x.element_size()


def written(out: Tensor) -> Tensor:
    """`out`, of which autograd now knows that a kernel has written it."""
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)
    return out
