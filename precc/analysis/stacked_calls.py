"""Many calls of functions of small tensors, made together: what such a call costs is not its numbers."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["StackedCalls", "kept"]

#: So many numbers wait at most: about what fits into a cache.
_MOST = 2**17

#: Bytes of a storage that is held for the sake of a part of it.
_LARGE = 2**18


@dataclass(slots=True, eq=False)
class StackedCalls:
    """Makes one call of all that differ in the elements of tensors alone, stacked along a new first dimension.

    >>> calls = StackedCalls()
    >>> double = lambda x, by: (by * x).sum(1).tolist()
    >>> places = [calls.add(double, (torch.ones(3) * own, 2.0)) for own in (1, 2)]
    >>> [calls.results()[place] for place in places]
    [6.0, 12.0]
    """

    _stacks: dict[Hashable, "_Stack"] = field(default_factory=dict)
    _results: list[Any] = field(default_factory=list)

    def add(self, function: Callable[..., Sequence[Any]], args: tuple[Any, ...], **kwargs: Any) -> int:
        """Call a function some time, which answers one result for each of the stacked: the place of this one's.

        The tensors must not change until then; of numbers in a much larger tensor a copy is kept.
        """
        row, kinds, numbers = [], [], 0
        for own in args:
            if isinstance(own, Tensor):
                own = kept(own)
                kinds.append((own.shape, own.dtype, own.device))
                numbers = max(numbers, own.numel())
            else:
                kinds.append(tuple(own) if isinstance(own, list) else own)
            row.append(own)
        key = (function, *kinds, *kwargs.items())
        stack = self._stacks.get(key)
        if stack is None:
            stack = self._stacks[key] = _Stack(function, kwargs)
        place = len(self._results)
        self._results.append(None)
        stack.rows.append(row)
        stack.places.append(place)
        stack.numbers += numbers
        if stack.numbers >= _MOST:
            self._call(self._stacks.pop(key))
        return place

    def results(self) -> Sequence[Any]:
        """Of all calls, in order."""
        for stack in self._stacks.values():
            self._call(stack)
        self._stacks.clear()
        return self._results

    def _call(self, stack: "_Stack") -> None:
        for place, result in zip(stack.places, stack.call(), strict=True):
            self._results[place] = result


@dataclass(slots=True, eq=False)
class _Stack:
    """Calls that wait for each other."""

    function: Callable[..., Sequence[Any]]
    kwargs: dict[str, Any]
    rows: list[list[Any]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    numbers: int = 0

    @torch.no_grad()
    def call(self) -> Sequence[Any]:
        columns = zip(*self.rows, strict=True)
        args = [torch.stack(own) if isinstance(own[0], Tensor) else own[0] for own in columns]
        return self.function(*args, **self.kwargs)


def kept(x: Tensor) -> Tensor:
    """To be held: without a graph, and without what else its storage holds, if that is much."""
    if x.requires_grad:
        x = x.detach()
    held = x.untyped_storage().nbytes()
    return x if held <= _LARGE or held <= 8 * x.nbytes else x.clone()
