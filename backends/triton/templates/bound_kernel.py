"""A kernel with the arguments that are the same in each of its runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from precc.backends.triton.kernel_source import KernelSource
from precc.backends.triton.load import launch

__all__ = ["BoundKernel"]


@dataclass(frozen=True, slots=True, eq=False)
class BoundKernel:
    """A kernel for tensors of some sizes: a run needs only what changes, pointers.

    Args:
        source: the kernel.
        grid: how many programs run.
        args: in order; None for those that a run gives.
        given: places of these, and their names.
    """

    source: KernelSource
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    given: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, source: KernelSource, grid: tuple[int, ...], fixed: Mapping[str, Any]) -> "BoundKernel":
        """With these arguments, by name; there may be more than the kernel takes."""
        names = [own.name for own in source.arguments]
        given = tuple((place, name) for place, name in enumerate(names) if name not in fixed)
        return cls(source, grid, tuple(map(fixed.get, names)), given)

    def __call__(self, values: Mapping[str, Any]) -> None:
        """Run it on the others, by name."""
        args = list(self.args)
        for place, name in self.given:
            args[place] = values[name]
        launch(self.source, self.grid, args)

    def takes(self, name: str) -> bool:
        """Whether a run gives an argument."""
        return any(own == name for _, own in self.given)
