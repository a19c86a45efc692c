"""One generated kernel: its text, what it is given, and what it is for."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

__all__ = ["Argument", "KernelSource"]

#: Of one program: with 32 a thread has 64 registers at most.
_MOST_WARPS = 16


@dataclass(frozen=True, slots=True)
class Argument:
    """A run-time argument of a kernel.

    Args:
        name: in its text.
        type: as Triton's signatures have it: ``*fp32``, ``*fp8e4nv``, ``*u8``, ``i32``, ``i64``, ``u32``, ``fp64``...
    """

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A Python module with one kernel, as text. Equal sources are equal kernels.

    The text begins with ``import triton`` and ``import triton.language as tl``; every function in it is decorated by
    ``@triton.jit``. Tile sizes are parameters annotated ``tl.constexpr``, so that one text serves several.

    Args:
        name: of the kernel function in the text.
        template: which template made it.
        text: the module.
        arguments: at run time, in order; they come before the constants.
        tile: values of the constexpr parameters, by name.
        num_warps: of one program.
        num_stages: of software pipelining.
        nodes: names of the graph's nodes that it computes.
        slots: in which it rounds.
        bytes: read and written by one run, at the sizes that it was made for.
        flops: likewise, of its products: two a multiply-add.
    """

    name: str
    template: str
    text: str
    arguments: tuple[Argument, ...]
    tile: Mapping[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    nodes: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    bytes: int = 0
    flops: int = 0

    def __hash__(self) -> int:
        """Of its text, which Python keeps: a source is looked up at each launch."""
        return hash((self.name, self.text))

    @property
    def digest(self) -> str:
        """Of its text, which names its file in the cache."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def variants(self) -> tuple["KernelSource", ...]:
        """The same with more warps, in fewer stages, with fewer warps: in this order tried where registers spill."""
        more = [own for own in (2 * self.num_warps, 4 * self.num_warps) if own <= _MOST_WARPS]
        return (
            *(replace(self, num_warps=own) for own in more),
            *(replace(self, num_stages=own) for own in reversed(range(1, self.num_stages))),
            *([replace(self, num_warps=self.num_warps // 2)] if self.num_warps > 1 else []),
        )

    def standing_for(self, nodes: tuple[str, ...], slots: tuple[str, ...]) -> "KernelSource":
        """Itself, with the nodes and slots of its group where it names none of its own."""
        return replace(self, nodes=self.nodes or nodes, slots=self.slots or slots)
