"""Which dimensions of the inputs may change, as torch.export takes it, and what they are called."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.export import Dim
from torch.utils import _pytree

__all__ = ["DynamicShapes"]


@dataclass(frozen=True, slots=True)
class DynamicShapes:
    """Of the inputs of an export.

    Args:
        traced: as torch.export takes it; a dimension that has only a name is bounded by what the net does with it.
        named: as torch.onnx takes it, with the names.

    >>> import torch
    >>> shapes = DynamicShapes.of("batch", (torch.zeros(2, 3), 1.0), {})
    >>> shapes.named
    ({0: 'batch'}, None)
    """

    traced: Any
    named: Any

    @classmethod
    def of(cls, dynamic_shapes: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "DynamicShapes":
        """What a user says.

        Args:
            dynamic_shapes: None: all are fixed; a name: the first dimension of every tensor has it, as ``"batch"``;
                else as torch.export takes it, where a name may stand for a `Dim`: ``({0: "batch", 1: "length"},)``.
            args: example inputs.
            kwargs: likewise by name, after those.
        """
        if not isinstance(dynamic_shapes, str):
            return cls(_without_names(dynamic_shapes), dynamic_shapes)

        def first(leaf: Any) -> Any:
            return {0: dynamic_shapes} if isinstance(leaf, Tensor) and leaf.dim() else None

        named = tuple(_pytree.tree_map(first, (*args, *kwargs.values())))
        return cls(_without_names(named), named)


def _without_names(entry: Any) -> Any:
    if isinstance(entry, str):
        return Dim.DYNAMIC
    if isinstance(entry, Mapping):
        return {key: _without_names(own) for key, own in entry.items()}
    return type(entry)(map(_without_names, entry)) if type(entry) in (list, tuple) else entry
