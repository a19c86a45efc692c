"""A graph that runs by generated kernels: its groups, and what runs between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from precc.backends.triton.live_plan import LivePlan
from precc.backends.triton.running_group import RunningGroup
from precc.kernel_listing import KernelListing, Remaining
from precc.protocols import BoxedCallable

__all__ = ["CompiledGraph"]


@dataclass(frozen=True, slots=True)
class CompiledGraph:
    """Takes its arguments as one list, as other compiled graphs do, and knows its kernels.

    Args:
        run: the graph.
        groups: those in it, in the order in which they run.
        live: the plan that they read.
        remaining: nodes that round or multiply without a kernel, in no group.
    """

    run: BoxedCallable
    groups: tuple[RunningGroup, ...]
    live: LivePlan
    remaining: tuple[Remaining, ...]

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        return self.run(args)

    def prepare(self, plan: Tensor) -> None:
        """Have the kernels for the live tensor of a plan, for all sizes that have been seen."""
        rows = self.live.parsed(plan)
        for group in self.groups:
            group.prepare(rows)
        self.live.renew(plan)

    def listing(self) -> KernelListing:
        """The kernels of the last run."""
        found = KernelListing((), self.remaining)
        for group in self.groups:
            found = found + group.listing()
        return found
