"""The live plan of one graph: its rows, read once a plan, and their numbers where kernels read them."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from precc.backends.triton.emit.live_numbers import WIDTH
from precc.backends.triton.live_rows import RowsRead, live_rows
from precc.backends.triton.program import Rows
from precc.errors import BackendError

__all__ = ["LivePlan", "is_capturing"]


def is_capturing(device: torch.device) -> bool:
    """Whether what runs on a device is captured as a CUDA graph, to be run again without Python."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@dataclass(eq=False)
class LivePlan:
    """The rows that the groups of a graph read, with memory for their numbers on each device that they ran on.

    The memory stays where it is: kernels of a CUDA graph that was captured under one plan find the numbers of the next
    there, if the plans differ in numbers alone. Each thread has its own, as forwards differ in theirs.

    Args:
        read: numbers of the rows.
    """

    read: RowsRead
    _parsed: tuple[Tensor, Rows] | None = None
    _memories: dict[tuple[torch.device, int], "_Memory"] = field(default_factory=dict)

    @classmethod
    def of(cls, read: Iterable[RowsRead]) -> "LivePlan":
        """What several groups read."""
        own = list(read)
        operands, sums = (
            dict.fromkeys(n for rows in own for n in getattr(rows, name)) for name in ("operands", "sums")
        )
        return cls(RowsRead(tuple(operands), tuple(sums)))

    def rows(self, plan: Tensor, device: torch.device) -> Rows:
        """The rows, with their numbers on a device; the same object as long as the plan is the same tensor.

        Raises:
            BackendError: a CUDA graph is being captured, and the plan is not that of the forward before.
        """
        key = device, threading.get_ident()
        if key not in self._memories:
            numbers = torch.zeros(max(1, len(self.read.operands) + len(self.read.sums)), WIDTH, dtype=torch.float64)
            self._memories[key] = _Memory(numbers.to(device))
        return self._memories[key].rows(plan, self.parsed(plan))

    def parsed(self, plan: Tensor) -> Rows:
        """The rows, without memory."""
        last = self._parsed
        if last is None or last[0] is not plan:
            self._parsed = last = plan, live_rows(self.read, plan)
        return last[1]

    def renew(self, plan: Tensor) -> None:
        """Write the numbers of a plan where the kernels of CUDA graphs find them.

        Forwards find theirs themselves: one that runs in another thread meanwhile is under the plan before.
        """
        for own in list(self._memories.values()):
            if own.was_captured:
                own.rows(plan, self.parsed(plan))


@dataclass(eq=False)
class _Memory:
    """Of one device and thread: one row of numbers for each of the plan's."""

    numbers: Tensor
    was_captured: bool = False
    _current: tuple[Tensor, Rows] | None = None

    def rows(self, plan: Tensor, parsed: Rows) -> Rows:
        self.was_captured |= is_capturing(self.numbers.device)
        current = self._current
        if current is None or current[0] is not plan:
            self._current = current = plan, self._written(parsed)
        return current[1]

    def _written(self, parsed: Rows) -> Rows:
        if not parsed:
            return parsed
        if is_capturing(self.numbers.device):
            raise BackendError(
                "a CUDA graph is being captured under a plan that is new in this forward: run the step once before, "
                "under a plan that rounds to nearest, without delayed scales: its numbers are the same in each forward"
            )
        self.numbers.copy_(torch.tensor([own.values for own in parsed.values()], dtype=torch.float64))
        with_memory = {number: replace(own, numbers=self.numbers[n]) for n, (number, own) in enumerate(parsed.items())}
        if any(own.records for own in parsed.values()):
            amax = torch.zeros(len(parsed), dtype=torch.int64, device=self.numbers.device)
            own = zip(with_memory.items(), amax.split(1), strict=True)
            return {number: replace(row, amax=amax if row.records else None) for (number, row), amax in own}
        return with_memory
