"""What the compiler says of a kernel."""

from dataclasses import dataclass

__all__ = ["CompiledFacts"]


@dataclass(frozen=True, slots=True)
class CompiledFacts:
    """A kernel after ``ptxas``.

    Args:
        registers: of 32 bits, a thread.
        spills: bytes a thread of registers that did not fit, written to memory and read again.
        shared_memory: bytes of one program.
        instructions: the distinct opcodes of PTX that multiply matrices, in full, sorted: ``wgmma.mma_async...``.
        ptx: the text.
        num_warps, num_stages: with which it was compiled: those of the kernel, or of the variant that does not spill.
    """

    registers: int
    spills: int
    shared_memory: int
    instructions: tuple[str, ...]
    ptx: str
    num_warps: int
    num_stages: int
