"""What a template makes of a group under the formats of one plan: kernels, and how they run one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule

from precc.accumulation.sums import Sums
from precc.backends.triton.device import Device
from precc.backends.triton.emit.live_numbers import STREAMS, WIDTH
from precc.backends.triton.kernel_source import KernelSource
from precc.fusion_group import FusionGroup, GroupKind
from precc.rounding import Row
from precc.rounding.random_bits import stream_state

__all__ = ["Built", "Group", "LiveRow", "Program", "Template"]


@dataclass(frozen=True, slots=True)
class LiveRow:
    """A row of a plan at run time.

    Args:
        row: the precision; None where the row is that of an accumulator.
        sums: the accumulator; None for the tensors' own arithmetic, and where the row is one of an operand.
        key: of the stochastic bits of this forward.
        slot: number of the slot.
        record: numbers of the amax history and of the forward that are to have the largest magnitude of what is
            rounded; None: none are.
        numbers: what kernels read of it as they run, on their device: `values`, kept up to date; None where there is
            no such memory.
        amax: where kernels put that magnitude, as the bits of float64; None where nothing is recorded.
    """

    row: Row | None
    sums: Sums | None
    key: int
    slot: int
    record: tuple[int, int] | None = None
    numbers: Tensor | None = None
    amax: Tensor | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """What kernels read: the static scale, and the states of the random streams, if any draws from them."""
        slot, scale = (self.slot, 1.0) if self.row is None else (self.row.slot, self.row.scale.value)
        if not any(own is not None and own.is_stochastic for own in (self.row, self.sums)):
            return (scale, *_NO_STREAMS)
        count = STREAMS if self.row is None else 2 if self.row.shift else 1  # a nested integer is rounded twice
        states = (float(half) for n in range(count) for half in stream_state(self.key, slot + n))
        return (scale, *states, *_NO_STREAMS[2 * count :])

    @property
    def records(self) -> bool:
        """Whether the largest magnitude of what is rounded is to be noted."""
        return self.record is not None

    def on(self, device: torch.device) -> Tensor:
        """These values in the memory of a device."""
        if self.numbers is not None and self.numbers.device == device:
            return self.numbers
        return torch.tensor(self.values, dtype=torch.float64, device=device)


_NO_STREAMS = (0.0,) * (WIDTH - 1)


#: The rows of a plan that a group reads, by their number in the plan.
Rows = Mapping[int, LiveRow]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A group of a graph.

    Args:
        record: its name, nodes and slots.
        module: its nodes as a graph of their own; values of nodes in ``meta["val"]`` (fake tensors, sizes may be
            symbols). The plan is one of its placeholders; precc.round, precc.pack, precc.unpack and the products with
            rounded sums name the rows that they read.
        backward: whether it is part of a backward graph.
    """

    record: FusionGroup
    module: GraphModule
    backward: bool


class Program(Protocol):
    """The kernels of one group under the formats of one plan, for tensors of some sizes."""

    @property
    def kernels(self) -> Sequence[KernelSource]:
        """In the order in which they run."""
        ...

    def __call__(self, args: Sequence[Any], rows: Rows) -> tuple[Tensor, ...]:
        """Run on these values of the group's placeholders, but for the plan's, which is `rows`."""
        ...


#: A program, or why there is none: a sentence that names the node or the format.
Built = Program | str


class Template(Protocol):
    """Makes programs for one kind of group."""

    @property
    def kind(self) -> GroupKind: ...

    def build(self, group: Group, args: Sequence[Any], rows: Rows, device: Device) -> Built:
        """The program of a group for arguments like these (real or fake tensors, integers) under these rows.

        What of a row only numbers differ in (static scales, keys, slots) is an argument of the kernels: one program
        serves all rows that are alike but for these.
        """
        ...
