"""Which dimensions of the inputs may change, as torch.export takes it, and what they are called."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree

from precc.errors import CaptureError

__all__ = ["DynamicShapes"]


@dataclass(frozen=True, slots=True)
class DynamicShapes:
    """Of the inputs of an export.

    Args:
        traced: as torch.export takes it; a dimension that has only a name is bounded by what the net does with it.
        named: as torch.onnx takes it, with the names.

    >>> import torch
    >>> shapes = DynamicShapes.of("batch", torch.nn.Bilinear(3, 4, 5), (torch.zeros(2, 3), torch.zeros(2, 4)), {})
    >>> shapes.named
    ({0: 'batch'}, {0: 'batch'})
    """

    traced: Any
    named: Any

    @classmethod
    def of(
        cls, dynamic_shapes: Any, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "DynamicShapes":
        """What a user says.

        Args:
            dynamic_shapes: None: all are fixed; a name: the first dimension of every tensor has it, as ``"batch"``;
                by number, ``{0: "batch", 1: "length"}``: these of every tensor that has them; else by input, as
                torch.export takes it, where a name may stand for a `Dim`: ``({0: "batch", 1: "length"},)``.
            model: whose forward may take several inputs as one argument.
            args: example inputs.
            kwargs: likewise by name, after those.

        Raises:
            CaptureError: what is none of these, a name that is none, a dimension that a tensor has not, or one that
                may change and is 1 in the example.
        """
        if dynamic_shapes is None:
            return cls(None, None)
        inputs = _by_argument(model, args, kwargs)
        if isinstance(dynamic_shapes, str):
            dynamic_shapes = {0: dynamic_shapes}
        if isinstance(dynamic_shapes, Mapping) and dynamic_shapes and all(type(key) is int for key in dynamic_shapes):
            dynamic_shapes = _of_every(dynamic_shapes, list(inputs.values()))
        if not isinstance(dynamic_shapes, (Mapping, tuple, list)):
            raise CaptureError(
                f"dynamic_shapes is {dynamic_shapes!r:.60}: expected a name, as 'batch', or entries by input, as "
                "({0: 'batch'},)"
            )
        own = inputs if isinstance(dynamic_shapes, Mapping) else list(inputs.values())
        try:
            _check(dynamic_shapes, own, "inputs")
        except CaptureError as error:
            raise CaptureError(f"torch.export cannot trace {type(model).__name__}: {error}") from None
        return cls(_without_names(dynamic_shapes), dynamic_shapes)


def _by_argument(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """As torch.export numbers them: those of ``*args`` are one."""
    try:
        return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise CaptureError(f"torch.export cannot trace {type(model).__name__} with these inputs: {error}") from error


def _of_every(names: Mapping[int, Any], inputs: list[Any]) -> tuple[Any, ...]:
    """These dimensions of every tensor that has them."""
    most = max((leaf.dim() for leaf in _pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)), default=0)
    if strange := [number for number in names if not 0 <= number < most]:
        raise CaptureError(f"dynamic_shapes has a dimension {strange[0]}, and no input has more than {most} dimensions")

    def of(leaf: Any) -> Any:
        dims = leaf.dim() if isinstance(leaf, Tensor) else 0
        return {number: name for number, name in names.items() if number < dims} or None

    return tuple(_pytree.tree_map(of, own) for own in inputs)


def _check(entry: Any, value: Any, where: str) -> None:
    """As far as the entries have the form of the inputs; torch.export says where they do not."""
    if isinstance(value, Tensor):
        pairs = entry.items() if isinstance(entry, Mapping) else enumerate(entry) if _is_row(entry) else ()
        for dimension, what in pairs:
            _check_dimension(dimension, what, value, where)
    elif isinstance(entry, Mapping) and isinstance(value, Mapping):
        for key in entry.keys() & value.keys():
            _check(entry[key], value[key], f"{where}[{key!r}]")
    elif _is_row(entry) and _is_row(value):
        for number, (own, part) in enumerate(zip(entry, value, strict=False)):
            _check(own, part, f"{where}[{number}]")


def _is_row(entry: Any) -> bool:
    return isinstance(entry, (list, tuple))


def _check_dimension(dimension: Any, what: Any, value: Tensor, where: str) -> None:
    if isinstance(what, str) and not what.isidentifier():
        raise CaptureError(
            f"dynamic_shapes calls dimension {dimension!r} of {where} {what!r}: a name is letters, digits, _"
        )
    if type(dimension) is not int or not 0 <= dimension < value.dim():
        raise CaptureError(
            f"dynamic_shapes has a dimension {dimension!r} of {where}, a tensor of {value.dim()} dimensions"
        )
    if (isinstance(what, (str, Dim)) or what == Dim.DYNAMIC) and value.shape[dimension] < 2:
        raise CaptureError(
            f"dimension {dimension} of {where} may change and is {value.shape[dimension]} in the example, and 0 and 1 "
            "are traced as fixed: give an example with at least 2 there"
        )


def _without_names(entry: Any) -> Any:
    if isinstance(entry, str):
        return Dim.DYNAMIC
    if isinstance(entry, Mapping):
        return {key: _without_names(own) for key, own in entry.items()}
    return type(entry)(map(_without_names, entry)) if type(entry) in (list, tuple) else entry
