"""Whether the addresses of a tensor's elements fit integers of 32 bits."""

from collections.abc import Iterable

from torch import Tensor

__all__ = ["are_beyond", "reach", "tensors_are_beyond"]

#: Offsets, in elements, that stay within 32 bits with a tile to spare.
_MOST = 2**31 - 2**22


def reach(dims: Iterable[tuple[int, int]]) -> int:
    """How far the last element lies from the first, in elements, from sizes and strides.

    >>> reach([(3, 100), (5, 1)])
    204
    """
    return sum(max(0, size - 1) * stride for size, stride in dims)


def are_beyond(offsets: Iterable[int]) -> bool:
    """Whether one of these offsets needs 64 bits."""
    return max(offsets, default=0) >= _MOST


def tensors_are_beyond(tensors: Iterable[object]) -> bool:
    """Whether an element of one of the tensors among these lies so far from its first."""
    return are_beyond(reach(zip(own.shape, own.stride(), strict=True)) for own in tensors if isinstance(own, Tensor))
