"""What generated kernels a net runs by, and what it computes without them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from precc.table_text import table_text

__all__ = ["KernelListing", "ListedKernel", "Remaining"]


@dataclass(frozen=True, slots=True)
class ListedKernel:
    """One kernel.

    Args:
        name: of the function, after what it computes.
        template: what made it.
        half: ``"forward"`` or ``"backward"``.
        nodes: names of the graph's nodes that it computes.
        slots: in which it rounds.
        tile: sizes of the block that one program computes, by name.
        num_warps: of one program.
        num_stages: of software pipelining.
        bytes: read and written by one run.
        flops: of its products: two a multiply-add.
        text: its source, a Python module.
        path: where that is written.
    """

    name: str
    template: str
    half: str
    nodes: tuple[str, ...]
    slots: tuple[str, ...]
    tile: Mapping[str, int]
    num_warps: int
    num_stages: int
    bytes: int
    flops: int
    text: str
    path: Path


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is computed without a kernel of precc's own.

    Args:
        name: of a node or a group of nodes.
        half: ``"forward"`` or ``"backward"``.
        reason: why.
    """

    name: str
    half: str
    reason: str


@dataclass(frozen=True, slots=True)
class KernelListing:
    """The kernels of a net's graphs under its plan, as far as they have run, and what remains.

    Args:
        kernels: in the order in which they run, the forward's first.
        remaining: what other code computes, with the reasons.
    """

    kernels: tuple[ListedKernel, ...] = ()
    remaining: tuple[Remaining, ...] = ()

    @property
    def sources(self) -> dict[str, str]:
        """The text of each kernel, by its name."""
        return {kernel.name: kernel.text for kernel in self.kernels}

    def __add__(self, other: "KernelListing") -> "KernelListing":
        return KernelListing(self.kernels + other.kernels, self.remaining + other.remaining)

    def __str__(self) -> str:
        table = Table("kernel", "template", "half", "slots", "tile", "bytes", "source", box=SIMPLE)
        for own in self.kernels:
            tile = " ".join(f"{name}={size}" for name, size in own.tile.items())
            cells = (own.name, own.template, own.half, "\n".join(own.slots), tile, f"{own.bytes:,}", str(own.path))
            table.add_row(*cells)
        lines = [table_text(table)] if self.kernels else ["no kernels"]
        left = [f"{own.half} {own.name}: {own.reason}" for own in self.remaining]
        return "\n".join([*lines, *(["without a kernel:", *left] if left else [])])
