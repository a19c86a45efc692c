"""Which dimensions of the inputs may change, as torch.export takes it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.export import Dim
from torch.utils import _pytree

__all__ = ["parse_dynamic_shapes"]


def parse_dynamic_shapes(dynamic_shapes: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What torch.export takes; names of dimensions become its `Dim`, equal names the same one.

    Args:
        dynamic_shapes: None: all are fixed; a name: the first dimension of every tensor has it, as ``"batch"``; else
            as torch.export takes it, where a name may stand for a `Dim`: ``({0: "batch", 1: "length"},)``.
        args: example inputs.
        kwargs: likewise by name, after those.

    >>> import torch
    >>> parse_dynamic_shapes("batch", (torch.zeros(2, 3), 1.0), {})
    ({0: Dim('batch')}, None)
    """
    dims: dict[str, Any] = {}

    def dim(name: str) -> Any:
        return dims.setdefault(name, Dim(name))

    def named(entry: Any) -> Any:
        if isinstance(entry, str):
            return dim(entry)
        if isinstance(entry, Mapping):
            return {key: named(own) for key, own in entry.items()}
        return type(entry)(map(named, entry)) if type(entry) in (list, tuple) else entry

    if not isinstance(dynamic_shapes, str):
        return named(dynamic_shapes)

    def first(leaf: Any) -> Any:
        return {0: dim(dynamic_shapes)} if isinstance(leaf, Tensor) and leaf.dim() else None

    return tuple(_pytree.tree_map(first, (*args, *kwargs.values())))
